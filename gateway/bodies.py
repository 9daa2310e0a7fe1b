"""Memory for the bodies of requests: what all clients together may have here, in bytes.

A body that fits into one message is collected before it is sent, and kept until its request is answered. A body that
is passed on as it comes is only counted until it has gone. When the memory is full, a body that has been coming for
longer than `PATIENCE_S` makes room for others; if there is none, the request that needs more is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError, Overloaded

PATIENCE_S = 5.0
"""Seconds that a body may take while memory is short. One message in that time is slow for any client."""

Refuse = Callable[[MeshError], None]


class Bodies:
    """The memory: ``limit`` bytes, of which ``held`` are taken. ``clock`` gives seconds."""

    __slots__ = ("_clock", "_coming", "held", "limit")

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.held = 0
        self._clock = clock
        self._coming: dict[Body, None] = {}  # the oldest first

    def body(self, refuse: Refuse) -> Body:
        """A share for one request, empty. ``refuse`` is called where it has to make room for others; it must give the
        bytes back, and may be called in any callback but those of the request's own connection."""
        return Body(self, refuse)

    def take(self, body: Body, size: int) -> None:
        """See `Body.take`."""
        now = self._clock()
        while self.held + size > self.limit:
            oldest = next(iter(self._coming), body)
            if oldest is body or now - oldest.since < PATIENCE_S:
                raise self._full()
            oldest.make_room(self._full())
        if not body.since and not body.settled:
            body.since = now
            self._coming[body] = None
        self.held += size

    def settle(self, body: Body) -> None:
        """See `Body.settle`."""
        self._coming.pop(body, None)

    def _full(self) -> MeshError:
        return Overloaded(f"bodies of requests take all of {self.limit} bytes of memory", retry_after=1)


class Body:
    """What one request's body takes.

    ``since`` is when its first byte came, 0 before that; ``settled`` whether it makes no room for others any more, and
    ``passed_on`` whether a service may have got a part of it.
    """

    __slots__ = ("_bodies", "_refuse", "_size", "passed_on", "settled", "since")

    def __init__(self, bodies: Bodies, refuse: Refuse) -> None:
        self.since = 0.0
        self.settled = self.passed_on = False
        self._bodies = bodies
        self._refuse = refuse
        self._size = 0

    def take(self, size: int) -> None:
        """Count bytes that have come. Raises `Overloaded` where there is no room for them."""
        self._bodies.take(self, size)
        self._size += size

    def give(self, size: int) -> None:
        """Bytes that have gone on and are not held any more."""
        size = min(size, self._size)
        self._size -= size
        self._bodies.held -= size

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
        self._bodies.settle(self)
        self._bodies.held -= self._size
        self._size = 0
