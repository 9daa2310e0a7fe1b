"""Route conflicts in words, for logs and commands."""

from __future__ import annotations

from mesh.messages import RouteConflict

WHY = {"earlier": "the earlier claim", "owner": "owner of the prefix", "reserved": "the gateway's own path"}


NAMES = 10
"""Services that claim one route and are named in a text."""


def sentence(conflict: RouteConflict) -> str:
    """Which service serves the route, why, and which other services claim it."""
    route, why = f"{conflict.method} {conflict.path}", WHY[conflict.why]
    return f"{route} is served by {conflict.winner} ({why}), claimed by {_losers(conflict)} too"


def told(conflict: RouteConflict, service: str) -> str:
    """The same for the log of one of the services that claim it, with what to do."""
    route, why = f"{conflict.method} {conflict.path}", WHY[conflict.why]
    if service == conflict.winner:
        return f"{route} is claimed by {_losers(conflict)} too; this service keeps it ({why})"
    lost = f"{route} is served by {conflict.winner} ({why}), so this service gets none of its requests"
    return f"{lost}; {advice(conflict, service)}"


def _losers(conflict: RouteConflict) -> str:
    names, more = ", ".join(conflict.losers[:NAMES]), max(0, len(conflict.losers) - NAMES) + conflict.more
    return f"{names} and {more} more" if more else names


def advice(conflict: RouteConflict, service: str = "SERVICE") -> str:
    """How a service that does not get the route can change that."""
    if conflict.why == "reserved":
        return "announce another path"
    prefix = conflict.path.partition("{")[0].rstrip("/") or "/"
    return (
        "announce another path, or say in the gateway's mesh.toml whose it is: "
        f'[gateway.owners] "{prefix}" = "{service}"'
    )
