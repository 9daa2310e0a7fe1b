"""How old a request is when it arrives.

``Mesh-Deadline`` says how much time was left when a request was sent. After a frozen server or process runs again,
requests arrive seconds late while their header still shows time left, and their callers have gone. Clocks of two
machines cannot be compared, but differences of one pair of clocks can: the fastest request of a sender so far shows
how far its clock is from ours, and what another one takes longer is its age.
"""

from __future__ import annotations

from typing import Final

WINDOW_MS: Final = 600_000
"""How long the fastest request of a sender counts; clocks drift apart by some 10 ms in that time."""
STEADY_MS: Final = 2_000
"""An excess that stays the same this long is no lateness: the sender's clock was set, or the path became longer."""
SAME_MS: Final = 50
"""Excesses that differ by less are the same."""
MAX_SENDERS: Final = 4096

_NEVER = 1 << 62


class _Sender:
    """Offsets (received - sent, ms) of one sender: the smallest of this half of the window and of the one before."""

    __slots__ = ("before", "half", "highest", "lowest", "now", "since")

    def __init__(self, half: int, offset: int) -> None:
        self.half = half
        self.now = offset
        self.before = _NEVER
        # The run of like offsets above the baseline that may become the next one.
        self.since = _NEVER
        self.lowest = self.highest = 0


class Ages:
    """The ages of requests by what their senders' clocks said. Times are integer milliseconds; no I/O, no clock."""

    __slots__ = ("_senders",)

    def __init__(self) -> None:
        self._senders: dict[bytes, _Sender] = {}

    def __len__(self) -> int:
        return len(self._senders)

    def age(self, sender: bytes, sent: int, received: int, doubt: int = 0) -> int:
        """Milliseconds between sending and receiving, as far as can be known.

        ``sent`` is of the sender's clock, ``received`` of ours. ``doubt`` is how old it may be for all we know without
        its sender's clock; it counts for the first request of a sender.
        """
        offset = received - sent
        half = received // (WINDOW_MS // 2)
        known = self._senders.get(sender)
        if known is None:
            self._remember(sender, _Sender(half, offset - doubt))
            return doubt
        if known.half != half:
            known.before = known.now if known.half == half - 1 else _NEVER
            known.half, known.now = half, _NEVER
        baseline = known.now if known.now < known.before else known.before
        if baseline == _NEVER:
            known.now = offset - doubt
            return doubt
        if offset < known.now:
            known.now = offset
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
        known.now, known.before, known.since = known.lowest, _NEVER, _NEVER
        return offset - known.lowest

    def _remember(self, sender: bytes, record: _Sender) -> None:
        if len(self._senders) >= MAX_SENDERS:
            oldest = [name for name, known in self._senders.items() if known.half < record.half - 1]
            for name in oldest or [next(iter(self._senders))]:
                del self._senders[name]
        self._senders[sender] = record
