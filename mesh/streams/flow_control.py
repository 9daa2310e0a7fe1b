"""Flow control by credit: how many bytes may be on their way. Pure counting, one object for each direction.

A sender may have sent as many bytes, since the beginning, as the receiver's last credit says. Credits are totals, so a
credit that is lost or comes twice does no harm. A frame costs the bytes of its payload, and at least `FRAME_COST`: many
small frames must not fill a receiver's memory with what surrounds them. For a window of 262,144 bytes::

    sent   frame 1, 65,536 bytes     sender: 65,536 of 262,144 spent
    sent   frame 2, 65,536 bytes     sender: 131,072 of 262,144 spent
    read   frames 1 and 2            receiver: 131,072 bytes consumed, half of the window
    sent   credit 393,216            that is 131,072 consumed + 262,144 of window
"""

from __future__ import annotations

from typing import Final

from mesh.defaults import CHUNK, FIRST_CREDIT, LARGEST_CHUNK, WINDOW

FRAME_COST: Final = 256
"""Bytes of credit that a frame costs at least."""
TAKES_STREAMS: Final = b"Mesh-Credit: %d\r\n" % FIRST_CREDIT
"""The header line of a request whose caller takes a stream as the response, and its credit for that."""
SMALLEST_WINDOW: Final = 16 * 1024
"""Window, in bytes, of a stream while many others share a connection."""
POOL: Final = 32 * 1024 * 1024
"""Bytes that the windows of one connection's streams share. When they are used up, a new stream gets
`SMALLEST_WINDOW`."""
SMALLEST_PART: Final = SMALLEST_WINDOW // 2
"""Bytes of the smallest part that a write is split into, but for its last. A sender may wait until it may send so many:
a reader that has consumed everything has given at least half of its window again."""


class ProtocolViolation(ValueError):
    """The other end broke the rules of streams: a frame is missing, came twice, is too large or exceeds the credit."""


def cost(size: int) -> int:
    """The cost of a frame with a payload of ``size`` bytes."""
    return size if size > FRAME_COST else FRAME_COST


class Outflow:
    """The sending direction. ``credit``: the bytes that the receiver allowed at first."""

    __slots__ = ("credit", "last_number", "spent")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.spent = 0
        self.last_number = 0

    def grant(self, credit: int) -> bool:
        """Take a credit. Returns True if it allows more than the credits before."""
        if credit <= self.credit:
            return False
        self.credit = credit
        return True

    def sendable(self, size: int) -> int:
        """How many of ``size`` bytes may go in the next frame; -1 if it has to wait (an empty frame costs too)."""
        left = self.credit - self.spent
        if size <= CHUNK and cost(size) <= left:
            return size
        return min(left, CHUNK) if left >= SMALLEST_PART else -1

    def spend(self, size: int) -> int:
        """Pay for a frame that carries ``size`` bytes. Returns its number."""
        self.spent += cost(size)
        self.last_number += 1
        return self.last_number

    def number_free_frame(self) -> int:
        """The number of an ``end`` or ``close`` frame, which costs nothing."""
        self.last_number += 1
        return self.last_number


class Inflow:
    """The receiving direction.

    window: bytes that may be on their way once the first credit is used up.
    granted: bytes of the first credit.
    """

    __slots__ = ("_next_number", "_received", "consumed", "granted", "window")

    def __init__(self, window: int, granted: int) -> None:
        self.window = window
        self.granted = granted
        self.consumed = 0
        self._received = 0
        self._next_number = 1

    def accept(self, number: int, size: int) -> None:
        """Count a frame that arrived; with a ``size`` below 0 it costs nothing. Raises `ProtocolViolation`."""
        if number != self._next_number:
            raise ProtocolViolation(f"frame {number} came where {self._next_number} was due")
        self._next_number += 1
        if size > LARGEST_CHUNK:
            raise ProtocolViolation(f"a frame of {size} bytes; {LARGEST_CHUNK} are allowed")
        if size >= 0:
            self._received += cost(size)
        if self._received > self.granted:
            raise ProtocolViolation(f"{self._received} bytes came where {self.granted} were granted")

    def consume(self, size: int) -> bool:
        """Count a frame that the reader is done with. Returns True if the sender should get `granted` as its credit."""
        self.consumed += cost(size)
        if self.consumed + self.window - self.granted < self.window // 2:
            return False
        self.granted = self.consumed + self.window
        return True


class WindowPool:
    """Divides `POOL` among the streams of one connection."""

    __slots__ = ("_free",)

    def __init__(self, size: int = POOL) -> None:
        self._free = size

    def take(self) -> int:
        """The window of a new stream: smaller while many are open. Return it with `give_back`."""
        window = max(SMALLEST_WINDOW, min(WINDOW, self._free // 4))
        self._free -= window
        return window

    def give_back(self, window: int) -> None:
        """Return the window of a stream that is over."""
        self._free += window
