"""The NATS micro side of an instance: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS`` (NATS ADR-32).

The callback of the subscription replies, so that these requests never queue behind handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mesh import codec
from mesh.bus import Bus, Subscription
from mesh.foreign.survey import CONTRADICTED, PREFIX
from mesh.messages import Endpoint
from mesh.service.definition import ServiceDefinition
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.statistics import Statistics

VERBS = ("PING", "INFO", "STATS")
TYPES = {verb: f"io.nats.micro.v1.{verb.lower()}_response" for verb in VERBS}


class MicroResponder:
    """Replies on the discovery subjects of one instance.

    bus: the instance's connection
    service: the service that it runs
    announced: its endpoints with their subjects
    endpoints: its endpoints by name, with their statistics
    started: its start in UTC (RFC 3339)
    contradicted: how many messages others have published in its name; shown in its metadata
    """

    def __init__(
        self,
        bus: Bus,
        service: ServiceDefinition,
        *,
        announced: tuple[Endpoint, ...],
        endpoints: Mapping[str, DeclaredEndpoint],
        started: str,
        contradicted: Callable[[], int] = lambda: 0,
    ) -> None:
        self._bus = bus
        self._service = service
        # The mesh whose native service this is; a gateway of that mesh does not take it for a foreign one.
        self._metadata = {**service.metadata, PREFIX: bus.subjects.prefix}
        self._announced = announced
        self._endpoints = endpoints
        self._started = started
        self._contradicted = contradicted
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Subscribe."""
        name, instance = self._service.name, self._bus.instance
        for verb in VERBS:
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{instance}"):
                self._subscriptions.append(await self._bus.subscribe(subject, self._responder(verb)))

    async def aclose(self) -> None:
        """Unsubscribe."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)

    def _responder(self, verb: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        build = {"PING": self.ping, "INFO": self.info, "STATS": self.stats}[verb]

        def respond(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            if reply and self._bus.subjects.may_reply(reply):
                self._bus.reply(reply, codec.encode(build()), b"")

        return respond

    def _identity(self, verb: str) -> dict[str, Any]:
        service = self._service
        return {
            "type": TYPES[verb],
            "name": service.name,
            "id": self._bus.instance,
            "version": service.version,
            "metadata": self._metadata_now(),
        }

    def _metadata_now(self) -> dict[str, str]:
        count = self._contradicted()
        return {**self._metadata, CONTRADICTED: str(count)} if count else self._metadata

    def ping(self) -> dict[str, Any]:
        """The reply to ``$SRV.PING``."""
        return self._identity("PING")

    def info(self) -> dict[str, Any]:
        """The reply to ``$SRV.INFO``."""
        endpoints = [
            {"name": e.name, "subject": e.subject, "queue_group": e.queue_group, "metadata": e.metadata or {}}
            for e in self._announced
        ]
        return {**self._identity("INFO"), "description": self._service.description, "endpoints": endpoints}

    def stats(self) -> dict[str, Any]:
        """The reply to ``$SRV.STATS``."""
        endpoints = [
            {
                "name": e.name,
                "subject": e.subject,
                "queue_group": e.queue_group,
                **_figures(self._endpoints[e.name].statistics),
            }
            for e in self._announced
        ]
        return {**self._identity("STATS"), "started": self._started, "endpoints": endpoints}


def _figures(statistics: Statistics) -> dict[str, Any]:
    count = statistics.num_requests
    figures: dict[str, Any] = {
        "num_requests": count,
        "num_errors": statistics.num_errors,
        "last_error": statistics.last_error,
        "processing_time": statistics.processing_time,
        "average_processing_time": statistics.processing_time // count if count else 0,
    }
    if any(statistics.latencies):  # NATS ADR-32's field for figures that a service adds
        figures["data"] = {"p50_ms": statistics.percentile_ms(0.5), "p99_ms": statistics.percentile_ms(0.99)}
    return figures
