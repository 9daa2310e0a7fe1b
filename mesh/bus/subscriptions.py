"""The subscriptions of a bus: they outlive connections and clients of nats-py."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from mesh.bus.fast_transport import FastTransport
from mesh.bus.frames import Deliver
from mesh.bus.nats_errors import translate
from mesh.bus.plain_client import PENDING_BYTES, PENDING_MESSAGES, receiver
from mesh.errors import MeshError
from mesh.subjects import check_subject

_log = logging.getLogger("mesh.bus")


class Subscription:
    """Interest in a subject, until `Bus.unsubscribe`.

    subject: may have wildcards.
    queue: the queue group; empty for none.
    deliver: called with each message.
    """

    __slots__ = ("client", "deliver", "handle", "queue", "subject")

    def __init__(self, subject: str, queue: str, deliver: Deliver) -> None:
        self.subject = subject
        self.queue = queue
        self.deliver = deliver
        self.client: Client | None = None
        """The client that it was last attached to."""
        self.handle: NatsSubscription | None = None
        """nats-py's subscription there."""

    async def attach(self, client: Client, fast_transport: FastTransport | None) -> None:
        """Subscribe on a connection. Raises the `MeshError` that nats-py's error stands for."""
        self.client = client
        try:
            if fast_transport is None:
                self.handle = await client.subscribe(
                    self.subject,
                    queue=self.queue,
                    cb=receiver(self.deliver),
                    pending_msgs_limit=PENDING_MESSAGES,
                    pending_bytes_limit=PENDING_BYTES,
                )
            else:
                self.handle = await client.subscribe(self.subject, queue=self.queue)
                fast_transport.frames.callbacks[b"%d" % self.handle._id] = self.deliver
        except Exception as error:
            raise translate(error) from error

    async def detach(self, client: Client | None, fast_transport: FastTransport | None) -> NatsSubscription | None:
        """Unsubscribe on a connection. Returns nats-py's subscription if there was one to end."""
        handle, self.handle = self.handle, None
        if handle is None or self.client is not client:
            return None
        try:
            # Without the fast transport, unsubscribe() would forget what waits in nats-py's queue.
            await (handle.unsubscribe() if fast_transport is not None else handle.drain())  # type: ignore[no-untyped-call]
            return handle
        except Exception as error:
            _log.debug("unsubscribe %s: %s", self.subject, error)
            return None


class Subscriptions:
    """All subscriptions of one bus, on the client that is in use."""

    __slots__ = ("_all", "_fast_transport", "client")

    def __init__(self) -> None:
        self.client: Client | None = None
        """The client that `attach` was last called with."""
        self._fast_transport: FastTransport | None = None
        self._all: list[Subscription] = []

    async def attach(self, client: Client, fast_transport: FastTransport | None) -> None:
        """Use this client from now on, and put all subscriptions on it that are not there yet.

        Raises the `MeshError` that nats-py's error stands for.
        """
        self.client, self._fast_transport = client, fast_transport
        for subscription in list(self._all):
            if subscription.client is not client:
                await subscription.attach(client, fast_transport)

    async def add(self, subject: str, deliver: Deliver, queue: str = "") -> Subscription:
        """Subscribe; without a connection, as soon as there is one. Raises `BadSubject`."""
        check_subject(subject, wildcards=True)
        subscription = self.add_later(subject, deliver, queue)
        if self.client is not None and self.client.is_connected:
            await subscription.attach(self.client, self._fast_transport)
        return subscription

    def add_later(self, subject: str, deliver: Deliver, queue: str = "", *, first: bool = False) -> Subscription:
        """Subscribe with the next `attach`, before all others if ``first``."""
        subscription = Subscription(subject, queue, deliver)
        self._all.insert(0 if first else len(self._all), subscription)
        return subscription

    async def remove(self, subscriptions: tuple[Subscription, ...], flush: Callable[[], Awaitable[None]]) -> None:
        """Unsubscribe; messages that the server had sent before are still delivered.

        flush: returns when the server has processed everything that was sent before.
        """
        fast_transport = self._fast_transport  # while the flush is awaited, another client may replace it
        ended: list[NatsSubscription] = []
        for subscription in subscriptions:
            if subscription in self._all:
                self._all.remove(subscription)
            handle = await subscription.detach(self.client, fast_transport)
            if handle is not None:
                ended.append(handle)
        if fast_transport is None or not ended:
            return
        try:
            await flush()
        except MeshError as error:
            _log.debug("unsubscribe: %s", error)
        for handle in ended:
            fast_transport.frames.callbacks.pop(b"%d" % handle._id, None)

    def handles(self) -> list[NatsSubscription]:
        """nats-py's subscriptions on the client that is in use."""
        return [each.handle for each in self._all if each.handle is not None and each.client is self.client]
