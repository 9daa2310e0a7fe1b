"""The live route table: what the registry knows, as routes.

How a change of the registry gets into the table:

1. A watcher tells of a change. If the change can concern routes (`ROUTE_CHANGES`), its service has news.
2. The first news starts a build at once. Further news waits 0.1 s and is handled together (`Coalescer`). So a rollout
   of a thousand instances makes ten builds a second and not a thousand.
3. A build makes a new table out of the present one, service by service. It is a generator (`Steps`), which stops after
   every few routes.
4. The event loop runs a build for `TURN_S` at a time. Requests are served between two turns, with the old table.
5. Services that have news during a build are due in the next one, which starts when this one ends.
6. At the end of a build its table replaces the old one in one assignment: a reader needs no lock.
7. If the routes of one service raise an exception, that service keeps the routes it had. The other services of that
   build are due again, because their part was in the table that is now thrown away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter
from typing import Final

from mesh.coalesce import Coalescer
from mesh.conflict_texts import sentence
from mesh.logs import LimitedLog
from mesh.messages import RouteConflict
from mesh.registry import Change
from mesh.routes import RouteTable, Steps
from mesh.watcher import Watcher

TURN_S: Final = 0.002
"""Seconds for which a build may hold the event loop: what a request that comes meanwhile waits at most."""
ROUTE_CHANGES: Final = frozenset({"joined", "changed", "claimed", "lost", "left"})
"""The kinds of changes that can concern routes; of the others the table knows nothing."""
_NO_SERVICE = ""  # stands for remembered routes whose time is over; names of services are never empty

_log = logging.getLogger("mesh.routes")
CONFLICT_LINES: Final = 200
"""Lines about conflicts in `CONFLICT_LINES_S`: every client that announces routes can cause them."""
CONFLICT_LINES_S: Final = 60.0


class LiveRoutes:
    """Keeps ``table`` in step with the registry of a watcher, as the steps above describe.

    watcher: the source of changes
    owners: service by path prefix; other services are refused there
    reserved: paths of the gateway itself, which no service gets
    on_conflicts: called with the conflicts that begin and those that end
    """

    def __init__(
        self,
        watcher: Watcher,
        *,
        owners: Mapping[str, str] | None = None,
        reserved: Collection[str] = (),
        on_conflicts: Callable[[Sequence[RouteConflict], Sequence[RouteConflict]], None] | None = None,
    ) -> None:
        self.table = RouteTable(owners or {}, reserved)
        self._watcher = watcher
        self._on_conflicts = on_conflicts
        self._conflicts: set[RouteConflict] = set()
        self._log_conflict = LimitedLog(_log, CONFLICT_LINES, CONFLICT_LINES_S, "lines about route conflicts").write
        self._news = Coalescer(self._start_build)
        self._due: set[str] = set()
        """Services for the next build."""
        self._build: Steps[None] | None = None
        """The build that is running."""
        self._services: set[str] = set()
        """Services of the running build."""
        self._service = _NO_SERVICE
        """The service whose routes the running build reads."""
        watcher.on_change(self._changed)

    @property
    def conflicts(self) -> Sequence[RouteConflict]:
        """The routes that several services announce, by path and method."""
        return self.table.conflicts

    @property
    def behind(self) -> bool:
        """True if the registry knows something that is not in the table yet."""
        return self._news.pending or self._build is not None

    def expire(self) -> None:
        """Forget the remembered routes whose time is over."""
        self._news.add([_NO_SERVICE])

    async def caught_up(self) -> None:
        """Return when all that the registry knows is in the table: for a request whose route was not found."""
        self._news.flush()
        while self._build is not None:  # noqa: ASYNC110 - each turn of the event loop does a part of it
            await asyncio.sleep(0)

    def update_now(self) -> None:
        """Take in all that the registry knows, without a pause for requests."""
        self._news.flush()
        while self._build is not None:
            self._step()

    # -- the steps described above

    def _changed(self, changes: Sequence[Change]) -> None:
        self._news.add(change.service for change in changes if change.kind in ROUTE_CHANGES)

    def _start_build(self, services: Collection[str]) -> None:
        self._due.update(services)
        if self._build is None:
            self._build = self._build_table()
            self._take_turn()

    def _take_turn(self) -> None:
        until = perf_counter() + TURN_S
        while self._build is not None and perf_counter() < until:
            self._step()
        if self._build is not None:
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _step(self) -> None:
        assert self._build is not None
        try:
            next(self._build)
            return
        except StopIteration:
            pass
        except Exception:
            _log.exception("the routes of %r could not be taken in", self._service)
            if self._service != _NO_SERVICE:
                self._due |= self._services - {self._service}
        self._build = self._build_table() if self._due else None

    def _build_table(self) -> Steps[None]:
        """One build: a table with the services that are due."""
        registry, now = self._watcher.registry, self._watcher.now
        self._services, self._due = self._due, set()
        self._service = _NO_SERVICE
        table = yield from self.table.expiring(now)
        for service in sorted(self._services - {_NO_SERVICE}):
            self._service = service
            table = yield from table.replacing(service, registry.claimed_routes(service), now)
            yield
        self._service = _NO_SERVICE
        if table is not self.table:
            self.table = table
            self._tell_conflicts(table)

    def _tell_conflicts(self, table: RouteTable) -> None:
        """Log and report the conflicts that begin and end with this table."""
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


def _order(conflict: RouteConflict) -> tuple[str, str]:
    return conflict.path, conflict.method
