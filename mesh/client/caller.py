"""Calls to services whose instances are known: what the gateway and ``ctx.call`` both come through.

So there is one set of policies. Decisions are the balancer's, the life of one call is `Call`'s; this module keeps
balancers and budgets, and does the waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from mesh.balancer import NEVER, Balancer, Course, Outcome, Peer, Reason, RetryBudget, RetryPolicy
from mesh.bus import Bus
from mesh.client.call import (
    Answer,
    Call,
    Destination,
    Done,
    block_of,
    denies,
    nobody,
    reason_of,
    tell_cancelled,
)
from mesh.client.conversation import Conversation
from mesh.client.recovery import Recovery
from mesh.errors import BusUnavailable, DeadlineExceeded, InstanceLost, MeshError, NoResponders, TooLarge
from mesh.registry import Change
from mesh.streams import Streams
from mesh.watcher import Watcher

STOPPED_GRACE_S = 0.25
"""A last reply may be overtaken by the ``stopped`` announcement: calls in flight are failed this much later."""


class Caller:
    """Calls services over ``bus``, knowing their instances from ``watcher``."""

    def __init__(self, bus: Bus, watcher: Watcher, streams: Streams, rng: random.Random | None = None) -> None:
        self._bus = bus
        self._streams = streams
        self._watcher = watcher
        self._rng = rng or random.Random()
        self.recovery = Recovery(bus)
        self._balancers: dict[str, Balancer] = {}
        self._budgets: dict[str, RetryBudget] = {}
        watcher.on_change(self._changed)
        watcher.on_heard(self._heard)

    def peers(self, service: str) -> Sequence[Peer]:
        """What this caller knows of the instances of a service, its own calls in flight included."""
        balancer = self._balancers.get(service)
        return list(balancer.peers()) if balancer is not None else []

    async def call(
        self,
        destination: Destination,
        common: bytes,
        payload: bytes,
        timeout: float,
        policy: RetryPolicy = NEVER,
    ) -> Answer:
        """The answer of one instance within ``timeout`` seconds; see `Call`.

        Raises `NoInstances`, `NoResponders`, `Starting`, `BusUnavailable`, `InstanceLost`, `DeadlineExceeded`,
        `BadReply`, `TooLarge`. When the caller is cancelled, the instance is told.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if not self._bus.connected:
            await self._bus.blink()
        future: asyncio.Future[Answer] = loop.create_future()

        def done(outcome: Answer | MeshError) -> None:
            if isinstance(outcome, Answer):
                if not future.done():
                    future.set_result(outcome)
                elif outcome.stream is not None:
                    outcome.stream.close()
            elif not future.done():
                future.set_exception(outcome)

        call = self.start(destination, common, payload, deadline, policy, done)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            if future.done() and not future.cancelled() and future.exception() is None:  # it came in the same turn
                stream = future.result().stream
                if stream is not None:
                    stream.close()
            raise

    def start(
        self,
        destination: Destination,
        common: bytes,
        payload: bytes,
        deadline: float,
        policy: RetryPolicy,
        done: Done,
    ) -> Call:
        """Begin a call whose outcome goes to ``done``; ``deadline`` is a moment of the event loop's clock.

        Raises as `call` does where it cannot even be sent; ``done`` is not called then.
        """
        service = destination.service
        budget = self._budgets.get(service)
        if budget is None:
            budget = self._budgets[service] = RetryBudget()
        if (now := self._bus.now()) >= budget.turns_at:
            budget.turn(now)
        budget.calls += 1
        call = Call(
            self._bus,
            self._watcher,
            self.recovery,
            self._balancers.get(service),
            budget,
            destination,
            common,
            payload,
            deadline,
            policy,
            done,
        )
        call.attempt()
        return call

    async def open(
        self,
        destination: Destination,
        common: bytes,
        timeout: float,
        *,
        kind: bytes = b"stream",
        policy: RetryPolicy = NEVER,
    ) -> Conversation:
        """Begin a call whose body follows as a stream; returns when it is accepted, or answered already.

        ``kind`` is what follows: ``stream`` for a body, ``websocket`` for messages both ways. ``timeout`` is for this
        alone, in seconds. A request that nobody received is sent elsewhere at once: nothing of its body has gone yet.
        ``policy`` says whether one that may have been received is: a handshake without an answer, say.
        Raises as `call` does, and `TooLarge` where the service takes no streams.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if not self._bus.connected:
            await self._bus.blink()
        service = destination.service
        budget = self._budgets.setdefault(service, RetryBudget())
        budget.record_call(loop.time())
        tried: list[Peer] = []
        losses = 0
        failed: MeshError | None = None
        while True:
            now = loop.time()
            balancer = self._balancers.get(service)
            peer = balancer.pick(now, destination.revisions, tried) if balancer is not None else None
            if peer is None and balancer is not None and isinstance(failed, BusUnavailable):
                peer = balancer.pick(now, destination.revisions)  # it was not its fault
            if peer is None or balancer is None or now >= deadline:
                raise failed or nobody(self._bus, self._watcher, service, tried)
            if peer.foreign:
                raise TooLarge(f"{service} takes no more than one message")
            tried.append(peer)
            name, lines = destination.endpoint(peer.revision)
            try:
                lines = b"Mesh-Body: %b\r\n%b%b" % (kind, lines, common)
                conversation = await self._begin(
                    balancer, peer, peer.address + name, lines, deadline - now, tried, policy.after_loss
                )
            except MeshError as error:
                error.attempts = len(tried)
                if failed is None or failed.executed == "no" or error.executed != "no":
                    failed = error
                reason, now = reason_of(error), loop.time()
                course = Course(len(tried), losses, 0, deadline - now)
                if reason in (None, Reason.TIMEOUT) or not policy.allows(reason, course, budget, now):
                    raise failed from None
                losses += reason is not Reason.NO_RESPONDERS
                if reason is Reason.CONNECTION_LOST and not await self.recovery.connected(deadline - now):
                    raise failed from None
                self.recovery.repeated(reason, service, len(tried) + 1, error)
                continue
            ran = failed is not None and failed.executed != "no"
            if ran and conversation.answered and denies(await conversation.head()):
                conversation.close()
                assert failed is not None
                raise failed  # that one did not run it; one before may have
            return conversation

    async def _begin(
        self,
        balancer: Balancer,
        peer: Peer,
        address: bytes,
        lines: bytes,
        timeout: float,
        tried: Sequence[Peer],
        repeatable: bool,
    ) -> Conversation:
        loop = asyncio.get_running_loop()
        stream = self._streams.call()
        outcome = Outcome.CANCELLED
        balancer.started(peer)
        stream.on_over = lambda: balancer.finished(peer, outcome, loop.time())
        conversation = Conversation(stream, self._bus.subjects, peer.id)
        conversation.attempts = len(tried)
        self.recovery.opening(conversation, peer, repeatable)
        try:
            self._bus.publish(address, b"", block_of(timeout, b"", lines), stream.own)
            await conversation.accepted(timeout)
            outcome = Outcome.ANSWERED
            return conversation
        except BaseException as error:
            if isinstance(error, NoResponders):
                if peer.ready and not peer.skipped:
                    self.recovery.unheard(peer)
                outcome = Outcome.NO_RESPONDERS
            elif isinstance(error, DeadlineExceeded) and timeout >= 1:
                outcome = Outcome.TIMEOUT
            if not isinstance(error, MeshError) or isinstance(error, DeadlineExceeded | InstanceLost | BusUnavailable):
                tell_cancelled(self._bus, peer.service, peer.id, stream.own)
            conversation.close()
            raise
        finally:
            self.recovery.opened(conversation)

    # -- from the watcher

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            service, id = change.service, change.instance
            instance = self._watcher.registry.get(service, id)
            balancer = self._balancers.get(service)
            if balancer is None:
                balancer = self._balancers[service] = Balancer(service, self._rng, self._bus.subjects.prefix)
            if instance is not None:
                balancer.update(instance)
            else:
                balancer.remove(id)
            if not balancer.peers():
                del self._balancers[service]
            if change.kind == "lost":
                self._fail(service, id)
            elif change.kind == "left":
                asyncio.get_running_loop().call_later(STOPPED_GRACE_S, self._fail, service, id)

    def _heard(self, service: str, instance: str) -> None:
        balancer, known = self._balancers.get(service), self._watcher.registry.get(service, instance)
        if balancer is not None and known is not None:
            peer = balancer.heard(instance, known.connection)
            if peer is not None:
                self.recovery.reconnected(peer)

    def _fail(self, service: str, instance: str) -> None:
        self.recovery.lost(service, instance)
        self._streams.fail_prefix(self._bus.subjects.stream(service, instance, "").encode())
