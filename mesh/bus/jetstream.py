"""Durable events through JetStream: acknowledged publishing, redelivery with growing pauses, dead letters.

One stream of a mesh keeps all events (``<prefix>_events``), another one the dead letters (``<prefix>_dead``). Both are
made when they are first needed. A durable handler is a pull consumer that all instances of its service share. For a
handler that always fails, with 3 attempts: delivered, after 1 s again, after 2 s again, then published on
``mesh.dead.<service>.<event>`` and not delivered any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from mesh.bus.bus import Bus
from mesh.bus.plain_client import RepeatedHeaders, header_block
from mesh.errors import MeshError, Unavailable
from mesh.tasks import keep

KEPT_S = 7 * 24 * 3600.0
"""Seconds for which events and dead letters are kept."""
LONGEST_PAUSE_S = 60.0
"""Seconds of the longest pause before an event is delivered again."""
PREPARE_TIMEOUT_S = 2.0
"""Seconds in which the stream of events is made or found, once a connection; an account may forbid it silently."""
BATCH = 16
"""Events that are fetched at once, and handled at once."""

_IN_USE = 10058  # JetStream's error code: the stream exists, with other settings; then an operator's settings hold
_prepared: WeakSet[Client] = WeakSet()
"""Connections on which the stream of events was made or found."""
_log = logging.getLogger("mesh.events")


class Delivery(NamedTuple):
    """An event as delivered: its subject, headers, data, and which attempt this is, from 1."""

    subject: str
    block: bytes
    payload: bytes
    attempt: int


class JetStreamOff(Unavailable):
    """JetStream is not enabled on this NATS server or account."""

    reason, title = "jetstream_off", "JetStream is off"


async def publish(bus: Bus, subject: str, payload: bytes, block: bytes, timeout: float) -> None:
    """Publish and wait for JetStream's acknowledgement.

    Raises `JetStreamOff`, `BusUnavailable`, or `Unavailable` when there is no acknowledgement in ``timeout`` seconds.
    """
    client = bus.jetstream_client()
    stream = f"{bus.subjects.prefix}_events"
    try:
        async with asyncio.timeout(timeout):
            if client not in _prepared:
                # Without the stream, a plain subscriber would take the event, and NATS would not report a failure.
                await _prepare(client, stream, bus.subjects.event(">"), timeout / 2)
            try:
                await client.jetstream().publish(subject, payload, headers=dict_of(block))
            except nats.js.errors.NoStreamResponseError:
                await _ensure(client, stream, bus.subjects.event(">"))
                await client.jetstream().publish(subject, payload, headers=dict_of(block))
    except MeshError:
        raise
    except TimeoutError as error:
        raise Unavailable("JetStream did not acknowledge the event in time", executed="unknown") from error
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"JetStream did not take the event: {error}", executed="unknown") from error


def dict_of(block: bytes) -> Any:
    """A header block in the form that nats-py takes; None for an empty one."""
    return RepeatedHeaders(block) if block else None


async def _ensure(client: Client, stream: str, subjects: str) -> None:
    try:
        await client.jetstream().add_stream(StreamConfig(name=stream, subjects=[subjects], max_age=KEPT_S))
    except nats.js.errors.BadRequestError as error:
        if error.err_code != _IN_USE:
            raise
    except (nats.js.errors.ServiceUnavailableError, nats.errors.NoRespondersError) as error:
        raise JetStreamOff(
            "durable events need JetStream: start nats-server with -js, or enable it for this account", executed="no"
        ) from error


async def _prepare(client: Client, stream: str, subjects: str, timeout: float) -> None:
    """`_ensure`, once a connection. An account that may only publish cannot make it: an operator may have."""
    try:
        async with asyncio.timeout(min(PREPARE_TIMEOUT_S, timeout)):
            await _ensure(client, stream, subjects)
    except (TimeoutError, nats.errors.Error) as error:
        _log.debug("the stream %s was not made: %s", stream, error)
    _prepared.add(client)


class DurableEvents:
    """Delivers the events of one durable handler, until `aclose`.

    When ``handle`` returns, the event is acknowledged. If it raises or is late, the event is delivered again after a
    pause of 1, 2, 4, ... seconds, to any instance. After the last attempt it becomes a dead letter.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        consumer: str,
        event: str,
        attempts: int,
        handling_s: float,
        handle: Callable[[Delivery], Awaitable[None]],
        first_pause_s: float = 1.0,
    ) -> None:
        """
        consumer: the durable name of the consumer, ``<service>-<handler>``.
        event: the name of the events; parts may be ``*``.
        attempts: deliveries of one event at most.
        handling_s: seconds that a delivery may take.
        handle: called with each delivery.
        first_pause_s: seconds of the pause after the first attempt.
        """
        self._bus = bus
        self._consumer = consumer
        self._event = event
        self._attempts = attempts
        self._handling_s = handling_s
        self._handle = handle
        self._first_pause_s = first_pause_s
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._said = ""

    def start(self) -> None:
        self._task = keep(self._keep, f"durable {self._consumer}")

    async def aclose(self) -> None:
        """Fetch no more events; wait for those that are being handled."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=self._handling_s)

    async def _keep(self) -> None:
        """Consume until `aclose`; if JetStream fails, try again after a second."""
        while not self._stopping:
            try:
                await self._bus.wait_connected(3600)
                await self._consume(self._bus.jetstream_client())
            except asyncio.CancelledError:
                raise
            except Exception as error:
                text = error.detail if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
                if text != self._said:
                    _log.error("durable handler %s waits: %s", self._consumer, text)
                    self._said = text
                await asyncio.sleep(1)

    async def _consume(self, client: Client) -> None:
        stream = f"{self._bus.subjects.prefix}_events"
        await _ensure(client, stream, self._bus.subjects.event(">"))
        subscription = await client.jetstream().pull_subscribe(
            self._bus.subjects.event(self._event),
            durable=self._consumer,
            stream=stream,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._handling_s + 5,
                # Attempts are counted here, so that a crash at the last one still ends as a dead letter.
                max_deliver=-1,
            ),
        )
        self._said = ""
        while self._bus.connected and client is self._bus.jetstream_client():
            try:
                messages = await subscription.fetch(BATCH, timeout=5)
            except TimeoutError:  # nats-py raises its own one, and the plain one in the last moment
                continue
            for message in messages:
                task = asyncio.create_task(self._deliver(client, message))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            if len(self._running) >= BATCH:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _deliver(self, client: Client, message: Msg) -> None:
        attempt = message.metadata.num_delivered
        delivery = Delivery(message.subject, header_block(message), message.data, attempt)
        try:
            if attempt > self._attempts:
                await self._bury(client, message, "its handler never finished")
                return
            try:
                async with asyncio.timeout(self._handling_s):
                    await self._handle(delivery)
            except Exception as error:
                _log.warning(
                    "event handler %s failed at attempt %d of %d",
                    self._consumer,
                    attempt,
                    self._attempts,
                    exc_info=True,
                )
                if attempt >= self._attempts:
                    await self._bury(client, message, f"{type(error).__name__}: {error}")
                else:
                    await message.nak(delay=min(LONGEST_PAUSE_S, self._first_pause_s * 2 ** (attempt - 1)))
                return
            await message.ack()
        except (nats.errors.Error, OSError) as error:
            _log.warning("an event was not acknowledged and comes again: %s", error)

    async def _bury(self, client: Client, message: Msg, why: str) -> None:
        prefix = self._bus.subjects.prefix
        await _ensure(client, f"{prefix}_dead", f"{prefix}.dead.>")
        name = message.subject.removeprefix(self._bus.subjects.event(""))
        headers = {**(message.headers or {}), "Mesh-Dead-Reason": " ".join(why.split())[:512]}
        headers["Mesh-Dead-Consumer"] = self._consumer
        await client.jetstream().publish(f"{prefix}.dead.{self._bus.service}.{name}", message.data, headers=headers)
        await message.term()
        _log.error("event %s is a dead letter of %s: %s", name, self._consumer, why)
