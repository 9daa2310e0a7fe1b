"""Credit: how much may be on its way. Pure counting, one object for each direction.

A sender may have sent as much, since the beginning, as the receiver's last credit says. Credits are totals, so that one
that is lost or comes twice does no harm. A frame costs its payload's bytes, at least `FRAME_COST`: many small
frames must not fill a receiver's memory with what surrounds them.
"""

from __future__ import annotations

from typing import Final

from mesh.defaults import CHUNK, FIRST_CREDIT, LARGEST_CHUNK, WINDOW

FRAME_COST: Final = 256
TAKES_STREAMS: Final = b"Mesh-Credit: %d\r\n" % FIRST_CREDIT
"""The header line of a request that gives it."""
SMALLEST_WINDOW: Final = 16 * 1024
"""Credit of a stream while many others share a connection."""
POOL: Final = 32 * 1024 * 1024
"""Credit that all streams of one connection share; beyond it each one has `SMALLEST_WINDOW` all the same."""
WORTHWHILE: Final = SMALLEST_WINDOW // 2
"""A large write waits until this much may be sent, rather than to go in crumbs. Whoever has read everything has
given at least half his window anew, so waiting for it ends."""


class Broken(ValueError):
    """The other end broke the rules of streams: a frame is missing, came twice, or was not paid for."""


def cost(size: int) -> int:
    """What a frame with a payload of ``size`` bytes costs."""
    return size if size > FRAME_COST else FRAME_COST


class Outflow:
    """The sending direction. ``credit`` is what the receiver gave to begin with."""

    __slots__ = ("credit", "number", "spent")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.spent = 0
        self.number = 0

    def grant(self, credit: int) -> bool:
        """Take a credit; whether it is more than there was."""
        if credit <= self.credit:
            return False
        self.credit = credit
        return True

    def room(self, size: int) -> int:
        """How many of ``size`` bytes may go in the next frame; -1 where it has to wait (an empty frame costs too)."""
        left = self.credit - self.spent
        if size <= CHUNK and cost(size) <= left:
            return size
        return min(left, CHUNK) if left >= WORTHWHILE else -1

    def take(self, size: int) -> int:
        """The number of the next frame, which carries ``size`` bytes; it costs nothing when ``size`` is below 0."""
        if size >= 0:
            self.spent += cost(size)
        self.number += 1
        return self.number


class Inflow:
    """The receiving direction, with a window of ``window`` bytes, of which ``granted`` were given to begin with."""

    __slots__ = ("_due", "_received", "consumed", "granted", "window")

    def __init__(self, window: int, granted: int) -> None:
        self.window = window
        self.granted = granted
        self.consumed = 0
        self._received = 0
        self._due = 1

    def accept(self, number: int, size: int) -> None:
        """Count an arrived frame; ``size`` below 0 costs nothing. Raises `Broken`."""
        if number != self._due:
            raise Broken(f"frame {number} came where {self._due} was due")
        self._due += 1
        if size > LARGEST_CHUNK:
            raise Broken(f"a frame of {size} bytes; {LARGEST_CHUNK} are allowed")
        if size >= 0:
            self._received += cost(size)
        if self._received > self.granted:
            raise Broken(f"{self._received} bytes came where {self.granted} were granted")

    def consume(self, size: int) -> bool:
        """Count what the reader has dealt with; whether the sender should get `granted` as its credit now."""
        self.consumed += cost(size)
        if self.consumed + self.window - self.granted < self.window // 2:
            return False
        self.granted = self.consumed + self.window
        return True


class Pool:
    """What all streams of a connection may have on their way to us."""

    __slots__ = ("_free",)

    def __init__(self, size: int = POOL) -> None:
        self._free = size

    def take(self) -> int:
        """A window for a new stream; smaller when many are open. Give it back with `give`."""
        window = max(SMALLEST_WINDOW, min(WINDOW, self._free // 4))
        self._free -= window
        return window

    def give(self, window: int) -> None:
        self._free += window
