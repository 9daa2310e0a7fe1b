"""Logs route conflicts of this service, which gateways report: each conflict once, from whichever gateway."""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic

from mesh import conflict_texts, messages
from mesh.messages import RouteConflict

MOST = 200
"""Conflicts that are remembered as logged."""
AGAIN_S = 600.0
"""Seconds after which a conflict that is reported again is logged again: a gateway that died reports no end."""
LINES = 60
"""Log lines in `AGAIN_S` seconds; no gateway reports more."""

_log = logging.getLogger("mesh.service")


class ConflictLog:
    def __init__(self, service: str) -> None:
        self._service = service
        self._told: dict[RouteConflict, float] = {}  # with the moment, the oldest first
        self._lines: deque[float] = deque(maxlen=LINES)

    def take(self, payload: bytes) -> None:
        """Take a gateway's message; ignores one that cannot be read, and conflicts between other services."""
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
