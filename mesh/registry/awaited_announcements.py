"""An announcement that one instance owes: it is asked for at once, then less and less often, until it comes."""

from __future__ import annotations

import random
from typing import Final

from mesh.messages import Heartbeat

FIRST_WAIT_S: Final = 2.0
"""Seconds between the first and the second request; each further wait is twice as long."""
LONGEST_WAIT_S: Final = 60.0
"""Seconds of the longest wait: an instance that does not answer costs one message a minute."""
JITTER: Final = 0.2
"""Part of a wait that is added at random, so that the watchers of one instance do not ask in lockstep."""


class AwaitedAnnouncement:
    """The announcement of an instance that is unknown, or whose heartbeat spoke of another revision.

    ``due`` and the times of all methods are liveness time in seconds.
    """

    __slots__ = ("_wait", "due", "id", "latest", "open", "seen", "service")

    def __init__(self, service: str, instance: str, now: float, latest: Heartbeat | None = None) -> None:
        self.service = service
        self.id = instance
        self.latest = latest
        """The heartbeat with the highest ``seq`` of an unknown instance; None for a known one."""
        self.seen = now
        """Liveness time of ``latest``."""
        self.open = True
        """False when the announcement came, or is not awaited any more."""
        self.due = now
        self._wait = FIRST_WAIT_S

    def next_request(self, now: float, rng: random.Random) -> float:
        """When to ask again after having asked at ``now``. The wait doubles each time."""
        wait = min(LONGEST_WAIT_S, self._wait * (1 + JITTER * rng.random()))
        self._wait = min(LONGEST_WAIT_S, 2 * self._wait)
        return now + wait

    def restart(self, now: float) -> None:
        """Go back to the shortest wait: earlier requests may never have arrived."""
        self.seen = now
        self._wait = FIRST_WAIT_S
