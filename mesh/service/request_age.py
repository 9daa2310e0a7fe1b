"""The age of a request on its arrival.

``Mesh-Deadline`` says how much time was left when a request was sent. After a frozen server or process runs again,
requests arrive seconds late while their header still shows time left, and their callers have gone. The clocks of two
machines cannot be compared, but the differences of one pair of clocks can:

1. The offset of a request is its moment of arrival (our clock) minus its moment of sending (the sender's clock).
2. The smallest offset of a sender is its baseline: the fastest request, and the difference of the two clocks.
3. The age of a request is its offset minus the baseline.
4. If the offset stays above the baseline by the same amount, the sender's clock was set, or its path became longer:
   that offset becomes the baseline.

Example: requests of a sender arrive with the offsets 5002, 5001 and 8001 ms. The baseline is 5001 ms, and the third
request is 3000 ms old.
"""

from __future__ import annotations

from typing import Final

WINDOW_MS: Final = 600_000
"""How long the fastest request of a sender counts; clocks drift apart by some 10 ms in that time."""
STEADY_MS: Final = 2_000
"""How long an excess stays the same until it becomes the baseline."""
SAME_MS: Final = 50
"""Excesses that differ by less are the same."""
MAX_SENDERS: Final = 4096

_NEVER = 1 << 62


class _SenderOffsets:
    """The offsets of one sender, in milliseconds.

    half: the number of the current half of the window
    smallest, smallest_before: the smallest offset in this half of the window and in the one before
    since, lowest, highest: the start and the range of a run of like offsets above the baseline
    """

    __slots__ = ("half", "highest", "lowest", "since", "smallest", "smallest_before")

    def __init__(self, half: int, offset: int) -> None:
        self.half = half
        self.smallest = offset
        self.smallest_before = _NEVER
        self.since = _NEVER
        self.lowest = self.highest = 0


class RequestAges:
    """The ages of requests, by the clocks of their senders. Times are integer milliseconds; no I/O, no clock."""

    __slots__ = ("_senders",)

    def __init__(self) -> None:
        self._senders: dict[bytes, _SenderOffsets] = {}

    def __len__(self) -> int:
        return len(self._senders)

    def age(self, sender: bytes, sent: int, received: int, possible_age: int = 0) -> int:
        """The milliseconds between sending and arrival, as far as they can be known.

        sender: the inbox of the caller
        sent: the moment of sending, by the sender's clock
        received: the moment of arrival, by our clock
        possible_age: how old the request may be as far as we know without the sender's clock; it counts for the first
            request of a sender
        """
        offset = received - sent
        half = received // (WINDOW_MS // 2)
        known = self._senders.get(sender)
        if known is None:
            self._remember(sender, _SenderOffsets(half, offset - possible_age))
            return possible_age
        if known.half != half:
            known.smallest_before = known.smallest if known.half == half - 1 else _NEVER
            known.half, known.smallest = half, _NEVER
        baseline = known.smallest if known.smallest < known.smallest_before else known.smallest_before
        if baseline == _NEVER:
            known.smallest = offset - possible_age
            return possible_age
        if offset < known.smallest:
            known.smallest = offset
        excess = offset - baseline
        if excess <= SAME_MS:
            known.since = _NEVER
            return excess if excess > 0 else 0
        if known.since == _NEVER or max(known.highest, offset) - min(known.lowest, offset) > SAME_MS:
            known.since, known.lowest, known.highest = received, offset, offset
            return excess
        known.lowest, known.highest = min(known.lowest, offset), max(known.highest, offset)
        if received - known.since < STEADY_MS:
            return excess
        known.smallest, known.smallest_before, known.since = known.lowest, _NEVER, _NEVER
        return offset - known.lowest

    def _remember(self, sender: bytes, offsets: _SenderOffsets) -> None:
        """Keep a sender, and forget those that were silent for a whole window if there are too many."""
        if len(self._senders) >= MAX_SENDERS:
            oldest = [name for name, known in self._senders.items() if known.half < offsets.half - 1]
            for name in oldest or [next(iter(self._senders))]:
                del self._senders[name]
        self._senders[sender] = offsets
