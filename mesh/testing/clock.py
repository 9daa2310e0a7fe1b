"""A clock that stands still: tests of long waits take no time, and do not depend on the speed of the machine."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

STEP_S: Final = 0.05
"""Seconds of one step of the clock."""


class PausedClock:
    """Pauses the clock of the running event loop for as long as the context lasts. Sockets and threads go on.

    ::

        with PausedClock() as clock:
            waiting = asyncio.ensure_future(asyncio.sleep(3600))
            await clock.advance(3600)
            assert waiting.done()

    Timers fire only inside `advance`. It works with asyncio's own event loops, not with uvloop. The time of other
    processes and threads does not pass faster, such as that between the pings of a server.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = self._loop.time
        self._now = self._loop.time()

    @property
    def now(self) -> float:
        """The time of the event loop's clock, in seconds."""
        return self._now

    def __enter__(self) -> Self:
        try:
            self._loop.time = lambda: self._now  # type: ignore[method-assign]
        except AttributeError:
            raise RuntimeError("PausedClock needs asyncio's own event loop, not uvloop") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The clock goes on from its present time. If it were set back, timers set meanwhile would be far in the future.
        running, ahead = self._running, self._now - self._running()
        self._loop.time = lambda: running() + ahead  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass in small steps, so that the work of one timer can set the next one."""
        end = self._now + seconds
        while self._now < end:
            self._now = min(end, self._now + STEP_S)
            await self.settle()

    async def settle(self, turns: int = 5) -> None:
        """Let all tasks run that wait for no time, for so many ``turns`` of the event loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
