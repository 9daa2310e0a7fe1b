"""What changed about a route: as JSON, and in words."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.registry import AlteredRoute
from mesh.registry.instance_records import route_label

ZERO_MS = {"timeout_ms": "default"}
"""What 0 means in fields of milliseconds; in all others it means ``none``."""


def altered_route(route: AlteredRoute) -> dict[str, Any]:
    """JSON-ready: ``{"route": "GET /x", "fields": {"timeout_ms": [5000, 2000]}}``, each value before and after."""
    before, after = msgspec.structs.asdict(route.before), msgspec.structs.asdict(route.after)
    differing = {name: [value, after[name]] for name, value in before.items() if value != after[name]}
    return {"route": route_label(route.after), "fields": differing}


def in_words(altered: dict[str, Any]) -> str:
    """The same for people: ``GET /x timeout 5s -> 2s``; several fields with commas between them.

    altered: what `altered_route` returned
    """
    changes = [
        f"{name.removesuffix('_ms').replace('_', ' ')} {_value(name, before)} -> {_value(name, after)}"
        for name, (before, after) in altered["fields"].items()
    ]
    return f"{altered['route']} {', '.join(changes)}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_ms"):
        return f"{value / 1000:g}s" if value else ZERO_MS.get(name, "none")
    if isinstance(value, str):
        return f"'{value}'" if " " in value or not value else value
    return ", ".join(value) or "none"
