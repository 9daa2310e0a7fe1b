"""Memory for what clients send: bodies of requests and messages of WebSockets, of all clients together, in bytes.

A body that fits into one message is collected before it is sent, and kept until its request is answered. A body that
is passed on as it comes is only counted until it has gone, and so is a message of a WebSocket.

When the memory is full, one of the bodies that are still coming is refused: the oldest if it has been coming for
longer than `SLOW_BODY_S`, else the largest if it is larger than the one that needs room. So the client that fills the
memory is the one that is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError, Overloaded

SLOW_BODY_S = 5.0
"""Seconds that a body may take while memory is short. One message in that time is slow for any client."""

Refuse = Callable[[MeshError], None]


class BodyMemory:
    """The memory: ``limit`` bytes, of which ``used`` are taken. ``clock`` gives seconds."""

    __slots__ = ("_clock", "_coming", "_sizes", "limit", "used")

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.used = 0
        self._clock = clock
        self._coming: dict[BodyShare, None] = {}  # the oldest first
        # The same by their size's number of bits, so that a large one is found without looking at all of them.
        self._sizes: dict[int, dict[BodyShare, None]] = {}

    def share(self, refuse: Refuse, expected: int = 0) -> BodyShare:
        """A new share for one request or WebSocket; ``expected`` are the bytes that are announced to come.

        ``refuse`` is called if it has to make room for others. It must give the bytes back, and may be called in any
        callback except those of the share's own connection.
        """
        return BodyShare(self, refuse, expected)

    def take(self, share: BodyShare, size: int) -> None:
        """See `BodyShare.take`."""
        while self.used + size > self.limit:
            other = self._who_gives_way(share, max(share.size + size, share.expected))
            if other is None:
                raise self._full()
            other.make_room(self._full())
        self.used += size
        share.size += size
        self._file_by_size(share)

    def give(self, share: BodyShare, size: int) -> None:
        """See `BodyShare.give`."""
        size = min(size, share.size)
        self.used -= size
        share.size -= size
        self._file_by_size(share)

    def keep(self, share: BodyShare) -> None:
        """See `BodyShare.keep`."""
        share.kept = True
        self._file_by_size(share)

    def _who_gives_way(self, share: BodyShare, size: int) -> BodyShare | None:
        """The share that makes room for one that has, or will have, ``size`` bytes; None if none has to."""
        oldest = next(iter(self._coming), None)
        if oldest is not None and oldest is not share and self._clock() - oldest.since >= SLOW_BODY_S:
            return oldest
        most = max(self._sizes, default=0)
        return next(iter(self._sizes[most])) if most > size.bit_length() else None

    def _file_by_size(self, share: BodyShare) -> None:
        """Put it among those of its size. One that is kept or empty makes no room, so it is in none of them."""
        bits = 0 if share.kept else share.size.bit_length()
        if bits == share.bits:
            return
        if share.bits:
            peers = self._sizes[share.bits]
            del peers[share]
            if not peers:
                del self._sizes[share.bits]
        else:
            share.since = self._clock()
            self._coming[share] = None
        share.bits = bits
        if bits:
            self._sizes.setdefault(bits, {})[share] = None
        else:
            del self._coming[share]

    def _full(self) -> MeshError:
        return Overloaded(f"bodies of requests take all of {self.limit} bytes of memory", retry_after=1)


class BodyShare:
    """The memory that one request's body, or the messages of one WebSocket, take.

    ``since`` is when its first byte came. ``kept`` is true if it makes no room for others any more, ``passed_on`` if a
    service may have got a part of it. ``bits`` is the bookkeeping of `BodyMemory`.
    """

    __slots__ = ("_memory", "_refuse", "bits", "expected", "kept", "passed_on", "since", "size")

    def __init__(self, memory: BodyMemory, refuse: Refuse, expected: int) -> None:
        self.expected = expected
        self.since = 0.0
        self.size = self.bits = 0
        self.kept = self.passed_on = False
        self._memory = memory
        self._refuse = refuse

    def take(self, size: int) -> None:
        """Count bytes that have come. Raises `Overloaded` if there is no room for them."""
        self._memory.take(self, size)

    def give(self, size: int) -> None:
        """Bytes that have been passed on, and take no memory any more."""
        self._memory.give(self, size)

    def keep(self) -> None:
        """It does not make room for others any more: it is complete, or is passed on as it comes."""
        self.kept = True
        self._memory.keep(self)

    def make_room(self, error: MeshError) -> None:
        """Refuse the request with ``error``."""
        self.release()
        self._refuse(error)

    def release(self) -> None:
        """Give everything back; harmless when that was done."""
        self._memory.give(self, self.size)
