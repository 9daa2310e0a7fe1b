"""Tells services that they claim one route: the one that gets no requests of it sees that in its own log.

Every announcement can make conflicts, so the notices are bounded. A loser is told of itself alone, the winner of a few
losers. Each service gets one notice a second at most, with the conflicts as they are by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from msgspec.structs import replace

from mesh import messages
from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.messages import BadMessage, Conflicts, RouteConflict
from mesh.registry import Change

MOST = 20
"""Conflicts named in one message; `mesh routes` shows all of them."""
LOSERS = 10
"""Losers of a conflict that its winner is told by name; of the others it is told how many they are."""
PAUSE_S = 1.0
"""Seconds between two rounds of messages."""
SERVICES = 100
"""Messages of one round. Whoever is not told in this one is told in a later one."""
QUEUE = 4096
"""While so many wait to be told, a new instance of a service in a conflict is not told by itself."""

_log = logging.getLogger("mesh.gateway")

Identity = tuple[str, str, str, str]


class ConflictNotices:
    """Tells every instance of the services in a conflict when it begins and ends, and those that join meanwhile."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._current: dict[Identity, RouteConflict] = {}  # the oldest first
        self._told: dict[str, list[RouteConflict]] = {}  # by service, as it was told of them
        self._due: dict[tuple[str, str], None] = {}  # services and instances that wait to be told, in their order
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, begun: Sequence[RouteConflict], over: Sequence[RouteConflict]) -> None:
        """These conflicts began, and those are over. One whose losers change is in both, as it is now and as it was."""
        for conflict in begun:
            self._current[_identity(conflict)] = conflict
        for conflict in over:
            if self._current.get(_identity(conflict)) == conflict:
                del self._current[_identity(conflict)]
        self._tell_later((service, "") for conflict in (*begun, *over) for service in _parties(conflict))

    def joined(self, changes: Sequence[Change]) -> None:
        """Tell instances that are new to a service that is in a conflict already."""
        joined = [c for c in changes if c.kind == "joined" and c.service in self._told]
        self._tell_later((c.service, c.instance) for c in joined[: max(0, QUEUE - len(self._due))])

    def _tell_later(self, parties: Iterable[tuple[str, str]]) -> None:
        self._due.update(dict.fromkeys(parties))
        if self._timer is None:
            self._tell_due()

    def _tell_due(self) -> None:
        self._timer = None
        due = list(islice(self._due, SERVICES))
        if not due:
            return
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._tell_due)
        current = self._as_told({service for service, _ in due})
        for service, instance in due:
            del self._due[service, instance]
            begun, over = current[service], []
            if not instance:
                told, going_on = self._told.pop(service, []), {_identity(conflict) for conflict in begun}
                over = [conflict for conflict in told if _identity(conflict) not in going_on]
                if begun:
                    self._told[service] = begun
                begun = [conflict for conflict in begun if conflict not in told]
            if begun or over:
                self._tell(service, instance, begun, over)

    def _as_told(self, services: Collection[str]) -> dict[str, list[RouteConflict]]:
        """Of each service the oldest conflicts that it is in, as it is told of them."""
        found: dict[str, list[RouteConflict]] = {service: [] for service in services}
        wanted = set(services)
        for conflict in self._current.values():
            for service in wanted.intersection(_parties(conflict)):
                found[service].append(_as_told(conflict, service))
                if len(found[service]) == MOST:
                    wanted.discard(service)
            if not wanted:
                break
        return found

    def _tell(self, service: str, instance: str, begun: Sequence[RouteConflict], over: Sequence[RouteConflict]) -> None:
        subject = self._bus.subjects.control("conflicts", service, instance)
        try:
            data = messages.encode(Conflicts(begun=tuple(begun), over=tuple(over)))
            self._bus.publish(self._bus.address(subject), data)
        except (MeshError, BadMessage) as error:  # this gateway's own log has them
            _log.debug("%s is not told of its conflicts: %s", service, error)


def _identity(conflict: RouteConflict) -> Identity:
    """What stays the same while losers come and go."""
    return conflict.method, conflict.path, conflict.winner, conflict.why


def _parties(conflict: RouteConflict) -> tuple[str, ...]:
    return conflict.winner, *conflict.losers


def _as_told(conflict: RouteConflict, service: str) -> RouteConflict:
    if service != conflict.winner:
        return replace(conflict, losers=(service,))
    return replace(conflict, losers=conflict.losers[:LOSERS], more=max(0, len(conflict.losers) - LOSERS))
