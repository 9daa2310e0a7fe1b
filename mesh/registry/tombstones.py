"""Instances that have gone, remembered so that their late messages do not bring them back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

TOMBSTONE_S: Final = 600.0
"""Seconds for which an instance that has gone is remembered."""

InstanceKey = tuple[str, str]
"""Service and instance id."""


class Tombstone(NamedTuple):
    """One instance that has gone."""

    until: float
    """Liveness time in seconds at which it is forgotten."""
    seq: int
    """The highest ``seq`` seen: a message above it brings the instance back."""
    final: bool
    """True if it said ``stopped``, False if it fell silent."""


class Tombstones:
    """Tombstones by service and instance, each for ``lifetime_s`` seconds, at most ``limit`` of them.

    All last equally long, so they end in the order in which they were set.
    """

    __slots__ = ("_lifetime_s", "_limit", "_stones", "evicted")

    def __init__(self, lifetime_s: float, limit: int) -> None:
        self.evicted = 0
        """How many were forgotten early because there were too many."""
        self._lifetime_s = lifetime_s
        self._limit = limit
        self._stones: OrderedDict[InstanceKey, Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stones)

    def get(self, key: InstanceKey) -> Tombstone | None:
        return self._stones.get(key)

    def set(self, key: InstanceKey, seq: int, *, final: bool, now: float) -> None:
        """Remember that the instance has gone. Over an earlier tombstone, the higher ``seq`` and ``final`` stay."""
        before = self._stones.pop(key, None)
        if before is not None:
            seq = max(seq, before.seq)
            final = final or before.final
        self._stones[key] = Tombstone(now + self._lifetime_s, seq, final)
        if len(self._stones) > self._limit:
            self._stones.popitem(last=False)
            self.evicted += 1

    def remove(self, key: InstanceKey) -> None:
        self._stones.pop(key, None)

    def expire(self, now: float) -> None:
        while self._stones:
            key = next(iter(self._stones))
            if self._stones[key].until > now:
                return
            self._stones.popitem(last=False)

    def next_due(self) -> float | None:
        return next(iter(self._stones.values())).until if self._stones else None
