"""The NATS micro side of an instance: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS`` (NATS ADR-32).

Answered in the subscription's callback, so they never queue behind handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mesh.bus import Bus, Subscription
from mesh.foreign.survey import CONTRADICTED, PREFIX
from mesh.messages import Endpoint
from mesh.service.endpoints import Declared, Statistics
from mesh.service.service import Service

_encode = msgspec.json.Encoder().encode
VERBS = ("PING", "INFO", "STATS")
TYPES = {verb: f"io.nats.micro.v1.{verb.lower()}_response" for verb in VERBS}


class MicroResponder:
    """Answers the discovery subjects of one instance. ``started`` is its RFC 3339 start time in UTC.

    ``contradicted()``: how many messages somebody else has published in its name, for whoever looks for them.
    """

    def __init__(
        self,
        bus: Bus,
        service: Service,
        announced: tuple[Endpoint, ...],
        endpoints: Mapping[str, Declared],
        started: str,
        contradicted: Callable[[], int] = lambda: 0,
    ) -> None:
        self._bus = bus
        self._service = service
        # Says which mesh this is a native service of: other meshes need not take it for a foreign one.
        self._metadata = {**service.metadata, PREFIX: bus.subjects.prefix}
        self._announced = announced
        self._endpoints = endpoints
        self._started = started
        self._contradicted = contradicted
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        name, instance = self._service.name, self._bus.instance
        for verb in VERBS:
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{instance}"):
                self._subscriptions.append(await self._bus.subscribe(subject, self._responder(verb)))

    async def aclose(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)

    def _responder(self, verb: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        build = {"PING": self.ping, "INFO": self.info, "STATS": self.stats}[verb]

        def respond(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            if reply and self._bus.subjects.may_reply(reply):
                self._bus.reply(reply, _encode(build()), b"")

        return respond

    def _identity(self, verb: str) -> dict[str, Any]:
        service = self._service
        return {
            "type": TYPES[verb],
            "name": service.name,
            "id": self._bus.instance,
            "version": service.version,
            "metadata": self._told(),
        }

    def _told(self) -> dict[str, str]:
        count = self._contradicted()
        return {**self._metadata, CONTRADICTED: str(count)} if count else self._metadata

    def ping(self) -> dict[str, Any]:
        return self._identity("PING")

    def info(self) -> dict[str, Any]:
        endpoints = [
            {"name": e.name, "subject": e.subject, "queue_group": e.queue_group, "metadata": e.metadata or {}}
            for e in self._announced
        ]
        return {**self._identity("INFO"), "description": self._service.description, "endpoints": endpoints}

    def stats(self) -> dict[str, Any]:
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
    if any(statistics.latencies):  # NATS ADR-32's field for whatever a service adds
        figures["data"] = {"p50_ms": statistics.percentile_ms(0.5), "p99_ms": statistics.percentile_ms(0.99)}
    return figures
