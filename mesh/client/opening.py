"""The first message of a call that goes on as a stream: an upload, or a WebSocket's handshake.

Nothing of a body has gone before the request is accepted, so what nobody received is sent elsewhere like any other
request. The rules for what may have been received are those of `Call`.
"""

from __future__ import annotations

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
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._streams = streams
        self._recovery = recovery
        self._balancer = balancer
        self._budget = budget
        self._tried: list[Peer] = []
        self._losses = 0

    async def open(
        self, destination: Destination, kind: bytes, common: bytes, deadline: float, policy: RetryPolicy
    ) -> Conversation:
        """See `Caller.open`. ``kind`` and ``common`` are header lines, ``deadline`` is a moment of `Bus.now`."""
        service, tried = destination.service, self._tried
        failed: MeshError | None = None
        again = False
        while True:
            now = self._bus.now()
            balancer, peer = self._balancer, self._choose(destination, now, again)
            if peer is None or balancer is None or now >= deadline:
                raise failed or nobody(self._bus, self._watcher, service, tried)
            if peer.foreign:
                raise TooLarge(f"{service} takes no more than one message")
            tried.append(peer)
            try:
                conversation = await self._begin(
                    balancer, peer, destination, kind + common, deadline - now, policy.after_loss
                )
            except MeshError as error:
                failed = told(failed, error)
                failed.attempts = len(tried)
                reason = reason_of(error)
                if not await self._may_go_on(reason, destination, deadline, policy):
                    raise failed from None
                assert reason is not None
                again = reason is Reason.CONNECTION_LOST or self._choose(destination, self._bus.now(), False) is None
                self._recovery.repeated(reason, service, len(tried) + 1, error)
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

    def _choose(self, destination: Destination, now: float, again: bool) -> Peer | None:
        balancer = self._balancer
        if balancer is None:
            return None
        peer = balancer.pick(now, destination.revisions, self._tried)
        return balancer.pick(now, destination.revisions) if peer is None and again else peer

    async def _may_go_on(
        self, reason: Reason | None, destination: Destination, deadline: float, policy: RetryPolicy
    ) -> bool:
        """Whether there is another attempt; returns when it can be made."""
        now, recovery = self._bus.now(), self._recovery
        if reason is None or reason is Reason.TIMEOUT:
            return False
        if not policy.allows(reason, Course(len(self._tried), self._losses, 0, deadline - now), self._budget, now):
            return False
        if reason is Reason.NO_RESPONDERS:
            other = self._choose(destination, now, False)
            return other is not None or await recovery.returned(self._tried, deadline - now)
        self._losses += 1
        return reason is not Reason.CONNECTION_LOST or await recovery.connected(deadline - now)

    async def _begin(
        self,
        balancer: Balancer,
        peer: Peer,
        destination: Destination,
        common: bytes,
        timeout: float,
        repeatable: bool,
    ) -> Conversation:
        now = self._bus.now
        stream = self._streams.call()
        outcome = Outcome.CANCELLED
        balancer.started(peer)
        stream.on_over = lambda: balancer.finished(peer, outcome, now())
        conversation = Conversation(stream, self._bus.subjects, peer.id)
        conversation.attempts = len(self._tried)
        name, lines = destination.endpoint(peer.revision)
        self._recovery.opening(conversation, peer, repeatable)
        try:
            self._bus.publish(peer.address + name, b"", block_of(timeout, lines, common), stream.own)
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
                tell_cancelled(self._bus, peer.service, peer.id, stream.own)
            conversation.close()
            raise
        finally:
            self._recovery.opened(conversation)
