"""One call to one service: attempt after attempt, until one has an outcome for who asked.

Nothing here waits: replies, deadlines and lost connections arrive as calls from the bus, and the one who asked is
called in turn. So a caller that has a callback pays for no task and no future, and one that waits adds a future.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from msgspec import Struct

from mesh import headers
from mesh.balancer import Balancer, Course, Outcome, Peer, Reason, RetryBudget, RetryPolicy
from mesh.bus import Bus, Ending, Pending, Reply
from mesh.client.attempts import block_of, denies, is_usable, nobody, outcome_of, reason_of, tell_cancelled, told
from mesh.client.recovery import Recovery
from mesh.errors import BadReply, DeadlineExceeded, MeshError, NoResponders
from mesh.streams import Stream
from mesh.watcher import Watcher

_ANSWERED = Outcome.ANSWERED


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
        "_waiting",
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
        self._waiting: Reason | None = None  # why there is no attempt under way at the moment
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
        if policy.after_loss:
            pending.doubted = self._doubted
        self._peer = peer
        balancer.started(peer)

    def cancel(self) -> None:
        """Nobody waits for the outcome any more: the instance is told. Harmless when it has ended."""
        reason, self._waiting = self._waiting, None
        if reason is not None:
            self._recovery.stop_waiting(self._resumed)
        if reason is Reason.CONNECTION_LOST:
            self._recovery.await_connection(self._cancel_lost, self._deadline - self._bus.now())
        self._give_up()

    def _cancel_lost(self, connected: bool) -> None:
        """Tell the instance that had the attempt which the loss of our connection ended, where there is a way to it."""
        if connected:
            peer = self._tried[-1]
            tell_cancelled(self._bus, peer.service, peer.id, self._lost)

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
        if isinstance(ending, Reply) and (pending.plain or is_usable(ending.block, peer.foreign)):
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
        balancer.finished(peer, outcome_of(ending, self._patience), now)
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, peer.service, peer.id, pending.reply)
        self._next(ending, peer, pending.reply, now)

    def _next(self, error: MeshError, peer: Peer, reply: bytes, now: float) -> None:
        """Another attempt, where one may help; else the end."""
        failed = self._note(error)
        if isinstance(error, NoResponders) and peer.foreign:  # NATS balances those: there is no other one to try
            self._watcher.report_no_responders(peer.service)
            self._end(failed)
            return
        reason = reason_of(error)
        other = None
        if reason is Reason.INSTANCE_LOST or reason is Reason.TIMEOUT:
            # Before the budget is charged: nobody waits for an instance that is still to come.
            other = self._choose(now, again=False)
            if other is None:
                reason = None
        if reason is None or not self._allows(reason, now):
            self._end(failed)
        elif other is not None:
            self._send(other, reason, failed)
        elif reason is not Reason.CONNECTION_LOST:
            self._go_on(reason, failed)
        elif self._recovery.await_connection(self._resumed, self._deadline - now):
            self._waiting, self._lost = reason, reply
        else:
            self._end(failed)

    def _go_on(self, reason: Reason, why: MeshError, *, again: bool = False) -> None:
        """The next attempt, now, or when somebody is there to have it. ``again``: those that were tried may be."""
        now = self._bus.now()
        peer = self._choose(now, again)
        if (
            peer is None
            and reason is Reason.NO_RESPONDERS
            and self._recovery.await_return(self._resumed, self._tried, self._deadline - now)
        ):
            self._waiting = reason
            return
        self._send(peer, reason, why)

    def _send(self, peer: Peer | None, reason: Reason, why: MeshError) -> None:
        try:
            self.attempt(peer)
        except MeshError as error:
            self._end(self._note(error))
            return
        self._recovery.repeated(reason, self._destination.service, len(self._tried), why)

    def _resumed(self, happened: bool) -> None:
        """The wait is over: for our connection, or for an instance that may be on its way to another server."""
        reason, self._waiting = self._waiting, None
        assert reason is not None
        assert self._failed is not None
        if not happened:
            self._end(self._failed)
            return
        if reason is Reason.CONNECTION_LOST:
            self._cancel_lost(True)
        self._go_on(reason, self._failed, again=True)

    def _doubted(self, error: MeshError) -> None:
        """The instance may not have the call any more, or its answer may be lost; but it may still come.

        So it is given up only for another attempt. Where the instance has another connection, it may get it itself.
        """
        reason, now = reason_of(error), self._bus.now()
        if reason is None:
            return
        peer = self._choose(now, again=reason is Reason.CONNECTION_LOST)
        if peer is None or not self._allows(reason, now):
            return
        self._give_up()
        self._send(peer, reason, self._note(error))

    def _choose(self, now: float, again: bool) -> Peer | None:
        balancer = self._balancer
        if balancer is None:
            return None
        return balancer.choose(now, self._destination.revisions, self._tried, again=again)

    def _allows(self, reason: Reason, now: float) -> bool:
        course = Course(len(self._tried), self._losses, len(self._payload), self._deadline - now)
        if not self._policy.allows(reason, course, self._budget, now):
            return False
        self._losses += reason is Reason.INSTANCE_LOST or reason is Reason.CONNECTION_LOST
        return True

    def _note(self, error: MeshError) -> MeshError:
        self._failed = told(self._failed, error)
        return self._failed

    def _end(self, error: MeshError) -> None:
        error.attempts = max(1, len(self._tried))
        self._done(error)


def _hold(balancer: Balancer, peer: Peer, stream: Stream, now: Callable[[], float]) -> None:
    """The instance has the call until the stream is over."""
    balancer.started(peer)
    stream.on_over = lambda: balancer.finished(peer, Outcome.CANCELLED, now())
