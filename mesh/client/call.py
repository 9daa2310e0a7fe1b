"""One call to one service: attempt after attempt, until one has an outcome for who asked.

Nothing here waits: replies, deadlines and lost connections arrive as calls from the bus, and the one who asked is
called in turn. So a caller that has a callback pays for no task and no future, and one that waits adds a future.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from mesh import headers, messages
from mesh.balancer import Balancer, Outcome, Peer, RetryBudget, may_retry
from mesh.bus import Bus, Ending, Pending, Reply
from mesh.clock import boot_ms
from mesh.errors import (
    BadReply,
    BusUnavailable,
    DeadlineExceeded,
    InstanceLost,
    MeshError,
    NoInstances,
    NoResponders,
    Starting,
)
from mesh.messages import Cancel
from mesh.streams import Stream
from mesh.watcher import Watcher

MAX_ATTEMPTS = 8
"""Instances tried for one call. Only no-responders leads on without a declared retry, so more is never useful."""

_ANSWERED = Outcome.ANSWERED

_log = logging.getLogger("mesh.client")


class Destination(Protocol):
    """Where a call goes, once the instance is known: revisions may name endpoints and parameters differently."""

    @property
    def service(self) -> str: ...

    @property
    def revisions(self) -> Collection[str] | None:
        """Only instances of these revisions; None for all."""

    @property
    def queued(self) -> str:
        """The subject on which NATS balances, for a caller that does not know the instances yet; empty for none."""

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        """The endpoint's name at that revision, and header lines of its own (each ending in CRLF)."""


class Answer(Struct, frozen=True, eq=False):
    """A reply and how it came about."""

    reply: Reply
    instance: str
    attempts: int
    stream: Stream | None = None
    """The rest of a body that is larger than one message, or has no end yet; close it."""


class Repeatable(NamedTuple):
    """What a route declares about repeating a call whose attempt took too long."""

    method: str
    try_timeout_ms: int
    idempotent: bool


Done = Callable[[Answer | MeshError], None]
"""Called once with a call's outcome."""


class Call:
    """A call under way. ``done`` is called once with its outcome, unless `cancel` is first.

    ``common`` are header lines, each ending in CRLF, that go with every attempt; ``deadline`` is a moment of the
    event loop's clock. An attempt that nobody received is repeated elsewhere at once; one that takes longer than
    ``repeatable`` says, within the rules of `mesh.balancer.may_retry`.
    """

    __slots__ = (
        "_balancer",
        "_budget",
        "_bus",
        "_common",
        "_deadline",
        "_destination",
        "_done",
        "_failed",
        "_patience",
        "_payload",
        "_peer",
        "_pending",
        "_repeatable",
        "_tried",
        "_watcher",
    )

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        balancer: Balancer | None,
        budget: RetryBudget | None,
        destination: Destination,
        common: bytes,
        payload: bytes,
        deadline: float,
        repeatable: Repeatable | None,
        done: Done,
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._balancer = balancer
        self._budget = budget
        self._destination = destination
        self._common = common
        self._payload = payload
        self._deadline = deadline
        self._repeatable = repeatable
        self._done = done
        self._tried: list[Peer] = []
        self._failed: MeshError | None = None
        self._peer: Peer | None = None
        self._pending: Pending | None = None
        self._patience = 0.0

    def attempt(self) -> None:
        """Send it to the next instance. Raises where that cannot be; ``done`` is not called then."""
        bus, balancer, destination, tried = self._bus, self._balancer, self._destination, self._tried
        now = bus.now()
        left = self._deadline - now
        if left <= 0:
            raise DeadlineExceeded("no instance could be reached before the deadline", executed="no")
        peer = balancer.pick(now, destination.revisions, tried) if balancer is not None else None
        if peer is None or balancer is None:
            if destination.queued and not tried and not self._watcher.knows(destination.service):
                # The first calls of a caller that is still learning who lives: NATS balances over the queue group.
                self._patience = left
                block = block_of(left, b"", self._common)
                address = bus.address(destination.queued)
                self._pending = bus.send(address, self._payload, block, left, self._settle_queued)
                return
            raise self._failed or nobody(bus, self._watcher, destination.service, tried)
        name, lines = destination.endpoint(peer.revision)
        if self._repeatable is not None:
            self._patience = min(left, self._repeatable.try_timeout_ms / 1000)
        else:
            self._patience = left
        tried.append(peer)
        block = block_of(left, lines, self._common)
        self._pending = bus.send(
            *(peer.address + name, self._payload, block, self._patience, self._settle),
            lenient=peer.foreign,
            place=peer.place,
        )
        self._peer = peer
        balancer.started(peer)

    def cancel(self) -> None:
        """Nobody waits for the outcome any more: the instance is told. Harmless when it has ended."""
        pending, self._pending = self._pending, None
        peer, self._peer = self._peer, None
        if pending is None:
            return
        # Told first: that closes a bundle with it, and the others in it know by then whose fate they share.
        tell_cancelled(self._bus, self._destination.service, peer.id if peer is not None else "", pending.reply)
        self._bus.requests.close(pending)
        if peer is not None and self._balancer is not None:
            self._balancer.finished(peer, Outcome.CANCELLED, self._bus.now())

    # -- from the bus

    def _settle_queued(self, ending: Ending) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None
        if isinstance(ending, Reply):
            self._done(Answer(ending, "", 1, pending.stream))
            return
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, self._destination.service, "", pending.reply)
        self._done(ending)

    def _settle(self, ending: Ending) -> None:
        pending, self._pending = self._pending, None
        peer, self._peer = self._peer, None
        balancer, now = self._balancer, self._bus.now()
        assert pending is not None
        assert peer is not None
        assert balancer is not None
        stream = pending.stream
        if isinstance(ending, Reply) and (pending.plain or _is_usable(ending.block, peer.foreign)):
            balancer.finished(peer, _ANSWERED, now)
            if stream is not None:
                _hold(balancer, peer, stream, self._bus.now)
            self._done(Answer(ending, "" if peer.foreign else peer.id, len(self._tried), stream))
            return
        if isinstance(ending, Reply):
            given = headers.find(headers.decode(ending.block), headers.STATUS)
            ending = BadReply(f"{peer.service}.{peer.id} replied with the status {given!r}")
        if stream is not None:  # it began, and nobody is there to read it
            stream.close()
        balancer.finished(peer, _outcome(ending, self._patience), now)
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, peer.service, peer.id, pending.reply)
        error = self._next(ending, peer, now)
        if error is not None:
            self._done(error)

    def _next(self, error: MeshError, peer: Peer, now: float) -> MeshError | None:
        """Another attempt, where one may help; else what the caller is told."""
        if isinstance(error, NoResponders):
            if peer.foreign:  # NATS balances those: there is no other one to try
                self._watcher.doubt(peer.service)
                return error
            self._failed = (
                self._failed or error
            )  # an attempt before may have run: then that is what the caller must know
        elif isinstance(error, DeadlineExceeded) and self._may_repeat(now):
            self._failed = error
        else:
            return error
        if len(self._tried) >= MAX_ATTEMPTS:
            return self._failed
        try:
            self.attempt()
        except MeshError as failed:
            return failed
        return None

    def _may_repeat(self, now: float) -> bool:
        repeatable, budget = self._repeatable, self._budget
        return (
            repeatable is not None
            and budget is not None
            and len(self._tried) < MAX_ATTEMPTS
            and may_retry(
                Outcome.TIMEOUT,
                method=repeatable.method,
                body_bytes=len(self._payload),
                try_timeout_ms=repeatable.try_timeout_ms,
                idempotent=repeatable.idempotent,
                budget=budget,
                now=now,
            )
        )


def _hold(balancer: Balancer, peer: Peer, stream: Stream, now: Callable[[], float]) -> None:
    """The instance has the call until the stream is over."""
    balancer.started(peer)
    stream.on_over = lambda: balancer.finished(peer, Outcome.CANCELLED, now())


def _outcome(error: MeshError, patience: float) -> Outcome:
    """What an error says about the instance."""
    if isinstance(error, NoResponders):
        return Outcome.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMEOUT if patience >= 1 else Outcome.SHORT_TIMEOUT
    if isinstance(error, BadReply):
        return Outcome.BAD_REPLY
    # A lost bus says nothing about the instance.
    return Outcome.LOST if isinstance(error, InstanceLost) else Outcome.CANCELLED


def nobody(bus: Bus, watcher: Watcher, service: str, tried: Sequence[Peer]) -> MeshError:
    """Why there is no instance to call."""
    if not bus.connected:
        return BusUnavailable(bus.last_error or "not connected to NATS")
    if not watcher.knows(service):
        return Starting("the registry is not synchronised yet")
    if tried:
        return NoResponders(f"none of the instances of {service} that were tried is listening")
    return NoInstances(f"no live instance of {service}")


def tell_cancelled(bus: Bus, service: str, instance: str, reply: bytes) -> None:
    """Tell an instance (all of them where it is empty) that nobody waits on that reply subject."""
    subject = bus.subjects.control("cancel", service, instance)
    try:
        bus.publish(bus.address(subject), messages.encode(Cancel(reply=reply.decode())))
    except MeshError as error:
        _log.debug("not cancelled: %s", error)


def _is_usable(block: bytes, foreign: bool) -> bool:
    """Whether a reply has a valid status. A foreign service needs none."""
    return headers.is_reply(block) or (foreign and headers.status_of(headers.decode(block)) is not None)


def block_of(left: float, lines: bytes, common: bytes) -> bytes:
    """The header block of one attempt with ``left`` seconds to go."""
    return b"NATS/1.0\r\nMesh-Deadline: %d\r\nMesh-Sent: %d\r\n%b%b\r\n" % (
        max(1, int(left * 1000)),
        boot_ms(),
        lines,
        common,
    )
