"""How many calls may be repeated: enough to hide a fault, too few to turn an overload into a storm."""

from __future__ import annotations

from math import floor
from typing import Final

from mesh.defaults import RETRIES_PER_SECOND, RETRY_RATIO

WINDOW_S: Final = 10


class RetryBudget:
    """Retries of one caller to one service: 20 % of its calls + 10/s, over the last 10 s.

    The window is ten buckets of a second, the current one included, so it spans 9 to 10 s and every operation
    costs the same. Times are seconds on any clock that does not go back; an earlier one counts as the latest.
    """

    __slots__ = (
        "_calls",
        "_counted",
        "_fixed",
        "_head",
        "_ratio",
        "_retries",
        "_total_calls",
        "_total_retries",
        "calls",
        "refused",
        "turns_at",
    )

    def __init__(self, ratio: float = RETRY_RATIO, per_second: float = RETRIES_PER_SECOND) -> None:
        self.calls = 0
        """Calls since the beginning. Who makes very many counts them here itself, after `turn` where it is due."""
        self.turns_at = float("-inf")
        """The moment from which on `turn` must be called before a call is counted."""
        self.refused = 0
        """Retries since the beginning for which it was empty."""
        self._ratio = ratio
        self._fixed = per_second * WINDOW_S
        self._calls = [0] * WINDOW_S
        self._retries = [0] * WINDOW_S
        self._total_calls = 0
        self._total_retries = 0
        self._counted = 0  # of `calls`, those that are in a bucket
        self._head: int | None = None  # the second that the current bucket stands for

    def record_call(self, now: float) -> None:
        """Count one call (not one attempt: retries must not earn retries)."""
        if now >= self.turns_at:
            self.turn(now)
        self.calls += 1

    def try_spend(self, now: float) -> bool:
        """Whether one retry more is within the budget, which it then takes."""
        slot = self.turn(now)
        if self._total_retries + 1 > self._ratio * self._total_calls + self._fixed:
            self.refused += 1
            return False
        self._retries[slot] += 1
        self._total_retries += 1
        return True

    def left(self, now: float) -> int:
        """Retries that could be spent at ``now``."""
        self.turn(now)
        return max(0, floor(self._ratio * self._total_calls + self._fixed) - self._total_retries)

    def turn(self, now: float) -> int:
        """Put the calls since the last turn into their bucket, and empty those that lie too far back; the slot of the
        current one."""
        second = floor(now)
        head = self._head
        if head is None:
            head = second
        made, self._counted = self.calls - self._counted, self.calls
        self._calls[head % WINDOW_S] += made
        self._total_calls += made
        for passed in range(head + 1, min(second, head + WINDOW_S) + 1):
            slot = passed % WINDOW_S
            self._total_calls -= self._calls[slot]
            self._total_retries -= self._retries[slot]
            self._calls[slot] = self._retries[slot] = 0
        self._head = head = max(head, second)
        self.turns_at = head + 1.0
        return head % WINDOW_S
