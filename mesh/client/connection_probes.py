"""Asks NATS whether instances that have calls are still connected: an instance that was killed says no goodbye.

On a busy mesh the next request finds out. Without one, the calls in flight would wait until the registry has missed
four heartbeats. A probe is an empty bundle, to which no instance replies: it only makes NATS say so if nothing listens.
Instances that take no bundles would reply to it as to a request, and are not probed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from mesh.balancer import Outcome, Peer
from mesh.bus import MARK, Bus, Ending
from mesh.client.called_service import CalledService
from mesh.client.recovery import Recovery
from mesh.errors import MeshError, NoResponders

PROBE_S = 1.0
"""Seconds between two probes of an instance that has calls."""

_log = logging.getLogger("mesh.client")


class ConnectionProbes:
    """Probes the instances of ``services`` that have calls of ours, from the first connection until the bus closes."""

    def __init__(self, bus: Bus, services: Mapping[str, CalledService], recovery: Recovery) -> None:
        self._bus = bus
        self._services = services
        self._recovery = recovery
        self._timer: asyncio.TimerHandle | None = None
        bus.on_connection(self._connection)

    def _connection(self, connected: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe_all) if connected else None

    def _probe_all(self) -> None:
        self._timer = None
        if not self._bus.connected:  # closed, or the next connection starts the timer again
            return
        if not self._bus.settings.bundles:  # perhaps because NATS does not allow their subjects
            return
        for service in self._services.values():
            for peer in service.balancer.peers():
                if peer.inflight and peer.ready and peer.bundle_address and not peer.skipped:
                    self._probe(service, peer)
        self._connection(True)

    def _probe(self, service: CalledService, peer: Peer) -> None:
        subject, ended = peer.bundle_address + MARK, partial(self._ended, service, peer)
        try:
            self._bus.send(subject, b"", b"", PROBE_S, ended, lenient=True)
        except MeshError as error:
            _log.debug("%s.%s is not probed: %s", peer.service, peer.id, error)

    def _ended(self, service: CalledService, peer: Peer, ending: Ending) -> None:
        if isinstance(ending, NoResponders) and peer.ready:
            self._recovery.no_responders(peer)
            service.observe(peer, Outcome.NO_RESPONDERS, self._bus.now())
