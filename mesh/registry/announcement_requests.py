"""Asking an instance to announce again, until it did: at once, then less and less often."""

from __future__ import annotations

import random
from typing import Final

from mesh.messages import Heartbeat

FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 60.0
SPREAD: Final = 0.2
"""Part of a wait that is added at random, so that the watchers of one instance do not ask in lockstep."""


class AnnouncementRequest:
    """One instance that owes an announcement: an unknown one, or one whose heartbeat told of another revision."""

    __slots__ = ("_wait", "due", "id", "latest", "open", "seen", "service")

    def __init__(self, service: str, instance: str, now: float, latest: Heartbeat | None = None) -> None:
        self.service = service
        self.id = instance
        self.latest = latest
        """The heartbeat with the highest ``seq`` of an instance that is not known yet; None for a known one."""
        self.seen = now
        """Liveness time of ``latest``."""
        self.open = True
        self.due = now
        self._wait = FIRST_WAIT_S

    def next(self, now: float, rng: random.Random) -> float:
        """When to ask again after having asked at ``now``; the wait doubles each time."""
        wait = min(LONGEST_WAIT_S, self._wait * (1 + SPREAD * rng.random()))
        self._wait = min(LONGEST_WAIT_S, 2 * self._wait)
        return now + wait

    def restart(self, now: float) -> None:
        """Begin anew: what was asked before may never have arrived."""
        self.seen = now
        self._wait = FIRST_WAIT_S
