"""Notices that this process did not run for a while: it was stopped, suspended, or held up by a blocking handler."""

from __future__ import annotations

import asyncio
from typing import Final

TICK_S: Final = 0.25
PAUSE_S: Final = 0.5
"""A gap between two ticks that is longer than this is a pause."""
AFTERMATH_S: Final = 1.0
"""Seconds after a pause in which a message that is read may have waited in the socket since its start."""


class PauseWatch:
    """Ticks on the event loop from `start` to `aclose`."""

    __slots__ = ("_aftermath_ends", "_loop", "_pause", "_ticked", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked = self._loop.time()
        self._pause = 0.0
        self._aftermath_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._ticked = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def aclose(self) -> None:
        """End the ticks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent(self, now: float) -> float:
        """The seconds of the pause that has just ended; 0.0 without one. ``now`` is the event loop's time."""
        gap = now - self._ticked  # after a pause, sockets are read before the timers run
        if gap > PAUSE_S and self._timer is not None:
            return gap
        return self._pause if now < self._aftermath_ends else 0.0

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._ticked > PAUSE_S:
            self._pause, self._aftermath_ends = now - self._ticked, now + AFTERMATH_S
        self._ticked = now
        self._timer = self._loop.call_later(TICK_S, self._tick)
