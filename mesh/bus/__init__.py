"""The only package that imports nats: one short interface, its hazards guarded."""

from mesh.bus.without_aiohttp import import_nats

import_nats()

from mesh.bus.bundles import MARK  # noqa: E402
from mesh.bus.bus import Bus  # noqa: E402
from mesh.bus.connection_wait import FAILOVER_S  # noqa: E402
from mesh.bus.pending import Ending, Pending, Reply  # noqa: E402
from mesh.bus.subscriptions import Subscription  # noqa: E402

__all__ = ["FAILOVER_S", "MARK", "Bus", "Ending", "Pending", "Reply", "Subscription"]
