"""Notices that this process did not run for a while: stopped, suspended, or held up by a handler that blocks."""

from __future__ import annotations

import asyncio

TICK_S = 0.25
STALL_S = 0.5
"""A longer gap between two ticks is a stall."""
AFTERMATH_S = 1.0
"""Seconds after a stall in which what is read may have waited in the socket all along."""


class PauseWatch:
    """Ticks on the event loop from `start` to `aclose`."""

    __slots__ = ("_loop", "_stall", "_stalled_until", "_ticked", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked = self._loop.time()
        self._stall = 0.0
        self._stalled_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._ticked = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent(self, now: float) -> float:
        """Seconds of the stall that just ended, 0.0 where there was none. ``now`` is the event loop's time."""
        gap = now - self._ticked  # after a stall, sockets are read before the timers run
        if gap > STALL_S and self._timer is not None:
            return gap
        return self._stall if now < self._stalled_until else 0.0

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._ticked > STALL_S:
            self._stall, self._stalled_until = now - self._ticked, now + AFTERMATH_S
        self._ticked = now
        self._timer = self._loop.call_later(TICK_S, self._tick)
