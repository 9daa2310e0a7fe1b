"""The first message of a call that goes on as a stream: an upload, or a WebSocket's handshake.

Nothing of a body has gone before the request is accepted, so what nobody received is sent elsewhere like any other
request. The rules for what may have been received are those of `Call`.
"""

from __future__ import annotations

from functools import partial

from mesh.balancer import Balancer, Course, Outcome, Peer, Reason, RetryBudget, RetryPolicy
from mesh.bus import Bus
from mesh.client.attempts import block_of, denies, nobody, reason_of, tell_cancelled, told
from mesh.client.call import Destination
from mesh.client.conversation import Conversation
from mesh.client.recovery import Recovery
from mesh.errors import BusUnavailable, DeadlineExceeded, InstanceLost, MeshError, NoResponders, TooLarge
from mesh.streams import Streams
from mesh.watcher import Watcher


class Opening:
    """One call that becomes a `Conversation`; `open` is called once."""

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        streams: Streams,
        recovery: Recovery,
        balancer: Balancer | None,
        budget: RetryBudget,
        destination: Destination,
        deadline: float,
        policy: RetryPolicy,
    ) -> None:
        """``deadline`` is a moment of `Bus.now`."""
        self._bus = bus
        self._watcher = watcher
        self._streams = streams
        self._recovery = recovery
        self._balancer = balancer
        self._budget = budget
        self._destination = destination
        self._deadline = deadline
        self._policy = policy
        self._tried: list[Peer] = []
        self._losses = 0
        self._other: Peer | None = None  # for whom a doubt ended the attempt
        self._cause: tuple[Reason, MeshError] | None = None  # of an attempt that is not the first

    async def open(self, kind: bytes, common: bytes) -> Conversation:
        """See `Caller.open`. ``kind`` and ``common`` are header lines."""
        failed: MeshError | None = None
        peer = self._choose(again=False)
        while True:
            left, balancer = self._deadline - self._bus.now(), self._balancer
            if peer is None or balancer is None or left <= 0:
                raise failed or nobody(self._bus, self._watcher, self._destination.service, self._tried)
            if peer.foreign:
                raise TooLarge(f"{self._destination.service} takes no more than one message")
            self._tried.append(peer)
            try:
                conversation = await self._begin(balancer, peer, kind + common, left)
            except MeshError as error:
                failed = told(failed, error)
                failed.attempts = len(self._tried)
                reason = reason_of(error)
                peer, self._other = self._other, None
                if reason is None or (peer is None and (peer := await self._another(reason)) is None):
                    raise failed from None
                self._cause = reason, error
                continue
            if (
                failed is not None
                and failed.executed != "no"
                and conversation.answered
                and denies(await conversation.head())
            ):
                conversation.close()
                raise failed  # that one did not run it; one before may have
            return conversation

    def _choose(self, *, again: bool) -> Peer | None:
        balancer = self._balancer
        if balancer is None:
            return None
        return balancer.choose(self._bus.now(), self._destination.revisions, self._tried, again=again)

    def _allows(self, reason: Reason) -> bool:
        now = self._bus.now()
        course = Course(len(self._tried), self._losses, 0, self._deadline - now)
        if not self._policy.allows(reason, course, self._budget, now):
            return False
        self._losses += reason is Reason.INSTANCE_LOST or reason is Reason.CONNECTION_LOST
        return True

    async def _another(self, reason: Reason) -> Peer | None:
        """The instance for another attempt, once it can be made; None where there is to be none."""
        recovery, left = self._recovery, self._deadline - self._bus.now()
        if reason is Reason.INSTANCE_LOST:
            other = self._choose(again=False)
            return other if other is not None and self._allows(reason) else None
        if reason is Reason.TIMEOUT or not self._allows(reason):
            return None
        if reason is Reason.NO_RESPONDERS:
            other = self._choose(again=False)
            if other is not None or not await recovery.returned(self._tried, left):
                return other
        elif not await recovery.connected(left):
            return None
        return self._choose(again=True)

    def _doubted(self, conversation: Conversation, error: MeshError) -> None:
        """The instance may not have the request any more; it is given up only for another attempt, see `Call`."""
        reason = reason_of(error)
        if reason is None or conversation.begun:
            return
        other = self._choose(again=reason is Reason.CONNECTION_LOST)
        if other is not None and self._allows(reason):
            self._other = other
            conversation.lost(error)

    async def _begin(self, balancer: Balancer, peer: Peer, common: bytes, timeout: float) -> Conversation:
        now = self._bus.now
        stream = self._streams.open()
        outcome = Outcome.CANCELLED
        balancer.started(peer)
        stream.add_done_callback(lambda: balancer.finished(peer, outcome, now()))
        conversation = Conversation(stream, self._bus.subjects, peer.id)
        conversation.attempts = len(self._tried)
        name, lines = self._destination.endpoint(peer.revision)
        doubted = partial(self._doubted, conversation) if self._policy.after_loss else None
        self._recovery.opening(conversation, peer, doubted)
        try:
            self._bus.publish(peer.address + name, b"", block_of(timeout, lines, common), stream.own_subject)
            if self._cause is not None:
                reason, why = self._cause
                self._recovery.repeated(reason, peer.service, len(self._tried), why)
            await conversation.accepted(timeout)
            outcome = Outcome.ANSWERED
            return conversation
        except BaseException as error:
            if isinstance(error, NoResponders):
                if peer.ready and not peer.skipped:
                    self._recovery.unheard(peer)
                outcome = Outcome.NO_RESPONDERS
            elif isinstance(error, DeadlineExceeded) and timeout >= 1:
                outcome = Outcome.TIMEOUT
            if not isinstance(error, MeshError) or isinstance(error, DeadlineExceeded | InstanceLost | BusUnavailable):
                tell_cancelled(self._bus, peer.service, peer.id, stream.own_subject)
            conversation.close()
            raise
        finally:
            self._recovery.opened(conversation)
