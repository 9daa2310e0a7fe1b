"""What a party listens to."""

from __future__ import annotations

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from mesh.bus.frames import Deliver


class Subscription:
    """Interest in a subject; survives reconnects and rebuilt clients until `Bus.unsubscribe`."""

    __slots__ = ("client", "deliver", "handle", "queue", "subject")

    def __init__(self, subject: str, queue: str, deliver: Deliver) -> None:
        self.subject = subject
        self.queue = queue
        self.deliver = deliver
        self.client: Client | None = None
        self.handle: NatsSubscription | None = None
