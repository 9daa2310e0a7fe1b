"""Messages of made-up instances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.messages import Announcement, Endpoint, Heartbeat, Route, State, revision_of
from mesh.registry import Change, DiscoverRequest
from mesh.registry.instance_records import route_label


def content(*paths: str, version: str = "1.0.0", service: str = "users") -> dict[str, Any]:
    """The fields of an announcement that its revision is a hash of."""
    endpoints = tuple(Endpoint(name=f"e{i}", subject=f"mesh.req.{service}.e{i}") for i in range(len(paths)))
    routes = tuple(Route(method="GET", path=path, endpoint=f"e{i}") for i, path in enumerate(paths))
    return {
        "version": version,
        "endpoints": endpoints,
        "routes": routes,
        "revision": revision_of(service, version, endpoints, routes),
    }


def announcement(
    seq: int, *paths: str, id: str = "a", service: str = "users", state: State = "ready", **fields: Any
) -> Announcement:
    defaults = content(*(paths or ("/users",)), service=service)
    others = {"started": "2025-01-01T00:00:00.000Z", "heartbeat_ms": 2000}
    return Announcement(name=service, id=id, seq=seq, state=state, **{**defaults, **others, **fields})


def heartbeat(
    seq: int, *paths: str, id: str = "a", service: str = "users", state: State = "ready", **fields: Any
) -> Heartbeat:
    revision = content(*(paths or ("/users",)), service=service)["revision"]
    return Heartbeat(name=service, id=id, seq=seq, state=state, **{"revision": revision, **fields})


def kinds(outcome: list[Change | DiscoverRequest]) -> list[str]:
    return [item.kind if isinstance(item, Change) else "ask" for item in outcome]


def labels(routes: Iterable[Route]) -> list[str]:
    return [route_label(route) for route in routes]
