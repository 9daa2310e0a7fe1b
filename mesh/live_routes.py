"""The live route table: what the registry knows, as routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter

from mesh.coalesce import Coalesced
from mesh.conflict_texts import sentence
from mesh.logs import LimitedLog
from mesh.messages import Conflict
from mesh.registry import Change
from mesh.routes import RouteTable, Steps
from mesh.watcher import Watcher

_log = logging.getLogger("mesh.routes")
SLICE_S = 0.002
CONFLICT_LINES = 200
"""Lines about conflicts in `CONFLICT_LINES_S`; anybody who announces routes can cause them."""
CONFLICT_LINES_S = 60.0
_NOBODY = ""  # for work that is nobody's in particular: names are never empty
_CONTENT = frozenset({"joined", "changed", "claimed", "lost", "left"})


class LiveRoutes:
    """Follows a watcher; ``table`` is replaced as a whole, so a reader needs no lock.

    The first change is taken in at once, what follows it together, ten times a second at most, and in slices that
    hold up no request: a service with thousands of routes takes as many turns of the event loop as it needs.

    ``on_conflicts(begun, over)`` is called with the routes that two services begin to claim, and with those that one of
    them claims no more.
    """

    def __init__(
        self,
        watcher: Watcher,
        *,
        owners: Mapping[str, str] | None = None,
        reserved: Collection[str] = (),
        on_conflicts: Callable[[Sequence[Conflict], Sequence[Conflict]], None] | None = None,
    ) -> None:
        self.table = RouteTable(owners or {}, reserved)
        self._watcher = watcher
        self._on_conflicts = on_conflicts
        self._conflicts: set[Conflict] = set()
        self._log_conflict = LimitedLog(_log, CONFLICT_LINES, CONFLICT_LINES_S, "lines about route conflicts").write
        self._news = Coalesced(self._rebuild)
        self._due: set[str] = set()
        self._building: set[str] = set()
        self._reading = _NOBODY
        self._steps: Steps[None] | None = None
        watcher.on_change(self._changed)

    @property
    def conflicts(self) -> Sequence[Conflict]:
        return self.table.conflicts

    def expire(self) -> None:
        """Forget remembered routes that are due."""
        self._news.add([_NOBODY])

    @property
    def behind(self) -> bool:
        """Whether something that the registry knows is not in the table yet."""
        return self._news.pending or self._steps is not None

    async def caught_up(self) -> None:
        """Return when what is known by now is in the table: for a request whose route was not found."""
        self._news.flush()
        while self._steps is not None:  # noqa: ASYNC110 - each turn of the event loop does a slice of it
            await asyncio.sleep(0)

    def settle(self) -> None:
        """Take in now what is known already, however long it takes."""
        self._news.flush()
        while self._steps is not None:
            self._step()

    def _changed(self, changes: Sequence[Change]) -> None:
        self._news.add(change.service for change in changes if change.kind in _CONTENT)

    def _rebuild(self, services: Collection[str]) -> None:
        self._due.update(services)
        if self._steps is None:
            self._steps = self._build()
            self._go_on()

    def _go_on(self) -> None:
        """Work for a moment; requests get their turn before the next one."""
        self._work()
        if self._steps is not None:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _work(self) -> None:
        until = perf_counter() + SLICE_S
        while self._steps is not None and perf_counter() < until:
            self._step()

    def _step(self) -> None:
        assert self._steps is not None
        try:
            next(self._steps)
        except StopIteration:
            self._steps = self._build() if self._due else None
        except Exception:
            # Of this service the table keeps what it had. All the others are due again: their work was on the table
            # that is not finished.
            _log.exception("the routes of %r could not be taken in", self._reading)
            if self._reading != _NOBODY:
                self._due |= self._building - {self._reading}
            self._steps = self._build() if self._due else None

    def _build(self) -> Steps[None]:
        """A table with what is due, swapped in when it is complete."""
        registry, now = self._watcher.registry, self._watcher.now
        due, self._due = self._due, set()
        self._building, self._reading = due, _NOBODY
        table = yield from self.table.expiring(now)
        for service in sorted(due - {_NOBODY}):
            self._reading = service
            table = yield from table.replacing(service, registry.announced(service), now)
            yield
        self._building, self._reading = set(), _NOBODY
        if table is not self.table:
            self.table = table
            self._compare(table)

    def _compare(self, table: RouteTable) -> None:
        """Say which conflicts begin and end."""
        conflicts = set(table.conflicts)
        begun, over = sorted(conflicts - self._conflicts, key=_order), sorted(self._conflicts - conflicts, key=_order)
        self._conflicts = conflicts
        now = perf_counter()
        for conflict in begun:
            self._log_conflict(now, logging.WARNING, "route conflict: %s", sentence(conflict))
        for conflict in over:
            self._log_conflict(now, logging.INFO, "route conflict over: %s %s", conflict.method, conflict.path)
        if self._on_conflicts is not None and (begun or over):
            try:
                self._on_conflicts(begun, over)
            except Exception:
                _log.exception("a listener of route conflicts failed")


def _order(conflict: Conflict) -> tuple[str, str]:
    return conflict.path, conflict.method
