"""Turns of the event loop: what one connection may take of them before others go on.

A client can send thousands of requests that are answered at once (no route, say), or a body in pieces of one byte.
Read and answered in one go they would keep the loop from everybody else for seconds. So a connection counts its work,
and when it has done `TURN` of it at a stretch it waits in `Turns`, where one connection goes on in each turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TURN = 128
"""Units of work at a stretch, a millisecond or two. A piece of a body counts 1."""
ANSWER = 32
"""Units of a request that is answered at once: four of them are a turn. Others wait for the bus, or for a task."""
HEADERS = 8
"""So many headers count 1."""
RESTED_S = 0.005
"""Seconds in which nothing comes, after which what a connection did before does not count any more."""


class Turns:
    """Connections that wait for their next turn, in the order of coming; for all connections of one event loop."""

    __slots__ = ("_is_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_due = False

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in a turn of its own, when those who came before have had theirs."""
        self._waiting.append(go_on)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._is_due = False
        try:
            self._waiting.popleft()()
        finally:
            self._schedule()
