"""Events between services: a handler gets an event at most once, or until it has handled it (JetStream)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from mesh import codec, headers
from mesh.bus import Bus, Subscription
from mesh.bus.jetstream import Delivery, DurableEvents
from mesh.client import Calls
from mesh.errors import DeclarationError
from mesh.service.binder import Binder
from mesh.service.context import Context, current
from mesh.service.dependencies import Resources, resolve
from mesh.service.endpoints import runner
from mesh.service.http_messages import Request
from mesh.service.signatures import read_signature
from mesh.subjects import is_name, new_id

PATTERN = re.compile(r"([A-Za-z0-9_-]{1,64}|\*)(\.([A-Za-z0-9_-]{1,64}|\*)){0,7}")
HANDLING_S = 30.0
"""Seconds that a handler may take; a durable event is delivered again after that."""

_log = logging.getLogger("mesh.events")


class EventHandler(NamedTuple):
    """A declared handler of events; the options are those of `Service.on`."""

    name: str
    event: str
    durable: bool
    broadcast: bool
    attempts: int
    binder: Binder
    run: Callable[..., Awaitable[Any]]


def subscribe(
    handler: Callable[..., Any], event: str, *, durable: bool, broadcast: bool, name: str, attempts: int
) -> EventHandler:
    """Check a declaration; the options are those of `Service.on`. Raises `DeclarationError`."""
    name = name or getattr(handler, "__name__", "")
    where = f"event handler {getattr(handler, '__qualname__', handler)!r}"
    if not PATTERN.fullmatch(event):
        raise DeclarationError(
            f"{where}: {event!r} is no event name: 1 to 8 parts like 'bets.settled', '*' for any one"
        )
    if not is_name(name):
        raise DeclarationError(f"{where}: {name!r} cannot be its name; give one of letters, digits, '-' and '_'")
    if attempts < 1:
        raise DeclarationError(f"{where}: attempts {attempts} must be at least 1")
    if durable and broadcast:
        raise DeclarationError(f"{where}: durable events are kept for a service, not for each instance: no broadcast")
    binder = read_signature(handler, (), "EVENT", where)
    data = [p for p in binder.parameters if p.source not in ("context", "request")]
    if len(data) > 1:
        raise DeclarationError(
            f"{where} takes one parameter for the event's data; a Context and dependencies if it wants them"
        )
    wanted = sorted(set().union(*(d.binder.names() for d in binder.dependencies)))
    if wanted:
        raise DeclarationError(f"{where}: a dependency takes {', '.join(wanted)}, which an event does not have")
    return EventHandler(name, event, durable, broadcast, attempts, binder, runner(handler, where))


class EventReceiver:
    """Runs the event handlers of one instance."""

    def __init__(self, bus: Bus, handlers: list[EventHandler], calls: Calls, resources: Resources) -> None:
        self._bus = bus
        self._resources = resources
        self._handlers = handlers
        self._calls = calls
        self._subscriptions: list[Subscription] = []
        self._durable: list[DurableEvents] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Subscribe. A durable handler waits for JetStream in the background, and logs that."""
        for handler in self._handlers:
            if handler.durable:
                durable = DurableEvents(
                    self._bus,
                    consumer=f"{self._bus.service}-{handler.name}",
                    event=handler.event,
                    attempts=handler.attempts,
                    handling_s=HANDLING_S,
                    handle=self._handle_durable(handler),
                )
                durable.start()
                self._durable.append(durable)
            else:
                subject = self._bus.subjects.event(handler.event)
                # A queue group for each handler: one instance gets the event for it. Without one, each instance does.
                queue = "" if handler.broadcast else f"{self._bus.service}-{handler.name}"
                self._subscriptions.append(await self._bus.subscribe(subject, self._receiver(handler), queue=queue))

    async def stop(self) -> None:
        """Take no more events."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)
        for durable in self._durable:
            await durable.aclose()

    async def finish(self, timeout: float) -> None:
        """Wait for the handlers that run; cancel those that still run after ``timeout`` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()

    def _receiver(self, handler: EventHandler) -> Callable[[bytes, bytes, bytes, bytes], None]:
        def receive(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            task = asyncio.create_task(self._try(handler, block, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return receive

    async def _try(self, handler: EventHandler, block: bytes, payload: bytes) -> None:
        try:
            await self._run(handler, block, payload)
        except Exception:
            _log.exception("event handler %s failed; the event is lost", handler.name)

    def _handle_durable(self, handler: EventHandler) -> Callable[[Delivery], Awaitable[None]]:
        async def handle(delivery: Delivery) -> None:
            await self._run(handler, delivery.block, delivery.payload)

        return handle

    async def _run(self, handler: EventHandler, block: bytes, payload: bytes) -> None:
        request = Request(block, payload)
        given = request.raw_header(headers.ID)
        request_id = given.decode() if given and headers.is_request_id(given) else new_id()
        deadline = asyncio.get_running_loop().time() + HANDLING_S
        context = Context(
            request,
            request_id=request_id,
            deadline=deadline,
            service=self._bus.service,
            instance=self._bus.instance,
            calls=self._calls,
        )
        arguments: dict[str, Any] = {}
        for parameter in handler.binder.parameters:
            if parameter.source == "context":
                arguments[parameter.name] = context
            elif parameter.source == "request":
                arguments[parameter.name] = request
            else:
                arguments[parameter.name] = codec.decode(payload, parameter.type)
        token = current.set(context)
        try:
            async with AsyncExitStack() as stack:
                dependencies, bare = (
                    handler.binder.dependencies,
                    Request(block, b""),
                )  # no arguments in an event
                arguments.update(await resolve(dependencies, bare, context, self._resources.values, {}, stack))
                await handler.run(**arguments)
        finally:
            current.reset(token)
