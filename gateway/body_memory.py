"""Memory for what clients send: bodies of requests and messages of WebSockets, of all clients together, in bytes.

A body that fits into one message is collected before it is sent, and kept until its request is answered. A body that
is passed on as it comes is only counted until it has gone, and so is a message of a WebSocket. When the memory is full,
room is made by what is still coming: by what has been coming for longer than `PATIENCE_S`, else by the largest, where
that is larger than what needs the room. So a client that fills the memory is the one that is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError, Overloaded

PATIENCE_S = 5.0
"""Seconds that a body may take while memory is short. One message in that time is slow for any client."""

Refuse = Callable[[MeshError], None]


class BodyMemory:
    """The memory: ``limit`` bytes, of which ``held`` are taken. ``clock`` gives seconds."""

    __slots__ = ("_clock", "_coming", "_sizes", "held", "limit")

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.held = 0
        self._clock = clock
        self._coming: dict[Body, None] = {}  # the oldest first
        # The same by their size's number of bits, so that a large one is found without looking at all of them.
        self._sizes: dict[int, dict[Body, None]] = {}

    def body(self, refuse: Refuse, expected: int = 0) -> Body:
        """A share for one request or WebSocket, empty; ``expected`` are the bytes that are announced to come.

        ``refuse`` is called where it has to make room for others; it must give the bytes back, and may be called in any
        callback but those of the share's own connection.
        """
        return Body(self, refuse, expected)

    def take(self, body: Body, size: int) -> None:
        """See `Body.take`."""
        while self.held + size > self.limit:
            other = self._who_makes_room(body, max(body.size + size, body.expected))
            if other is None:
                raise self._full()
            other.make_room(self._full())
        self.held += size
        body.size += size
        self._sort(body)

    def give(self, body: Body, size: int) -> None:
        """See `Body.give`."""
        size = min(size, body.size)
        self.held -= size
        body.size -= size
        self._sort(body)

    def settle(self, body: Body) -> None:
        """See `Body.settle`."""
        body.settled = True
        self._sort(body)

    def _who_makes_room(self, body: Body, size: int) -> Body | None:
        """For one that has, or will have, ``size`` bytes; None where nobody has to."""
        oldest = next(iter(self._coming), None)
        if oldest is not None and oldest is not body and self._clock() - oldest.since >= PATIENCE_S:
            return oldest
        most = max(self._sizes, default=0)
        return next(iter(self._sizes[most])) if most > size.bit_length() else None

    def _sort(self, body: Body) -> None:
        """Keep it where its size belongs; what is complete or empty makes no room."""
        bits = 0 if body.settled else body.size.bit_length()
        if bits == body.bits:
            return
        if body.bits:
            peers = self._sizes[body.bits]
            del peers[body]
            if not peers:
                del self._sizes[body.bits]
        else:
            body.since = self._clock()
            self._coming[body] = None
        body.bits = bits
        if bits:
            self._sizes.setdefault(bits, {})[body] = None
        else:
            del self._coming[body]

    def _full(self) -> MeshError:
        return Overloaded(f"bodies of requests take all of {self.limit} bytes of memory", retry_after=1)


class Body:
    """What one request's body, or the messages of one WebSocket, take.

    ``since`` is when its first byte came; ``settled`` whether it makes no room for others any more, and ``passed_on``
    whether a service may have got a part of it. ``bits`` is the bookkeeping of `BodyMemory`.
    """

    __slots__ = ("_bodies", "_refuse", "bits", "expected", "passed_on", "settled", "since", "size")

    def __init__(self, bodies: BodyMemory, refuse: Refuse, expected: int) -> None:
        self.expected = expected
        self.since = 0.0
        self.size = self.bits = 0
        self.settled = self.passed_on = False
        self._bodies = bodies
        self._refuse = refuse

    def take(self, size: int) -> None:
        """Count bytes that have come. Raises `Overloaded` where there is no room for them."""
        self._bodies.take(self, size)

    def give(self, size: int) -> None:
        """Bytes that have gone on and are not held any more."""
        self._bodies.give(self, size)

    def settle(self) -> None:
        """It does not make room for others any more: it is complete, or is passed on as it comes."""
        self.settled = True
        self._bodies.settle(self)

    def make_room(self, error: MeshError) -> None:
        """Refuse the request with ``error``."""
        self.release()
        self._refuse(error)

    def release(self) -> None:
        """Give everything back; harmless when that was done."""
        self._bodies.give(self, self.size)
