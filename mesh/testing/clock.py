"""A clock that stands still: hours of waiting in no time, and no test that depends on how fast a machine is."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

STEP_S = 0.05


class PausedClock:
    """Pauses the running event loop's clock for as long as the context lasts; sockets and threads go on.

    ::

        with PausedClock() as clock:
            waiting = asyncio.ensure_future(asyncio.sleep(3600))
            await clock.advance(3600)
            assert waiting.done()

    Timers fire only inside `advance`. It works on asyncio's own loops, not on uvloop. Time that other processes and
    threads wait does not pass faster: a server's pings, for one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = self._loop.time
        self._now = self._loop.time()

    @property
    def now(self) -> float:
        """What the loop's clock shows, in seconds."""
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
        # It goes on from where it stands: set back, the timers that were set meanwhile would be far in the future.
        running, ahead = self._running, self._now - self._running()
        self._loop.time = lambda: running() + ahead  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, a little at a time, so that what one timer starts can set the next."""
        end = self._now + seconds
        while self._now < end:
            self._now = min(end, self._now + STEP_S)
            await self.settle()

    async def settle(self, turns: int = 5) -> None:
        """Let everything run that needs no time; ``turns`` of the event loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
