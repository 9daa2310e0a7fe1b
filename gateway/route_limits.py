"""How much of one route may be under way: a cap with a bounded queue before it.

One slow service must not take all of the gateway's places from the others. Who waits here holds nothing but its own
connection, and is let in in the order of coming.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from mesh.errors import Overloaded

_Waiting = deque[asyncio.Future[None]]


class RouteLimits:
    """``places`` calls of a route may be under way, ``queue`` more wait for as long as their deadline allows."""

    __slots__ = ("_places", "_queue", "_taken", "_waiting")

    def __init__(self, places: int, queue: int) -> None:
        self._places = places
        self._queue = queue
        self._taken: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, _Waiting] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait, of all routes."""
        return sum(map(len, self._waiting.values()))

    def try_enter(self, route: Hashable) -> bool:
        """Take a place where one is free; `leave` gives it back. Otherwise `wait`."""
        taken = self._taken.get(route, 0)
        if taken < self._places:
            self._taken[route] = taken + 1
            return True
        return False

    async def wait(self, route: Hashable, timeout: float) -> None:
        """Wait for a place, at most ``timeout`` seconds. Raises `Overloaded`, at once where the queue is full."""
        waiting = self._waiting.setdefault(route, deque())
        if len(waiting) >= self._queue:
            if not waiting:
                del self._waiting[route]
            raise Overloaded(
                f"{self._places} requests of this route are under way and {self._queue} wait", retry_after=1
            )
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(route)  # its turn had come in the same moment
            elif turn in waiting:
                waiting.remove(turn)
                if not waiting:
                    del self._waiting[route]
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"{self._places} requests of this route were under way all the time", retry_after=1
                ) from None
            raise

    def leave(self, route: Hashable) -> None:
        """Give a place back: to the first that waits, else to anybody."""
        waiting = self._waiting.get(route)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[route]
            if not turn.done():
                turn.set_result(None)
                return
        taken = self._taken[route] - 1
        if taken:
            self._taken[route] = taken
        else:
            del self._taken[route]
