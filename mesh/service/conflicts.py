"""Logs what gateways say of routes that this service and others claim: each conflict once, whoever tells of it."""

from __future__ import annotations

import logging

from mesh import conflicts, messages
from mesh.messages import Conflict

MOST = 200
"""Conflicts that are remembered as told; who sends more is no gateway."""

_log = logging.getLogger("mesh.service")


class ConflictLog:
    def __init__(self, service: str) -> None:
        self._service = service
        self._told: set[Conflict] = set()

    def take(self, payload: bytes) -> None:
        """Take in the message of a gateway; one that cannot be read, or speaks of others, is left out."""
        notice = messages.decode_conflicts(payload)
        if notice is None:
            return
        for conflict in notice.begun:
            lost = self._service in conflict.losers
            known = conflict in self._told or len(self._told) >= MOST
            if not known and (lost or self._service == conflict.winner):
                self._told.add(conflict)
                _log.warning("%s", conflicts.told(conflict, self._service))
        for conflict in notice.over:
            if conflict in self._told:
                self._told.discard(conflict)
                _log.info("%s %s: the conflict is over", conflict.method, conflict.path)
