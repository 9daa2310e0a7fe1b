"""Logs what gateways say of routes that this service and others claim: each conflict once, whoever tells of it."""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic

from mesh import conflict_texts, messages
from mesh.messages import RouteConflict

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
        self._told: dict[RouteConflict, float] = {}  # with the moment, the oldest first
        self._lines: deque[float] = deque(maxlen=LINES)

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
            if self._told.pop(conflict, None) is not None and self._may_say(now):
                _log.info("%s %s: the conflict is over", conflict.method, conflict.path)

    def _begun(self, conflict: RouteConflict, now: float) -> None:
        told = self._told.pop(conflict, None)
        self._told[conflict] = now
        if told is not None and now - told < AGAIN_S:
            return
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]
        if self._may_say(now):
            _log.warning("%s", conflict_texts.told(conflict, self._service))

    def _may_say(self, now: float) -> bool:
        if len(self._lines) == LINES and now - self._lines[0] < AGAIN_S:
            return False
        self._lines.append(now)
        return True
