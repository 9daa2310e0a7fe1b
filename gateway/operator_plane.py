"""The operator's plane: the gateway's knowledge as JSON and as Prometheus metrics, on a listener of its own.

FastAPI serves it: convenience counts here, not microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse

from gateway import balancing_report, process_metrics
from gateway.allowed_hosts import AllowedHosts
from gateway.health import Health, describe
from gateway.request_metrics import RequestMetrics, family
from mesh.bus import Bus
from mesh.client import Caller
from mesh.live_routes import LiveRoutes
from mesh.printable import json_text
from mesh.routes import ServedRoute
from mesh.watcher import Watcher

PATHS = (
    "/api/gateway",
    "/api/services",
    "/api/instances",
    "/api/peers",
    "/api/routes",
    "/api/conflicts",
    "/metrics",
)


class Shown(JSONResponse):
    """JSON for terminals: control characters in the names of services are escaped."""

    def render(self, content: Any) -> bytes:
        return json_text(content).encode()


def build(
    *,
    bus: Bus,
    watcher: Watcher,
    live_routes: LiveRoutes,
    caller: Caller,
    health: Health,
    metrics: RequestMetrics,
    facts: dict[str, Any],
    names: Collection[str] = (),
) -> FastAPI:
    """The application. Every handler reads live state and changes nothing.

    facts: name, id, version and start of this gateway.
    names: host names by which it may be called (`AllowedHosts`).
    """
    app = FastAPI(
        title="mesh gateway, operator's plane",
        version=facts["version"],
        docs_url=None,
        redoc_url=None,
        default_response_class=Shown,
    )
    app.add_middleware(AllowedHosts, names=names)
    registry = watcher.registry

    @app.get("/")
    async def index() -> dict[str, Any]:
        """The paths of this plane."""
        return {"gateway": facts, "status": health.status(), "paths": PATHS}

    @app.get("/api/gateway")
    async def gateway() -> dict[str, Any]:
        """This gateway, its connection and counters."""
        server = bus.server
        return {
            **facts,
            "status": health.status(),
            "nats": {key: server.get(key) for key in ("server_name", "version", "cluster", "jetstream", "max_payload")},
            "lane": "hot" if bus.lane else "plain",
            "bus": bus.statistics(),
            "refused_messages": watcher.refused,
            "registry": dict(registry.counters),
        }

    @app.get("/api/services")
    async def services() -> dict[str, Any]:
        return {name: _summary(name) for name in sorted(registry.services())}

    def _summary(name: str) -> dict[str, Any]:
        instances = registry.instances(name)
        states = Counter("suspect" if i.suspect else i.state for i in instances)
        return {"states": dict(states), "versions": sorted({i.content.version for i in instances})}

    @app.get("/api/instances")
    async def instances(service: str | None = None) -> list[dict[str, Any]]:
        if service is not None and service not in registry.services():
            raise HTTPException(404, f"no instance of {service!r} is known")
        return [
            {"service": i.service, **describe(i), "heard_s_ago": round(watcher.now - i.seen, 3)}
            for i in sorted(registry.instances(service), key=lambda i: (i.service, i.id))
        ]

    @app.get("/api/peers")
    async def peers(service: str | None = None) -> dict[str, Any]:
        """The instances as this gateway's own calls see them: which are picked, and why others are not."""
        called = caller.services
        if service is not None and service not in called:
            raise HTTPException(404, f"no instance of {service!r} is known")
        names = sorted(called) if service is None else [service]
        return {name: balancing_report.describe(caller, called[name], bus.now()) for name in names}

    @app.get("/api/routes")
    async def routes() -> dict[str, Any]:
        live_routes.update_now()
        table = live_routes.table
        return {
            "routes": [_route(route) for route in table.routes()],
            "remembered": [_route(route) for route in table.remembered()],
        }

    def _route(route: ServedRoute) -> dict[str, Any]:
        shown = msgspec.to_builtins(route.policy)
        return {**shown, "path": route.template, "service": route.service, "revisions": sorted(route.revisions)}

    @app.get("/api/conflicts")
    async def conflicts() -> list[Any]:
        live_routes.update_now()
        return [msgspec.to_builtins(conflict) for conflict in live_routes.conflicts]

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        lines = [
            *metrics.lines(),
            *balancing_report.lines(caller, bus.now()),
            *_mesh_lines(bus, watcher, live_routes),
            *process_metrics.lines(),
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    return app


def _mesh_lines(bus: Bus, watcher: Watcher, live_routes: LiveRoutes) -> Iterable[str]:
    states = Counter((i.service, "suspect" if i.suspect else i.state) for i in watcher.registry.instances())
    yield from family(
        "mesh_instances",
        "gauge",
        "Instances by service and state.",
        (({"service": service, "state": state}, count) for (service, state), count in sorted(states.items())),
    )
    live_routes.update_now()
    yield from family("mesh_routes", "gauge", "Live routes.", [({}, len(live_routes.table))])
    yield from family("mesh_route_conflicts", "gauge", "Routes claimed twice.", [({}, len(live_routes.conflicts))])
    yield from family("mesh_registry_stale", "gauge", "1 while cut off from NATS.", [({}, int(watcher.stale))])
    yield from family("mesh_nats_connected", "gauge", "1 while connected.", [({}, int(bus.connected))])
    yield from family(
        "mesh_refused_messages_total", "counter", "Control messages that break the protocol.", [({}, watcher.refused)]
    )
    yield from family(
        "mesh_revision_clashes_total",
        "counter",
        "Announcements of a known revision with other endpoints or routes.",
        [({}, watcher.registry.revision_clashes)],
    )
    for name, value in bus.statistics().items():
        kind = "gauge" if name.startswith("pending") else "counter"
        suffix = "" if kind == "gauge" else "_total"
        yield from family(f"mesh_bus_{name}{suffix}", kind, f"Bus: {name.replace('_', ' ')}.", [({}, value)])
