"""What the tests of routes build tables from."""

from __future__ import annotations

from typing import NamedTuple

from mesh.messages import Route
from mesh.routes import Gone, Match, NoRoute, NotAllowed, RouteTable


class Announced(NamedTuple):
    revision: str
    routes: tuple[Route, ...]
    claimed: tuple[int, ...] = (0,)


def content(*routes: str, revision: str = "one", endpoint: str = "run", claimed: tuple[int, ...] = (0,)) -> Announced:
    """A content whose routes are written as ``"GET /users/{id}"``."""
    split = (route.split(" ", 1) for route in routes)
    declared = tuple(Route(method=method, path=path, endpoint=endpoint) for method, path in split)
    return Announced(revision, declared, claimed)


def table_of(
    services: dict[str, list[str]], owners: dict[str, str] | None = None, reserved: tuple[str, ...] = ()
) -> RouteTable:
    table = RouteTable(owners or {}, reserved)
    for service, routes in services.items():
        table = table.replace(service, [content(*routes)], 0.0)
    return table


def split(path: str) -> tuple[str, ...]:
    return tuple(path[1:].split("/"))


def outcome(table: RouteTable, request: str) -> object:
    """What ``"GET /path"`` meets, as plain values: comparable between tables, short in a test."""
    method, path = request.split(" ", 1)
    return plain(table.match(method, split(path)))


def plain(found: Match | Gone | NotAllowed | NoRoute) -> object:
    match found:
        case Match(entry, values):
            return (f"{entry.service} {entry.method} {entry.template}", *values)
        case Gone(entry, values):
            return (f"gone {entry.service} {entry.method} {entry.template}", *values)
        case NotAllowed(allow):
            return set(allow)
        case NoRoute():
            return None


def dump(table: RouteTable) -> object:
    """All that can be seen of a table, as plain values."""
    return (
        [(entry.service, entry.method, entry.template, dict(entry.revisions)) for entry in table.routes()],
        [(entry.service, entry.method, entry.template) for entry in table.remembered()],
        table.conflicts,
        table.rejected,
        table.services,
        len(table),
    )
