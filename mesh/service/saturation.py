"""Whether an instance can serve at all: it cannot while every place is taken by calls that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EVERY_S: Final = 1.0
LONGEST_S: Final = 5.0
"""Seconds for which all places may be taken so; handlers that notice that their callers have gone end sooner."""


class Saturation:
    """The readiness check ``places`` of one instance.

    ``given_up()`` are the running calls whose callers have gone or got no answer in time, ``capacity`` is how many
    calls may run. While such calls alone take every place, and have done so for `LONGEST_S`, the check fails: what
    is sent here is refused, so others should be asked. ``now()`` is a clock in seconds.
    """

    def __init__(self, given_up: Callable[[], int], capacity: int, now: Callable[[], float]) -> None:
        self._given_up = given_up
        self._capacity = capacity
        self._now = now
        self._since: float | None = None

    async def check(self) -> None:
        """Raises RuntimeError with the reason."""
        if self._given_up() < self._capacity:
            self._since = None
            return
        if self._since is None:
            self._since = self._now()
        if self._now() - self._since >= LONGEST_S:
            raise RuntimeError(
                f"all {self._capacity} calls that may run were given up by their callers and do not end; "
                "is there a handler that blocks without a timeout?"
            )
