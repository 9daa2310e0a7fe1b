"""The readiness check of an instance that cannot serve: abandoned calls alone take all that may be in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CHECK_INTERVAL_S: Final = 1.0
MAX_SATURATED_S: Final = 5.0
"""Seconds for which abandoned calls alone may be in flight; a handler that notices that its caller has gone ends
sooner."""


class Saturation:
    """The readiness check ``saturation`` of one instance.

    It fails while abandoned calls alone reach the limit, and have done so for `MAX_SATURATED_S`: a request that is sent
    here would be refused, so callers should ask other instances.

    abandoned: how many running calls have callers that have gone or got no reply in time
    limit: how many calls may be in flight
    now: a clock in seconds
    """

    def __init__(self, abandoned: Callable[[], int], limit: int, now: Callable[[], float]) -> None:
        self._abandoned = abandoned
        self._limit = limit
        self._now = now
        self._since: float | None = None

    async def check(self) -> None:
        """Raises RuntimeError with the reason."""
        if self._abandoned() < self._limit:
            self._since = None
            return
        if self._since is None:
            self._since = self._now()
        if self._now() - self._since >= MAX_SATURATED_S:
            raise RuntimeError(
                f"all {self._limit} calls that may run were given up by their callers and do not end; "
                "is there a handler that blocks without a timeout?"
            )
