"""Logs what gateways say of routes that this service and others claim: each conflict once, whoever tells of it."""

from __future__ import annotations

import logging
from time import monotonic

from mesh import conflict_texts, messages
from mesh.logs import LimitedLog
from mesh.messages import Conflict

MOST = 200
"""Conflicts that are remembered as told."""
AGAIN_S = 600.0
"""After so long a conflict is logged again when it begins again: the gateway that told of it may have died since."""
LINES = 60
"""Lines in `AGAIN_S`; somebody who tells of more, or of ends and beginnings without end, is no gateway."""

_log = logging.getLogger("mesh.service")


class ConflictLog:
    def __init__(self, service: str) -> None:
        self._service = service
        self._told: dict[Conflict, float] = {}  # what was logged, with the moment when it was last told, oldest first
        what = "lines about route conflicts ('mesh routes' shows all conflicts)"
        self._log = LimitedLog(_log, LINES, AGAIN_S, what)

    def take(self, payload: bytes) -> None:
        """Take in the message of a gateway; one that cannot be read, or speaks of others, is left out."""
        notice = messages.decode_conflicts(payload)
        if notice is None:
            return
        now = monotonic()
        for conflict in notice.begun:
            if self._service == conflict.winner or self._service in conflict.losers:
                self._begun(conflict, now)
        for conflict in notice.over:
            if self._told.pop(conflict, None) is not None:
                self._log.write(now, logging.INFO, "%s %s: the conflict is over", conflict.method, conflict.path)

    def _begun(self, conflict: Conflict, now: float) -> None:
        told = self._told.pop(conflict, None)
        if told is None or now - told >= AGAIN_S:
            text = conflict_texts.told(conflict, self._service)
            if not self._log.write(now, logging.WARNING, "%s", text):
                return  # so that it is logged when it is told again
        self._told[conflict] = now
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]
