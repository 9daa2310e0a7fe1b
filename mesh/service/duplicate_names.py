"""Warns a person who starts a service if another program has its name: both would share its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from mesh.bus import Bus
from mesh.registry import Instance
from mesh.watcher import Watcher

WINDOW_MS: Final = 200
"""Milliseconds over which the other instances spread their announcements."""
WAIT_S: Final = 1.0
"""Seconds after which every instance that lives has announced itself."""

_log = logging.getLogger("mesh.service")


def instances_of_others(instances: Iterable[Instance], own: Instance, replaced: str) -> list[Instance]:
    """The instances of other programs: they serve, and announce other routes and endpoints than ``own``.

    instances: all instances of the service
    own: this instance
    replaced: the id of an instance that this one takes over from; it is not one of theirs
    """
    serving = [i for i in instances if i.id not in (own.id, replaced) and i.state in ("ready", "unready")]
    return sorted((i for i in serving if i.revision != own.revision), key=lambda i: i.id)


async def warn_of_duplicates(bus: Bus, replaced: str) -> None:
    """Look for other programs with this service's name, once, and warn.

    Every instance of the service announces itself for this, so it is not done in production.

    bus: the connection of this instance
    replaced: the id of the instance that this one takes over from; empty for none
    """
    watcher = Watcher(bus, everything=False, window_ms=WINDOW_MS)
    await watcher.start()
    try:
        await watcher.watch(bus.service)
        await asyncio.sleep(WAIT_S)
        own = watcher.registry.get(bus.service, bus.instance)
        if own is None:  # there is no connection
            return
        found = instances_of_others(watcher.registry.instances(bus.service), own, replaced)
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
