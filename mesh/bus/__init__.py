"""The only package that imports nats: one short interface, its hazards guarded."""

from mesh.bus.bus import Bus
from mesh.bus.requests import Pending, Reply
from mesh.bus.subscription import Subscription

__all__ = ["Bus", "Pending", "Reply", "Subscription"]
