"""Tells services that they claim one route: the one that gets no requests of it sees that in its own log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from mesh import messages
from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.messages import Conflicts, RouteConflict
from mesh.registry import Change

MOST = 20
"""Conflicts named in one message; `mesh routes` shows all of them."""

_log = logging.getLogger("mesh.gateway")


class ConflictNotices:
    """Tells every instance of the services in a conflict when it begins and ends, and those that join meanwhile."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._current: set[RouteConflict] = set()

    def changed(self, begun: Sequence[RouteConflict], over: Sequence[RouteConflict]) -> None:
        """These conflicts began, and those are over."""
        self._current = (self._current | set(begun)) - set(over)
        for service in sorted({*_parties(begun), *_parties(over)}):
            self._tell(service, "", _of(service, begun), _of(service, over))

    def joined(self, changes: Sequence[Change]) -> None:
        """Tell instances that are new to a service that is in a conflict already."""
        for change in changes:
            if change.kind == "joined":
                begun = _of(change.service, self._current)
                if begun:
                    self._tell(change.service, change.instance, begun, ())

    def _tell(self, service: str, instance: str, begun: Sequence[RouteConflict], over: Sequence[RouteConflict]) -> None:
        subject = self._bus.subjects.control("conflicts", service, instance)
        message = Conflicts(begun=tuple(begun[:MOST]), over=tuple(over[:MOST]))
        try:
            self._bus.publish(self._bus.address(subject), messages.encode(message))
        except MeshError as error:  # this gateway's own log has them
            _log.debug("%s is not told of its conflicts: %s", service, error)


def _parties(conflicts: Iterable[RouteConflict]) -> set[str]:
    return {service for conflict in conflicts for service in (conflict.winner, *conflict.losers)}


def _of(service: str, conflicts: Iterable[RouteConflict]) -> list[RouteConflict]:
    return [conflict for conflict in conflicts if service == conflict.winner or service in conflict.losers]
