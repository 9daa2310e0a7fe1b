"""Calls to services whose instances are known: what the gateway and ``ctx.call`` both come through.

So there is one set of policies. Decisions are the balancer's, the life of one call is `Call`'s; this module keeps
balancers and budgets, and does the waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from mesh.balancer import NEVER, Balancer, Peer, RetryBudget, RetryPolicy
from mesh.bus import Bus
from mesh.client.call import Answer, Call, Destination, Done
from mesh.client.connection_probes import Probes
from mesh.client.conversation import Conversation
from mesh.client.opening import Opening
from mesh.client.recovery import Recovery
from mesh.errors import MeshError
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
        self._probes = Probes(bus, self._balancers, self.recovery)
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
            await self._bus.wait_reconnected()
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
        deadline = self._bus.now() + timeout
        if not self._bus.connected:
            await self._bus.wait_reconnected()
        opening = Opening(
            self._bus,
            self._watcher,
            self._streams,
            self.recovery,
            self._balancers.get(destination.service),
            self._counted(destination.service),
            destination,
            deadline,
            policy,
        )
        return await opening.open(b"Mesh-Body: %b\r\n" % kind, common)

    def _counted(self, service: str) -> RetryBudget:
        """The service's budget, with one call more in it."""
        budget = self._budgets.get(service)
        if budget is None:
            budget = self._budgets[service] = RetryBudget()
        budget.record_call(self._bus.now())
        return budget

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
            was_skipped = balancer.skips(instance)
            peer = balancer.heard(instance, known.connection)
            if peer is not None:
                self.recovery.reconnected(peer)
            if was_skipped:
                self.recovery.heard(service)

    def _fail(self, service: str, instance: str) -> None:
        if self._watcher.registry.get(service, instance) is not None:
            return  # it is back: somebody else had said that it stopped
        self.recovery.lost(service, instance)
        self._streams.fail_prefix(self._bus.subjects.stream(service, instance, "").encode())
