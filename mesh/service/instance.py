"""One running copy of a service, from its connection to its last flush."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum

from mesh import messages
from mesh.announcer import Announcer, Load
from mesh.bus import Bus, Subscription
from mesh.client import Calls
from mesh.errors import MeshError
from mesh.service.conflict_log import ConflictLog
from mesh.service.definition import ServiceDefinition
from mesh.service.dependencies import Resources
from mesh.service.dispatch import Dispatcher
from mesh.service.events import EventReceiver
from mesh.service.micro import MicroResponder
from mesh.service.readiness import Check, Readiness
from mesh.service.replies import Replies
from mesh.service.request_handling import RequestHandler
from mesh.service.saturation import CHECK_INTERVAL_S, Saturation
from mesh.service.statistics import Statistics
from mesh.settings import BusSettings, ServiceSettings
from mesh.streams import Streams
from mesh.subjects import QUEUE, new_id

_log = logging.getLogger("mesh.service")


class Life(Enum):
    """The states of an instance, in their order; none comes twice.

    The announced state is another: ``ready`` and ``unready`` are both `RUNNING`.
    """

    CREATED = "created"
    STARTING = "starting"
    """Its hooks and readiness checks run, and it subscribes."""
    RUNNING = "running"
    DRAINING = "draining"
    """It announces that callers should ask others, serves what still comes, and waits for its handlers."""
    STOPPED = "stopped"
    """Its connection is closed."""


class ServiceInstance:
    """Runs a service; ``async with`` starts it and drains it.

    Start: connect, startup hooks, subscriptions, flush, announce. Stop, in an order that loses no request: announce
    ``draining``, serve while callers pick others, unsubscribe, await the handlers (bounded), announce ``stopped``,
    flush, close.

    service: what it runs
    bus: the settings of its connection
    settings: its limits and times
    instance: its id; a new one by default
    """

    def __init__(
        self, service: ServiceDefinition, bus: BusSettings, settings: ServiceSettings, instance: str = ""
    ) -> None:
        self.service = service
        self.id = instance or new_id()
        self.life = Life.CREATED
        self.stop_requested = asyncio.Event()
        """Set by a signal or ``mesh drain``."""
        self.bus = Bus(bus, service=service.name, instance=self.id)
        self.streams = Streams(self.bus)
        self.calls = Calls(self.bus, self.streams)
        self.resources = Resources()
        self.events = EventReceiver(self.bus, service.subscriptions, self.calls, self.resources)
        # Statistics are the instance's own, also if one process runs several instances of a service.
        self.endpoints = {name: replace(e, statistics=Statistics()) for name, e in service.endpoints.items()}
        self.announced = service.announced_endpoints(self.bus.subjects)
        replies = Replies(self.bus, self.streams)
        self._handler = RequestHandler(
            self.bus,
            replies,
            calls=self.calls,
            max_body=settings.max_body,
            layers=service.layers,
            resources=self.resources.values,
        )
        self.dispatcher = Dispatcher(
            self.bus,
            self.endpoints,
            handler=self._handler,
            replies=replies,
            concurrency=settings.concurrency,
            queue=settings.queue,
        )
        saturation = Saturation(self.dispatcher.abandoned, settings.concurrency, asyncio.get_running_loop().time)
        own = Check("saturation", saturation.check, timeout=CHECK_INTERVAL_S, every=CHECK_INTERVAL_S)
        self.readiness = Readiness([*service.checks, own], self._readiness_changed)
        self.announcer = Announcer(
            self.bus,
            version=service.version,
            description=service.description,
            metadata=service.metadata,
            endpoints=self.announced,
            routes=service.announced_routes(),
            heartbeat_ms=settings.heartbeat_ms,
            load=lambda: Load(self.dispatcher.inflight, self.dispatcher.capacity),
        )
        self.micro = MicroResponder(
            self.bus,
            service,
            announced=self.announced,
            endpoints=self.endpoints,
            started=self.announcer.started,
            contradicted=lambda: self.announcer.contradicted,
        )
        self.conflicts = ConflictLog(service.name)
        self._settings = settings
        self._requests: list[Subscription] = []
        self._control: list[Subscription] = []

    async def start(self) -> None:
        """Start. NATS may still be down: the first connection makes all subscriptions.

        Raises the exception of a startup hook that fails, after everything was closed.
        """
        self.life = Life.STARTING
        self.bus.open()
        try:
            await self._start()
            if self.life is Life.STARTING:  # and not drained meanwhile
                self.life = Life.RUNNING
        except BaseException:
            self.life = Life.STOPPED
            self.dispatcher.pauses.aclose()
            closes = (
                self.readiness.aclose,
                self.resources.aclose,
                self.streams.aclose,
                self.calls.aclose,
                self.bus.aclose,
            )
            for close in closes:
                try:
                    await close()
                except Exception:
                    _log.exception("closing after a failed start")
            raise

    async def _start(self) -> None:
        """The steps of a start, after the connection was opened."""
        binders = [e.binder for e in self.service.endpoints.values()] + [s.binder for s in self.service.subscriptions]
        for binder in binders:
            await self.resources.open(binder.dependencies)
        for hook in self.service.startup_hooks:
            await hook()
        await self.readiness.start()
        bus, subjects, name = self.bus, self.bus.subjects, self.service.name
        for endpoint in self.announced:
            receive = self.dispatcher.receiver(endpoint.name)
            self._requests.append(await bus.subscribe(endpoint.subject, receive, queue=endpoint.queue_group))
            own = subjects.request(name, endpoint.name)
            if endpoint.subject != own:  # callers in the mesh that know no instance yet go by the name
                self._requests.append(await bus.subscribe(own, receive, queue=QUEUE))
        # The instance's own queue group: should its id ever exist twice, a request still runs once.
        self._requests.append(
            await bus.subscribe(subjects.to(name, self.id, "*"), self.dispatcher.receive, queue=self.id)
        )
        for subject in (subjects.control("*", name), subjects.control("*", name, self.id)):
            self._control.append(await bus.subscribe(subject, self._controlled))
        self.dispatcher.pauses.start()
        await self.streams.start()
        await self.micro.start()
        await self.events.start()
        if bus.connected:
            await bus.flush()
        await self.announcer.start("ready" if self.readiness.ready else "unready")

    def reset_statistics(self) -> None:
        """Set all figures of ``$SRV.STATS`` to zero; a call that runs now counts neither before nor after."""
        for declared in self.endpoints.values():
            declared.statistics = Statistics()

    async def wait_stop(self) -> None:
        """Return when a signal, ``mesh drain`` or code has set `stop_requested`."""
        await self.stop_requested.wait()

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stop without losing a request. May be called twice.

        hurry: an event that ends the waits early, such as a second Ctrl-C
        """
        if self.life in (Life.DRAINING, Life.STOPPED):
            return
        self.life = Life.DRAINING
        hurry = hurry or asyncio.Event()
        settings = self._settings
        steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            # Callers that hear this pick others; the rest is served until then.
            ("announce draining", lambda: self._declare_draining(hurry)),
            ("stop readiness checks", self.readiness.aclose),
            ("unsubscribe", lambda: self.bus.unsubscribe(*self._requests)),
            ("stop events", self.events.stop),
            ("await handlers", lambda: self._finish(0.0 if hurry.is_set() else settings.drain_s)),
            ("stop control", self.micro.aclose),
            ("await event handlers", lambda: self.events.finish(0.0 if hurry.is_set() else settings.drain_s)),
            *[("shutdown hook", hook) for hook in reversed(self.service.shutdown_hooks)],
            ("tear down dependencies", self.resources.aclose),
            # After the last reply: callers that hear this give up on calls in flight.
            ("end streams", self.streams.aclose),
            ("announce stopped", self.announcer.aclose),
            ("unsubscribe control", lambda: self.bus.unsubscribe(*self._control)),
            ("flush", self._flush),
            ("close calls", self.calls.aclose),
            ("close bus", self.bus.aclose),
        ]
        for what, step in steps:
            try:
                await step()
            except Exception:
                _log.exception("stopping: %s failed", what)  # one failing step never stops the next
        self.life = Life.STOPPED

    async def __aenter__(self) -> ServiceInstance:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    # -- steps of start and drain

    async def _declare_draining(self, hurry: asyncio.Event) -> None:
        self.announcer.declare("draining")
        if not self.bus.connected:
            return
        try:
            async with asyncio.timeout(self._settings.linger_ms / 1000):
                await hurry.wait()
        except TimeoutError:
            pass

    async def _finish(self, timeout: float) -> None:
        self.dispatcher.pauses.aclose()
        self._handler.close_websockets()
        cut = await self.dispatcher.finish(timeout)
        if cut:
            _log.warning("stopped %d handlers that were still running after %g s", cut, timeout)

    async def _flush(self) -> None:
        if self.bus.connected:
            try:
                await self.bus.flush(2)
            except MeshError as error:
                _log.warning("the last messages may not have been delivered: %s", error.detail)

    def _readiness_changed(self, ready: bool) -> None:
        if self.announcer.state in ("ready", "unready"):
            self.announcer.declare("ready" if ready else "unready")

    def _controlled(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        verb = subject[subject.rindex(b".") + 1 :]
        if verb == b"cancel":
            cancel = messages.decode_cancel(payload)
            if cancel is not None:
                self.dispatcher.cancel(cancel.reply.encode())
        elif verb == b"drain":
            self.stop_requested.set()
        elif verb == b"conflicts":
            self.conflicts.take(payload)
