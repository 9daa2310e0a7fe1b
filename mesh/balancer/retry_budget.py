"""How many calls may be retried: enough to hide a fault, too few to turn an overload into a storm."""

from __future__ import annotations

from math import floor
from typing import Final

from mesh.defaults import RETRIES_PER_SECOND, RETRY_RATIO

WINDOW_S: Final = 10
"""Seconds over which calls and retries count."""


class RetryBudget:
    """Retries of one caller to one service: 20 % of its calls plus 10 a second, over the last 10 s.

    The window is ten buckets of a second, the current one included. So it spans 9 to 10 s, and every operation costs
    the same. Times are seconds on any clock that does not go back; an earlier time counts as the latest one.

    Example: with 300 calls in the last 10 s, 0.2 * 300 + 10 * 10 = 160 retries are allowed. After 40 of them `left` is
    120.
    """

    __slots__ = (
        "_bucketed",
        "_calls",
        "_fixed",
        "_ratio",
        "_retries",
        "_second",
        "_total_calls",
        "_total_retries",
        "calls",
        "next_second",
        "refused",
    )

    def __init__(self, ratio: float = RETRY_RATIO, per_second: float = RETRIES_PER_SECOND) -> None:
        self.calls = 0
        """Calls since the beginning. A hot path may count them here itself, after `advance` if that is due."""
        self.next_second = float("-inf")
        """The moment from which on `advance` must be called before a call is counted."""
        self.refused = 0
        """Retries since the beginning for which the budget was empty."""
        self._ratio = ratio
        self._fixed = per_second * WINDOW_S
        self._calls = [0] * WINDOW_S
        self._retries = [0] * WINDOW_S
        self._total_calls = 0
        self._total_retries = 0
        self._bucketed = 0  # how many of `calls` are in a bucket
        self._second: int | None = None  # the second that the current bucket stands for

    def record_call(self, now: float) -> None:
        """Count one call (not one attempt: retries must not earn retries)."""
        if now >= self.next_second:
            self.advance(now)
        self.calls += 1

    def try_spend(self, now: float) -> bool:
        """Charge one retry and return True, or return False if the budget is empty."""
        bucket = self.advance(now)
        if self._total_retries + 1 > self._ratio * self._total_calls + self._fixed:
            self.refused += 1
            return False
        self._retries[bucket] += 1
        self._total_retries += 1
        return True

    def left(self, now: float) -> int:
        """Retries that could be spent at ``now``."""
        self.advance(now)
        return max(0, floor(self._ratio * self._total_calls + self._fixed) - self._total_retries)

    def advance(self, now: float) -> int:
        """Move the window to ``now``; returns the index of the current bucket.

        The calls since the last move go into the bucket of their second, and the buckets that left the window are
        emptied.
        """
        second = floor(now)
        current = self._second
        if current is None:
            current = second
        made, self._bucketed = self.calls - self._bucketed, self.calls
        self._calls[current % WINDOW_S] += made
        self._total_calls += made
        for passed in range(current + 1, min(second, current + WINDOW_S) + 1):
            bucket = passed % WINDOW_S
            self._total_calls -= self._calls[bucket]
            self._total_retries -= self._retries[bucket]
            self._calls[bucket] = self._retries[bucket] = 0
        self._second = current = max(current, second)
        self.next_second = current + 1.0
        return current % WINDOW_S
