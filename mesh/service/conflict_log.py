"""Logs route conflicts of this service, which gateways report: each conflict once, from whichever gateway."""

from __future__ import annotations

import logging
from time import monotonic

from mesh import conflict_texts, messages
from mesh.logs import LimitedLog
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
        self._told: dict[RouteConflict, float] = {}  # logged ones, with the moment of the last report, oldest first
        what = "lines about route conflicts ('mesh routes' shows all conflicts)"
        self._log = LimitedLog(_log, LINES, AGAIN_S, what)

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
            if self._told.pop(conflict, None) is not None:
                self._log.write(now, logging.INFO, "%s %s: the conflict is over", conflict.method, conflict.path)

    def _begun(self, conflict: RouteConflict, now: float) -> None:
        told = self._told.pop(conflict, None)
        if told is None or now - told >= AGAIN_S:
            text = conflict_texts.told(conflict, self._service)
            if not self._log.write(now, logging.WARNING, "%s", text):
                return  # so that it is logged when it is told again
        self._told[conflict] = now
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]
