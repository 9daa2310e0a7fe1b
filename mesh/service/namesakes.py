"""Tells somebody who starts a service that another program has its name: both would share its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from mesh.bus import Bus
from mesh.registry import Instance
from mesh.watcher import Watcher

WINDOW_MS = 200
"""Milliseconds over which the others spread their answers."""
LOOK_S = 1.0
"""Seconds after which whoever lives has answered."""

_log = logging.getLogger("mesh.service")


def namesakes(instances: Iterable[Instance], own: Instance, replaced: str) -> list[Instance]:
    """Instances of other programs: they serve, and announce other routes and endpoints than ``own``.

    ``replaced`` is the id of the instance that this one is about to take over from, which is none of them.
    """
    serving = [i for i in instances if i.id not in (own.id, replaced) and i.state in ("ready", "unready")]
    return sorted((i for i in serving if i.revision != own.revision), key=lambda i: i.id)


async def look(bus: Bus, replaced: str) -> None:
    """Look for namesakes once, and warn.

    Every instance of the service answers, so a large one does not ask this at each of its starts.
    """
    watcher = Watcher(bus, everything=False, window_ms=WINDOW_MS)
    await watcher.start()
    try:
        await watcher.watch(bus.service)
        await asyncio.sleep(LOOK_S)
        own = watcher.registry.get(bus.service, bus.instance)
        if own is None:  # NATS is away
            return
        found = namesakes(watcher.registry.instances(bus.service), own, replaced)
    finally:
        await watcher.aclose()
    if found:
        others = ", ".join(f"{i.service}.{i.id} ({i.version})" for i in found[:3])
        _log.warning(
            "another program is called %s too: %s has other routes or endpoints than this one, and gets a share of the "
            "requests; give one of the two another name, or end one with 'mesh drain %s.%s'",
            bus.service,
            others,
            bus.service,
            found[0].id,
        )
