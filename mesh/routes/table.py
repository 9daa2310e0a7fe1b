"""The route table: an immutable value that a receiver swaps in one reference.

It is a function of what the live services announce and of what is remembered: every replica that knows the
same decides alike, in whatever order it learned it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from msgspec import Struct

from mesh.defaults import REMEMBERED_ROUTES, ROUTE_MEMORY_S
from mesh.messages import RouteConflict
from mesh.routes.nearest import nearest
from mesh.routes.path_claims import with_head
from mesh.routes.service_claims import (
    NO_CLAIMS,
    AnnouncedRoutes,
    Rejected,
    RouteKey,
    Rules,
    ServedRoute,
    ServiceClaims,
    by_revision,
    merge_revisions,
)
from mesh.routes.slices import ROUTES, Steps, finish
from mesh.routes.trie import Edit, Node, leaves, matching


class Match(Struct, frozen=True):
    """A live route, and the values of its parameters in the order of the names in each `RevisionRoute`."""

    route: ServedRoute
    values: tuple[str, ...]


class Gone(NamedTuple):
    """A remembered route: it is known, and nothing that serves it lives."""

    route: ServedRoute
    values: tuple[str, ...]


class NotAllowed(NamedTuple):
    """The path is known, with other methods: those of the ``Allow`` header, sorted."""

    allow: tuple[str, ...]


class NoRoute(NamedTuple):
    """No such path."""


_NO_ROUTE = NoRoute()
Value = TypeVar("Value")


class RouteTable:
    """Routes by path and method. ``RouteTable(owners, reserved)`` is an empty one; see `Rules`."""

    __slots__ = ("_claims_of", "_conflicts", "_remembered", "_root", "_rules", "_size")

    def __init__(self, owners: Mapping[str, str] | None = None, reserved: Collection[str] = ()) -> None:
        self._rules = Rules(owners or {}, reserved)
        self._root = Node()
        self._claims_of: dict[str, ServiceClaims] = {}
        self._remembered: dict[str, float] = {}
        self._conflicts: dict[RouteKey, RouteConflict] = {}
        self._size = 0

    def replace(self, service: str, announced: Iterable[AnnouncedRoutes], now: float) -> RouteTable:
        """The table with these as all that live instances of the service announce, each once; ``now`` in seconds.

        Without any, the service's live routes are remembered until ``now`` + 600 s, or until too many others are
        remembered after them. Gives self when nothing changed. Never raises for what a service announces: see
        `rejected`.
        """
        return finish(self.replacing(service, announced, now))

    def replacing(self, service: str, announced: Iterable[AnnouncedRoutes], now: float) -> Steps[RouteTable]:
        """`replace` in short steps. This table stays as it is; who takes the steps sees to it that no other edit of it
        goes on beside them."""
        routes = by_revision(announced)
        before = self._claims_of.get(service, NO_CLAIMS)
        if routes:
            if before.is_of(routes):
                return self
            claims = yield from merge_revisions(service, routes, self._rules, before)
            return (yield from self._with(service, claims))
        if before is NO_CLAIMS or before.forget_at is not None:
            return self
        table = yield from self._with(service, before.remember(now + ROUTE_MEMORY_S))
        return (yield from table._within_limit())

    def expire(self, now: float) -> RouteTable:
        """The table without the remembered routes that are due; self when there are none."""
        return finish(self.expiring(now))

    def expiring(self, now: float) -> Steps[RouteTable]:
        """`expire` in short steps."""
        table = self
        for service in [service for service, due in self._remembered.items() if due <= now]:
            table = yield from table._with(service, NO_CLAIMS)
        return table

    def _within_limit(self) -> Steps[RouteTable]:
        """The table without the services that are remembered longest, if too many routes are remembered."""
        table = self
        count = sum(len(self._claims_of[service].claims) for service in self._remembered)
        for service in self._remembered:  # the oldest first
            if count <= REMEMBERED_ROUTES:
                break
            count -= len(self._claims_of[service].claims)
            table = yield from table._with(service, NO_CLAIMS)
        return table

    def match(self, method: str, segments: tuple[str, ...]) -> Match | Gone | NotAllowed | NoRoute:
        """What serves a request with that method for a path of these decoded segments (see `parse_target`)."""
        # Straight down by the best child of each node. If that ends at a leaf with the method, no search could
        # find a better one; else the search begins anew and takes every turn.
        node = self._root
        for segment in segments:
            child = node.literals.get(segment)
            if child is None:
                child = node.param
                if child is None or not segment:
                    leaf = node.tail
                    break
            node = child
        else:
            leaf = node.leaf
        if leaf is not None:
            route = leaf.serves.get(method) or leaf.serves_any
            if route is not None:
                return Match(route, leaf.capture(segments))
        return self._search(method, segments)

    def _search(self, method: str, segments: tuple[str, ...]) -> Match | Gone | NotAllowed | NoRoute:
        remembered: Gone | None = None
        methods: set[str] = set()
        for leaf in matching(self._root, segments):
            route = leaf.serves.get(method) or leaf.serves_any
            if route is not None:
                return Match(route, leaf.capture(segments))
            if remembered is None and leaf.gone:
                route = with_head(leaf.gone).get(method) or leaf.gone.get("*")
                if route is not None:
                    remembered = Gone(route, leaf.capture(segments))
            methods.update(leaf.live, leaf.gone)
        if remembered is not None:
            return remembered
        if not methods:
            return _NO_ROUTE
        if "GET" in methods:
            methods.add("HEAD")
        methods.add("OPTIONS")
        return NotAllowed(tuple(sorted(methods)))

    @property
    def services(self) -> frozenset[str]:
        """The services with a live instance, whether or not they have routes."""
        return frozenset(service for service, claims in self._claims_of.items() if claims.forget_at is None)

    @property
    def conflicts(self) -> tuple[RouteConflict, ...]:
        """Routes that others than their winner announce, by path and method."""
        return tuple(sorted(self._conflicts.values(), key=lambda conflict: (conflict.path, conflict.method)))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Announced routes that cannot be one, sorted."""
        revisions = (parsed for claims in self._claims_of.values() for parsed in claims.revisions.values())
        return tuple(sorted({rejected for parsed in revisions for rejected in parsed.rejected}))

    def routes(self) -> Iterator[ServedRoute]:
        """The live routes that serve, by path and method."""
        return iter(
            sorted((route for leaf in leaves(self._root) for route in leaf.live.values()), key=_path_and_method)
        )

    def remembered(self) -> Iterator[ServedRoute]:
        """The remembered routes, by path and method."""
        return iter(
            sorted((route for leaf in leaves(self._root) for route in leaf.gone.values()), key=_path_and_method)
        )

    def nearest(self, path: str, limit: int = 3) -> list[str]:
        """Live routes that a request for ``path`` may have meant, like ``GET /users/{user_id}``, best first."""
        return nearest(self._root, path, limit)

    def __len__(self) -> int:
        return self._size

    # An empty table is a table: `table or default` must not replace it.
    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<RouteTable of {self._size} routes, {len(self._conflicts)} conflicts>"

    def _with(self, service: str, after: ServiceClaims) -> Steps[RouteTable]:
        """This table with those claims of the service; the work is the service's claims that differ."""
        before = self._claims_of.get(service, NO_CLAIMS)
        table: RouteTable = object.__new__(RouteTable)
        table._rules = self._rules
        table._claims_of = _but(self._claims_of, service, after if after.claims or after.revisions else None)
        table._remembered = self._remembered
        if before.forget_at is not None or after.forget_at is not None:
            table._remembered = _but(self._remembered, service, after.forget_at if after.claims else None)
        table._root, table._conflicts, table._size = self._root, self._conflicts, self._size
        changed = [key for key in before.claims.keys() | after.claims.keys() if _differ(before, after, key)]
        if not changed:
            return table
        edit = Edit(self._root)
        conflicts: dict[RouteKey, RouteConflict | None] = {}
        for number, key in enumerate(changed, 1):
            if number % ROUTES == 0:
                yield
            old, new = edit.change(key, service, after.claims.get(key))
            table._size += (len(new.live) if new else 0) - (len(old.live) if old else 0)
            conflict = new.conflict(key.method) if new else None
            if conflict != self._conflicts.get(key):
                conflicts[key] = conflict
        table._root = edit.root
        if conflicts:
            merged = {**self._conflicts, **conflicts}
            table._conflicts = {key: conflict for key, conflict in merged.items() if conflict is not None}
        return table


def _differ(before: ServiceClaims, after: ServiceClaims, key: RouteKey) -> bool:
    return before.claims.get(key) is not after.claims.get(key)


def _but(mapping: dict[str, Value], key: str, value: Value | None) -> dict[str, Value]:
    """A copy with that value, or without the key where it is None."""
    copy = mapping.copy()
    if value is None:
        copy.pop(key, None)
    else:
        copy[key] = value
    return copy


def _path_and_method(route: ServedRoute) -> tuple[str, str, str]:
    return route.template, route.method, route.service
