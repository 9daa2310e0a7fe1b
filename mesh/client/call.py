"""One call to one service: attempt after attempt, until one has an outcome for who asked.

Nothing here waits: replies, deadlines and lost connections arrive as calls from the bus, and the one who asked is
called in turn. So a caller that has a callback pays for no task and no future, and one that waits adds a future.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from msgspec import DecodeError, Struct
from msgspec.json import decode

from mesh import headers, messages
from mesh.balancer import Balancer, Course, Outcome, Peer, Reason, RetryBudget, RetryPolicy
from mesh.bus import Bus, Ending, Pending, Reply
from mesh.client.recovery import Recovery
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


Done = Callable[[Answer | MeshError], None]
"""Called once with a call's outcome."""


class Call:
    """A call under way. ``done`` is called once with its outcome, unless `cancel` is first.

    ``common`` are header lines, each ending in CRLF, that go with every attempt; ``deadline`` is a moment of the
    event loop's clock. Whether there is another attempt is for ``policy`` to say (`RetryPolicy.allows`). The first
    answer counts: what is given up for another attempt is cancelled, and its late answer dropped.
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
        "_losses",
        "_lost",
        "_patience",
        "_payload",
        "_peer",
        "_pending",
        "_policy",
        "_recovery",
        "_tried",
        "_watcher",
    )

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        recovery: Recovery,
        balancer: Balancer | None,
        budget: RetryBudget,
        destination: Destination,
        common: bytes,
        payload: bytes,
        deadline: float,
        policy: RetryPolicy,
        done: Done,
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._recovery = recovery
        self._balancer = balancer
        self._budget = budget
        self._destination = destination
        self._common = common
        self._payload = payload
        self._deadline = deadline
        self._policy = policy
        self._done = done
        self._tried: list[Peer] = []
        self._losses = 0
        self._failed: MeshError | None = None
        self._peer: Peer | None = None
        self._pending: Pending | None = None
        self._lost = b""  # while it waits for a connection: the reply subject of the attempt that the loss ended
        self._patience = 0.0

    def attempt(self, chosen: Peer | None = None) -> None:
        """Send it to the next instance, or to that one. Raises where that cannot be; ``done`` is not called then."""
        bus, balancer, destination, tried = self._bus, self._balancer, self._destination, self._tried
        now = bus.now()
        left = self._deadline - now
        if left <= 0:
            raise DeadlineExceeded("no instance could be reached before the deadline", executed="no")
        peer = chosen
        if peer is None and balancer is not None:
            peer = balancer.pick(now, destination.revisions, tried)
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
        policy = self._policy
        self._patience = min(left, policy.try_timeout_ms / 1000) if policy.try_timeout_ms else left
        tried.append(peer)
        block = block_of(left, lines, self._common)
        pending = self._pending = bus.send(
            *(peer.address + name, self._payload, block, self._patience, self._settle),
            lenient=peer.foreign,
            place=peer.place,
        )
        if policy.after_loss and not self._losses:
            pending.doubted = self._doubted
        self._peer = peer
        balancer.started(peer)

    def cancel(self) -> None:
        """Nobody waits for the outcome any more: the instance is told. Harmless when it has ended."""
        if self._lost:
            self._lost = b""
            self._recovery.stop_waiting(self._resumed)
        self._give_up()

    def _give_up(self) -> None:
        """Want no answer to the attempt under way any more."""
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
        self._end(ending)

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
            if self._failed is not None and self._failed.executed != "no" and denies(ending):
                self._end(self._failed)  # that one did not run it; one before may have
                return
            if stream is not None:
                _hold(balancer, peer, stream, self._bus.now)
            self._done(Answer(ending, "" if peer.foreign else peer.id, len(self._tried), stream))
            return
        if isinstance(ending, Reply):
            given = headers.find(headers.decode(ending.block), headers.STATUS)
            ending = BadReply(f"{peer.service}.{peer.id} replied with the status {given!r}")
        if stream is not None:  # it began, and nobody is there to read it
            stream.close()
        if isinstance(ending, NoResponders) and peer.ready and not peer.skipped:
            self._recovery.unheard(peer)
        balancer.finished(peer, _outcome(ending, self._patience), now)
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, peer.service, peer.id, pending.reply)
        self._next(ending, peer, pending.reply, now)

    def _next(self, error: MeshError, peer: Peer, reply: bytes, now: float) -> None:
        """Another attempt, where one may help; else the end."""
        failed = self._note(error)
        if isinstance(error, NoResponders) and peer.foreign:  # NATS balances those: there is no other one to try
            self._watcher.doubt(peer.service)
            self._end(failed)
            return
        reason = reason_of(error)
        if reason is None or not self._allows(reason, now):
            self._end(failed)
        elif reason is not Reason.CONNECTION_LOST:
            self._go_on(reason, failed)
        elif self._recovery.wait(self._resumed, self._deadline - now):
            self._lost = reply
        else:
            self._end(failed)

    def _resumed(self, connected: bool) -> None:
        """The wait for a connection is over."""
        lost, self._lost = self._lost, b""
        assert self._failed is not None
        if connected:
            peer = self._tried[-1]
            tell_cancelled(self._bus, peer.service, peer.id, lost)
            self._go_on(Reason.CONNECTION_LOST, self._failed)
        else:
            self._end(self._failed)

    def _doubted(self, error: MeshError) -> None:
        """The instance may not have the call any more, or its answer may be lost; but it may still come.

        So it is given up only for an attempt elsewhere. Where just the instance's connection was lost, and it has
        another one, it may get the same call again.
        """
        reason, now, balancer = reason_of(error), self._bus.now(), self._balancer
        if reason is None or balancer is None:
            return
        peer = self._other(reason, now)
        if peer is None or not self._allows(reason, now):
            return
        self._give_up()
        self._go_on(reason, self._note(error), peer)

    def _go_on(self, reason: Reason, why: MeshError, peer: Peer | None = None) -> None:
        try:
            self.attempt(peer or self._other(reason, self._bus.now()))
        except MeshError as error:
            self._end(self._note(error))
            return
        self._recovery.repeated(reason, self._destination.service, len(self._tried), why)

    def _other(self, reason: Reason, now: float) -> Peer | None:
        """An instance that was not tried; the same again where only connections were lost."""
        balancer, revisions = self._balancer, self._destination.revisions
        if balancer is None:
            return None
        peer = balancer.pick(now, revisions, self._tried)
        if peer is None and reason is Reason.CONNECTION_LOST:
            peer = balancer.pick(now, revisions)
        return peer

    def _allows(self, reason: Reason, now: float) -> bool:
        course = Course(len(self._tried), self._losses, len(self._payload), self._deadline - now)
        if not self._policy.allows(reason, course, self._budget, now):
            return False
        self._losses += reason is Reason.INSTANCE_LOST or reason is Reason.CONNECTION_LOST
        return True

    def _note(self, error: MeshError) -> MeshError:
        """What the caller would be told now: the last error, unless it says that nothing ran where something may."""
        failed = self._failed
        if failed is None or failed.executed == "no" or error.executed != "no":
            failed = self._failed = error
        return failed

    def _end(self, error: MeshError) -> None:
        error.attempts = max(1, len(self._tried))
        self._done(error)


def reason_of(error: MeshError) -> Reason | None:
    """Why the attempt came to nothing, where that may be mended by another one."""
    if isinstance(error, NoResponders):
        return Reason.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return Reason.TIMEOUT
    if isinstance(error, InstanceLost):
        return Reason.INSTANCE_LOST
    return Reason.CONNECTION_LOST if isinstance(error, BusUnavailable) else None


def denies(reply: Reply) -> bool:
    """Whether a reply refuses the request, and says that it was not run."""
    if headers.find(headers.decode(reply.block), headers.STATUS) not in (b"503", b"504"):
        return False
    try:
        return decode(reply.payload, type=_Document).executed == "no"
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False


class _Document(Struct):
    executed: str = ""


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
