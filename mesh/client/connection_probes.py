"""Asks NATS whether instances that have calls are still connected: one that was killed says no goodbye.

On a busy mesh the next request finds out. Where nobody sends one, the calls in flight would wait until the registry
has missed four heartbeats. The probe is an empty bundle, which nobody answers: only whether NATS says that nobody
listens is of interest. Instances that take no bundles would answer it as a request, and are not probed.
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
"""How often an instance that has calls is asked about."""

_log = logging.getLogger("mesh.client")


class Probes:
    """Probes the instances of ``services`` that have calls of ours, from the first connection to the bus's end."""

    def __init__(self, bus: Bus, services: Mapping[str, CalledService], recovery: Recovery) -> None:
        self._bus = bus
        self._services = services
        self._recovery = recovery
        self._timer: asyncio.TimerHandle | None = None
        bus.on_connection(self._connection)

    def _connection(self, connected: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe) if connected else None

    def _probe(self) -> None:
        self._timer = None
        if not self._bus.connected:  # closed, or the next connection begins anew
            return
        if not self._bus.settings.bundles:  # perhaps because NATS does not allow their subjects
            return
        for service in self._services.values():
            for peer in service.balancer.peers():
                if peer.inflight and peer.ready and peer.place and not peer.skipped:
                    self._ask(service, peer)
        self._connection(True)

    def _ask(self, service: CalledService, peer: Peer) -> None:
        try:
            self._bus.send(peer.place + MARK, b"", b"", PROBE_S, partial(self._heard, service, peer), lenient=True)
        except MeshError as error:
            _log.debug("not probed: %s", error)

    def _heard(self, service: CalledService, peer: Peer, ending: Ending) -> None:
        if isinstance(ending, NoResponders) and peer.ready:
            self._recovery.no_responders(peer)
            service.observe(peer, Outcome.NO_RESPONDERS, self._bus.now())
