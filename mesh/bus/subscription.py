"""What a party listens to."""

from __future__ import annotations

import logging

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from mesh.bus.fast_transport import FastTransport
from mesh.bus.frames import Deliver
from mesh.bus.nats_errors import translate
from mesh.bus.plain_client import PENDING_BYTES, PENDING_MESSAGES, receiver

_log = logging.getLogger("mesh.bus")


class Subscription:
    """Interest in a subject; survives reconnects and rebuilt clients until `Bus.unsubscribe`."""

    __slots__ = ("client", "deliver", "handle", "queue", "subject")

    def __init__(self, subject: str, queue: str, deliver: Deliver) -> None:
        self.subject = subject
        self.queue = queue
        self.deliver = deliver
        self.client: Client | None = None
        self.handle: NatsSubscription | None = None

    async def attach(self, client: Client, lane: FastTransport | None) -> None:
        """Subscribe on a connection. Raises the `MeshError` that nats-py's error stands for."""
        self.client = client
        try:
            if lane is None:
                self.handle = await client.subscribe(
                    self.subject,
                    queue=self.queue,
                    cb=receiver(self.deliver),
                    pending_msgs_limit=PENDING_MESSAGES,
                    pending_bytes_limit=PENDING_BYTES,
                )
            else:
                self.handle = await client.subscribe(self.subject, queue=self.queue)
                lane.frames.routes[b"%d" % self.handle._id] = self.deliver
        except Exception as error:
            raise translate(error) from error

    async def detach(self, client: Client | None, lane: FastTransport | None) -> NatsSubscription | None:
        """Ask ``client`` to end it; gives nats-py's subscription where there was one to end."""
        handle, self.handle = self.handle, None
        if handle is None or self.client is not client:
            return None
        try:
            # Without the lane, unsubscribe() would forget what waits in nats-py's queue.
            await (handle.unsubscribe() if lane is not None else handle.drain())  # type: ignore[no-untyped-call]
            return handle
        except Exception as error:
            _log.debug("unsubscribe %s: %s", self.subject, error)
            return None
