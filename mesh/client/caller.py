"""Calls to services whose instances are known. The gateway, ``ctx.call`` and the command line all use it.

So there is one set of rules. The balancer chooses instances, `Attempts` decides about retries, `Call` and
`StreamOpening` send the messages. This module keeps what is known of each service, and waits for outcomes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from mesh.balancer import Balancer, Peer
from mesh.bus import Bus
from mesh.client.attempts import Attempts, CallSpec
from mesh.client.call import Call, CallerParts, Done
from mesh.client.called_service import CalledService
from mesh.client.connection_probes import ConnectionProbes
from mesh.client.recovery import Recovery
from mesh.client.replies import Answer
from mesh.client.stream_opening import StreamOpening
from mesh.client.streaming_call import StreamingCall
from mesh.errors import MeshError
from mesh.registry import Change
from mesh.streams import Streams
from mesh.watcher import Watcher

STOPPED_GRACE_S = 0.25
"""Seconds between the ``stopped`` announcement of an instance and the end of the calls that it has: the announcement
may overtake its last reply."""


class Caller:
    """Calls services over ``bus``; ``watcher`` knows their instances."""

    def __init__(self, bus: Bus, watcher: Watcher, streams: Streams, rng: random.Random | None = None) -> None:
        self._bus = bus
        self._streams = streams
        self._watcher = watcher
        self._rng = rng or random.Random()
        self._recovery = Recovery(bus)
        self._parts = CallerParts(bus, watcher, self._recovery)
        self._services: dict[str, CalledService] = {}
        self._probes = ConnectionProbes(bus, self._services, self._recovery)
        watcher.on_change(self._changed)
        watcher.on_heard(self._heard)

    @property
    def services(self) -> Mapping[str, CalledService]:
        """The services that have instances, or that were called, by name."""
        return self._services

    def peers(self, service: str) -> Sequence[Peer]:
        """The instances of a service as this caller sees them, its own calls in flight included."""
        known = self._services.get(service)
        return list(known.balancer.peers()) if known is not None else []

    async def call(self, spec: CallSpec, payload: bytes) -> Answer:
        """Make a call and return the reply of one instance.

        Raises `NoInstances`, `NoResponders`, `Starting`, `BusUnavailable`, `InstanceLost`, `DeadlineExceeded`,
        `BadReply`, `TooLarge`. If the calling task is cancelled, the instance is told.
        """
        if not self._bus.connected:
            await self._bus.wait_reconnected()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(outcome: Answer | MeshError) -> None:
            if isinstance(outcome, Answer):
                if not future.done():
                    future.set_result(outcome)
                elif outcome.stream is not None:
                    outcome.stream.close()
            elif not future.done():
                future.set_exception(outcome)

        call = self.start(spec, payload, done)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            if future.done() and not future.cancelled() and future.exception() is None:  # it came in the same turn
                stream = future.result().stream
                if stream is not None:
                    stream.close()
            raise

    def start(self, spec: CallSpec, payload: bytes, done: Done) -> Call:
        """Begin a call whose outcome goes to ``done``.

        Raises what `call` raises if it cannot even be sent; ``done`` is not called then.
        """
        name = spec.destination.service
        service = self._services.get(name) or self._service(name)
        budget, now = service.budget, self._bus.now()
        if now >= budget.next_second:  # as `RetryBudget.record_call`: here is no time for a call of a method
            budget.advance(now)
        budget.calls += 1
        attempts = Attempts(service, spec, len(payload))
        call = Call(self._parts, attempts, payload, done)
        call.send(service.balancer.pick(now, spec.destination.revisions), now)
        return call

    async def open(self, spec: CallSpec, *, kind: bytes = b"stream") -> StreamingCall:
        """Begin a call whose body follows as a stream; returns when it is accepted, or answered already.

        A request that no instance received is sent to another one at once: nothing of its body has gone yet. If an
        instance may have received it (a handshake without a reply, say), ``spec.policy`` decides.

        spec: its deadline is for this alone, and not for the stream.
        kind: what follows, ``stream`` for a body, ``websocket`` for messages both ways.
        Raises what `call` raises, and `TooLarge` if the service takes no streams.
        """
        if not self._bus.connected:
            await self._bus.wait_reconnected()
        service = self._service(spec.destination.service)
        service.budget.record_call(self._bus.now())
        opening = StreamOpening(
            bus=self._bus,
            watcher=self._watcher,
            streams=self._streams,
            recovery=self._recovery,
            attempts=Attempts(service, spec),
            kind=kind,
        )
        return await opening.open()

    def _service(self, name: str) -> CalledService:
        service = self._services.get(name)
        if service is None:
            balancer = Balancer(name, self._rng, self._bus.subjects.prefix)
            service = self._services[name] = CalledService(name, balancer)
        return service

    # -- from the watcher

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            service, id = self._service(change.service), change.instance
            instance = self._watcher.registry.get(service.name, id)
            if instance is not None:
                service.balancer.update(instance)
            else:
                service.balancer.remove(id)
            service.instances_changed(id, change.kind)
            if not service.balancer.peers() and not service.budget.calls:
                del self._services[service.name]
            if change.kind == "lost":
                self._fail(service.name, id)
            elif change.kind == "left":
                asyncio.get_running_loop().call_later(STOPPED_GRACE_S, self._fail, service.name, id)

    def _heard(self, service: str, instance: str) -> None:
        called, known = self._services.get(service), self._watcher.registry.get(service, instance)
        if called is not None and known is not None:
            was_skipped, reconnected = called.heard(instance, known.connection)
            if reconnected is not None:
                self._recovery.instance_reconnected(reconnected)
            if was_skipped:
                self._recovery.instance_heard(service)

    def _fail(self, service: str, instance: str) -> None:
        if self._watcher.registry.get(service, instance) is not None:
            return  # it is back: another process had said that it stopped
        self._recovery.instance_lost(service, instance)
        self._streams.fail_prefix(self._bus.subjects.stream(service, instance, "").encode())
