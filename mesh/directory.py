"""The live route table: what the registry knows, as routes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from mesh.registry import Change
from mesh.routes import Conflict, RouteTable
from mesh.watcher import Watcher

_log = logging.getLogger("mesh.directory")
_CONTENT = frozenset({"joined", "changed", "lost", "left"})


class Directory:
    """Follows a watcher; ``table`` is replaced as a whole, so a reader needs no lock.

    ``on_conflict(conflict, True)`` is called when two services begin to claim one route, ``False`` when that ends.
    """

    def __init__(
        self,
        watcher: Watcher,
        *,
        owners: Mapping[str, str] | None = None,
        reserved: Collection[str] = (),
        on_conflict: Callable[[Conflict, bool], None] | None = None,
    ) -> None:
        self.table = RouteTable(owners or {}, reserved)
        self._watcher = watcher
        self._on_conflict = on_conflict
        self._conflicts: set[Conflict] = set()
        watcher.on_change(self._changed)

    @property
    def conflicts(self) -> Sequence[Conflict]:
        return self.table.conflicts

    def expire(self) -> None:
        """Forget remembered routes that are due."""
        self.table = self.table.expire(self._watcher.now)

    def _changed(self, changes: Sequence[Change]) -> None:
        services = {change.service for change in changes if change.kind in _CONTENT}
        if not services:
            return
        registry, now = self._watcher.registry, self._watcher.now
        table = self.table.expire(now)
        for service in services:
            table = table.replace(service, registry.contents(service), now)
        if table is self.table:
            return
        self.table = table
        conflicts = set(table.conflicts)
        for conflict in sorted(conflicts - self._conflicts, key=_order):
            _log.warning(
                "route conflict: %s %s is served by %s and claimed by %s too",
                conflict.method,
                conflict.path,
                conflict.winner,
                ", ".join(conflict.losers),
            )
            self._tell(conflict, True)
        for conflict in sorted(self._conflicts - conflicts, key=_order):
            _log.info("route conflict over: %s %s", conflict.method, conflict.path)
            self._tell(conflict, False)
        self._conflicts = conflicts

    def _tell(self, conflict: Conflict, begins: bool) -> None:
        if self._on_conflict is not None:
            self._on_conflict(conflict, begins)


def _order(conflict: Conflict) -> tuple[str, str]:
    return conflict.path, conflict.method
