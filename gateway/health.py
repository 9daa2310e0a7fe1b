"""The gateway's own paths: `/health`, `/livez`, `/readyz`, `/v1/metadata`, answered from the registry.

No service is ever polled: what heartbeats said is what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from mesh.bus import Bus
from mesh.errors import BusUnavailable, MeshError, NoInstances, NotFound, Starting, Unavailable
from mesh.live_routes import LiveRoutes
from mesh.registry import Instance
from mesh.watcher import Watcher

OWN = ("/health", "/livez", "/readyz", "/v1/metadata")
RESERVED = tuple(path for own in OWN for path in (own, own + "/"))
"""For the route table: these paths, and everything below them, are the gateway's."""


def is_own(path: str) -> bool:
    """True if the gateway answers ``path`` itself."""
    return path.startswith(("/health", "/livez", "/readyz", "/v1/metadata")) and (
        path in OWN or path.startswith(tuple(own + "/" for own in OWN))
    )


def own_label(path: str) -> str:
    """The one of `OWN` that answers ``path``: a label for metrics, so bounded whatever a client asks for."""
    return next(own for own in OWN if path == own or path.startswith(own + "/"))


class Health:
    """The state of the mesh and of each service. ``facts`` describe this gateway (name, version, ...)."""

    def __init__(self, bus: Bus, watcher: Watcher, live_routes: LiveRoutes, facts: Mapping[str, Any]) -> None:
        self.draining = False
        self._bus = bus
        self._watcher = watcher
        self._live_routes = live_routes
        self._facts = dict(facts)

    def answer(self, path: str, query: bytes, show_routes: bool) -> tuple[int, Any]:
        """Status and document for one of the gateway's own paths."""
        own, _, service = path.strip("/").partition("/") if not path.startswith("/v1/") else _split_v1(path)
        pages: dict[str, Callable[[str], tuple[int, Any]]] = {
            "livez": lambda service: (200, {"status": "alive"}),
            "readyz": self._ready,
            "metadata": self._metadata,
            "health": lambda service: self._health(service, query, show_routes),
        }
        try:
            return pages[own](service)
        except MeshError as error:
            error.origin = "gateway"
            return error.status, error.problem()

    # -- pages

    def status(self) -> str:
        """The mesh's state in one word: starting, stale, draining or ok."""
        if not self._watcher.synchronised.is_set():
            return "starting"
        if self._watcher.stale:
            return "stale"
        return "draining" if self.draining else "ok"

    def _ready(self, service: str) -> tuple[int, Any]:
        state = self.status()
        if service:
            instances = self._instances(service)
            ready = sum(i.state == "ready" for i in instances)
            if not ready:
                raise NoInstances(f"none of the {len(instances)} instances of {service} is ready")
            return 200, {"status": "ready", "service": service, "ready": ready, "stale": self._watcher.stale}
        if state == "ok":
            return 200, {"status": "ready"}
        if state == "starting":
            raise Starting("the gateway is still learning who is there")
        if state == "stale":
            raise BusUnavailable("no news from the services: what was known last is served")
        raise Unavailable("the gateway is going away", reason="draining")

    def _health(self, service: str, query: bytes, show_routes: bool) -> tuple[int, Any]:
        wanted = parse_qs(query.decode("latin-1")).get("include_routes", [""])[-1].lower() in ("1", "true", "yes")
        if service:
            self._instances(service)
        names = [service] if service else sorted(self._watcher.registry.services())
        document: dict[str, Any] = {
            "status": self.status(),
            "services": {name: self._summary(name) for name in names},
            "conflicts": len(self._live_routes.conflicts),
        }
        if wanted and show_routes:
            self._live_routes.update_now()
            document["routes"] = [
                {"method": route.method, "path": route.template, "service": route.service}
                for route in self._live_routes.table.routes()
                if not service or route.service == service
            ]
        return 200, document

    def _summary(self, service: str) -> dict[str, Any]:
        instances = self._watcher.registry.instances(service)
        ready = sum(i.state == "ready" and not i.suspect for i in instances)
        return {
            "status": "ok" if ready == len(instances) else "degraded" if ready else "down",
            "instances": len(instances),
            "ready": ready,
            "versions": sorted({i.content.version for i in instances}),
        }

    def _metadata(self, service: str) -> tuple[int, Any]:
        names = [service] if service else sorted(self._watcher.registry.services())
        services = {name: [describe(i) for i in self._instances(name)] for name in names}
        return 200, {**({} if service else self._facts), "services": services}

    def _instances(self, service: str) -> list[Instance]:
        instances = sorted(self._watcher.registry.instances(service), key=lambda i: i.id)
        if not instances:
            raise NotFound(f"no instance of {service!r} is known", executed="no")
        return instances


def describe(instance: Instance) -> dict[str, Any]:
    """One instance as the registry knows it, JSON-ready."""
    return {
        "id": instance.id,
        "version": instance.content.version,
        "revision": instance.content.revision,
        "description": instance.description,
        "state": instance.state,
        "suspect": instance.suspect,
        "started": instance.started,
        "inflight": instance.inflight,
        "capacity": instance.capacity,
        "lag_ms": instance.lag_ms,
        "foreign": instance.foreign,
        "metadata": instance.metadata,
    }


def _split_v1(path: str) -> tuple[str, str, str]:
    return "metadata", "", path.removeprefix("/v1/metadata").strip("/")
