"""The only package that imports nats: one short interface, its hazards guarded."""

from mesh.bus.bus import Bus, Subscription
from mesh.bus.requests import Pending, Reply

__all__ = ["Bus", "Pending", "Reply", "Subscription"]
