"""How many requests of one route may be in flight: a limit with a bounded queue before it.

One slow service must not take all of the gateway's capacity from the others. A request that waits here holds nothing
but its own connection, and requests are let in in the order in which they came. A WebSocket is in flight until it ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from mesh.errors import Overloaded

_Queue = deque[asyncio.Future[None]]


class RouteLimits:
    """The limits of all routes, by limit key.

    Args:
        most: requests of one route that may be in flight.
        queue: requests of one route that may wait in addition, as long as their deadlines allow.
    """

    __slots__ = ("_inflight", "_most", "_queue", "_waiting")

    def __init__(self, most: int, queue: int) -> None:
        self._most = most
        self._queue = queue
        self._inflight: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, _Queue] = {}

    @property
    def waiting(self) -> int:
        """The number of requests that wait, of all routes."""
        return sum(map(len, self._waiting.values()))

    def try_enter(self, key: Hashable) -> bool:
        """Count a request as in flight if its route's limit allows that; `leave` must follow. Otherwise `wait`."""
        inflight = self._inflight.get(key, 0)
        if inflight < self._most:
            self._inflight[key] = inflight + 1
            return True
        return False

    async def wait(self, key: Hashable, timeout: float) -> None:
        """Wait until the request may be in flight, at most ``timeout`` seconds; `leave` must follow.

        Raises `Overloaded` after that time, and at once if the queue is full.
        """
        waiting = self._waiting.setdefault(key, deque())
        if len(waiting) >= self._queue:
            if not waiting:
                del self._waiting[key]
            raise Overloaded(f"{self._most} requests of this route are in flight and {self._queue} wait", retry_after=1)
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(key)  # its turn had come in the same moment
            elif turn in waiting:
                waiting.remove(turn)
                if not waiting:
                    del self._waiting[key]
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"{self._most} requests of this route were in flight all the time", retry_after=1
                ) from None
            raise

    def leave(self, key: Hashable) -> None:
        """The request is not in flight any more: the first that waits is, if one does."""
        waiting = self._waiting.get(key)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[key]
            if not turn.done():
                turn.set_result(None)
                return
        inflight = self._inflight[key] - 1
        if inflight:
            self._inflight[key] = inflight
        else:
            del self._inflight[key]
