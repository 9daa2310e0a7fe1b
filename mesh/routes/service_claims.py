"""The routes that services claim: those of one service over all its revisions, and what keeps it from serving them.

A worked example. Two revisions of the service ``users`` are live::

    A announces  GET /users/{id}   -> endpoint "get_user"
    B announces  GET /users/{user} -> endpoint "user"

`parse_revision` makes a `ParsedRevision` of each. Their routes have one `RouteKey`: shape ``("users", None)`` and
method ``GET``. So `merge_revisions` makes one `ServedRoute` of them, with one policy, the smaller spelling
``/users/{id}`` as its template, and as its ``revisions``::

    {"A": RevisionRoute("get_user", names=("id",)), "B": RevisionRoute("user", names=("user",))}

It is part of a `RouteClaim`, which says since when the service claims it. If the service may not have it, as its path
belongs to another, the claim has an `Exclusion`. All claims of ``users`` are its `ServiceClaims`. When its last
instance goes, they are kept until a moment at which they are forgotten. Which of several claims on one path serves is
decided by `mesh.routes.path_claims`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from msgspec import Struct

from mesh.messages import NEVER, Route, Why
from mesh.routes.route_policy import RoutePolicy, merge_policies
from mesh.routes.slices import ROUTES, Steps
from mesh.routes.template import BadTemplate, Shape, Template, parse_template, prefix_segments

GATEWAY = "gateway"


class RouteKey(NamedTuple):
    """A route's identity: what it matches, and the method."""

    shape: Shape
    method: str


class AnnouncedRoutes(Protocol):
    """What the table needs of an instance's announcement."""

    @property
    def revision(self) -> str: ...

    @property
    def routes(self) -> tuple[Route, ...]: ...

    @property
    def claimed(self) -> tuple[int, ...]:
        """Since when its service claims the routes, in Unix milliseconds: one for all, or one for each."""


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """A route as one revision announces it. ``names`` are those of its parameters, in the order of a match's values."""

    announced: Route
    endpoint: str
    names: tuple[str, ...]
    address: bytes = field(init=False, repr=False, compare=False)
    """The endpoint's name as it is in a subject."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.endpoint.encode())


@dataclass(frozen=True, slots=True, eq=False)
class ServedRoute:
    """A route of one service, over all revisions that announce it: requests go only to instances of ``revisions``.

    ``template`` is the smallest of the spellings in them, so that every replica says the same. Compared by
    identity, and the same object for as long as nothing about the route changes.
    """

    service: str
    method: str
    template: str
    revisions: Mapping[str, RevisionRoute]
    policy: RoutePolicy = field(init=False, repr=False)
    """What the revisions say together."""

    def __post_init__(self) -> None:
        policy = merge_policies(route.announced for route in self.revisions.values())
        object.__setattr__(self, "policy", policy)


class Exclusion(NamedTuple):
    """Why a claim never serves: the path is ``winner``'s."""

    winner: str
    why: Why


class RouteClaim(NamedTuple):
    """A service's claim on a route: since that moment, live, or remembered until ``forget_at``, excluded or not."""

    route: ServedRoute
    since: int
    exclusion: Exclusion | None = None
    forget_at: float | None = None


class Rejected(Struct, frozen=True, order=True):
    """An announced route that is left out because it cannot be one. ``path`` is as announced, so unchecked."""

    service: str
    method: str
    path: str
    why: str


class Rules:
    """The configured rights: owners of path prefixes, and the gateway's own paths.

    Raises `BadTemplate` for a prefix or path that is not valid, and if one prefix has two owners.
    """

    __slots__ = ("_exact", "_lengths", "_owners", "_subtrees")

    def __init__(self, owners: Mapping[str, str], reserved: Collection[str]) -> None:
        self._owners: dict[tuple[str | None, ...], str] = {}
        for prefix, service in owners.items():
            segments = prefix_segments(prefix)
            if self._owners.setdefault(segments, service) != service:
                raise BadTemplate(f"prefix {prefix!r} has two owners, {self._owners[segments]} and {service}")
        self._exact: set[tuple[str | None, ...]] = set()
        self._subtrees: set[tuple[str | None, ...]] = set()
        for path in reserved:
            # "/" is the one path, not the subtree: reserving everything would leave no route to serve.
            if path == "/":
                self._exact.add(("",))
            elif path.endswith("/"):
                self._subtrees.add(prefix_segments(path))
            else:
                self._exact.add(prefix_segments(path))
        # Longest first, and only lengths that occur: a template may have a thousand segments.
        self._lengths = sorted({len(prefix) for prefix in (*self._owners, *self._subtrees)}, reverse=True)

    def exclusion(self, service: str, shape: Shape) -> Exclusion | None:
        """Why ``service`` may not have routes of that shape; None if it may."""
        segments, tail = shape
        if not tail and segments in self._exact:
            return Exclusion(GATEWAY, "reserved")
        prefixes = [segments[:length] for length in self._lengths if length <= len(segments)]
        for prefix in prefixes:
            # A subtree begins behind its slash: "/docs/" has "/docs/" and all below, not "/docs".
            if prefix in self._subtrees and (tail or len(prefix) < len(segments)):
                return Exclusion(GATEWAY, "reserved")
        for prefix in prefixes:
            owner = self._owners.get(prefix)
            if owner is not None:
                return None if owner == service else Exclusion(owner, "owner")
        return None


class ParsedRoute(NamedTuple):
    """One route of a revision, and its position among the revision's routes."""

    template: Template
    route: RevisionRoute
    position: int


class ParsedRevision:
    """The routes of one revision, parsed once for as long as the revision lives."""

    __slots__ = ("announced", "parsed", "rejected")

    def __init__(
        self, announced: tuple[Route, ...], parsed: dict[RouteKey, ParsedRoute], rejected: Iterable[Rejected]
    ) -> None:
        self.announced = announced
        self.parsed = parsed
        self.rejected = tuple(rejected)


def parse_revision(service: str, routes: tuple[Route, ...]) -> Steps[ParsedRevision]:
    """Parse the routes of one revision."""
    parsed: dict[RouteKey, ParsedRoute] = {}
    rejected = []
    for position, route in enumerate(routes):
        if position % ROUTES == ROUTES - 1:
            yield
        try:
            template = parse_template(route.path)
        except BadTemplate as error:
            rejected.append(Rejected(service, route.method, route.path, str(error)))
            continue
        key = RouteKey(template.shape, route.method)
        if key in parsed:
            why = f"the same route as {parsed[key].template.text!r}, announced before it"
            rejected.append(Rejected(service, route.method, route.path, why))
            continue
        parsed[key] = ParsedRoute(template, RevisionRoute(route, route.endpoint, template.names), position)
    return ParsedRevision(routes, parsed, rejected)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceClaims:
    """All claims of one service: live with its parsed revisions, or remembered until ``forget_at``."""

    revisions: Mapping[str, ParsedRevision]
    claims: Mapping[RouteKey, RouteClaim]
    claimed: Mapping[str, tuple[int, ...]]
    forget_at: float | None = None

    def is_of(self, announced: Mapping[str, AnnouncedRoutes]) -> bool:
        """True if these are the live claims of exactly these announcements."""
        if self.forget_at is not None or self.revisions.keys() != announced.keys():
            return False
        return all(
            parsed.announced == announced[revision].routes and self.claimed[revision] == announced[revision].claimed
            for revision, parsed in self.revisions.items()
        )

    def remember(self, forget_at: float) -> ServiceClaims:
        """The same claims without an instance. An excluded one never served, so it is left out."""
        claims = {key: claim._replace(forget_at=forget_at) for key, claim in self.claims.items() if not claim.exclusion}
        return ServiceClaims({}, claims, {}, forget_at)


NO_CLAIMS = ServiceClaims({}, {}, {})


class _Merged(NamedTuple):
    """One route while revisions are merged."""

    template: str
    revisions: dict[str, RevisionRoute]
    since: int


def merge_revisions(
    service: str, announced: Mapping[str, AnnouncedRoutes], rules: Rules, before: ServiceClaims
) -> Steps[ServiceClaims]:
    """What the service claims with these announcements by revision.

    Parsed revisions and routes that did not change are those of ``before``.
    """
    revisions: dict[str, ParsedRevision] = {}
    merged: dict[RouteKey, _Merged] = {}
    for revision, content in announced.items():
        parsed = before.revisions.get(revision)
        if parsed is None or parsed.announced != content.routes:
            parsed = yield from parse_revision(service, content.routes)
        revisions[revision] = parsed
        claimed = content.claimed
        for_all = claimed[0] if len(claimed) == 1 else None if claimed else NEVER
        for key, (template, route, position) in parsed.parsed.items():
            text, routes, since = merged.get(key) or (template.text, {}, NEVER)
            routes[revision] = route
            own_since = claimed[position] if for_all is None else for_all
            merged[key] = _Merged(min(text, template.text), routes, min(since, own_since))
        yield
    claims: dict[RouteKey, RouteClaim] = {}
    for number, (key, (text, routes, since)) in enumerate(merged.items(), 1):
        if number % (4 * ROUTES) == 0:
            yield
        old = before.claims.get(key)
        if old is None or old.route.template != text or old.route.revisions != routes:
            served = ServedRoute(service, key.method, text, routes)
            claims[key] = RouteClaim(served, since, rules.exclusion(service, key.shape))
        elif old.forget_at is None and old.since == since:
            claims[key] = old
        else:
            claims[key] = old._replace(since=since, forget_at=None)
    return ServiceClaims(revisions, claims, {revision: content.claimed for revision, content in announced.items()})


def by_revision(announced: Iterable[AnnouncedRoutes]) -> dict[str, AnnouncedRoutes]:
    """The announcements by revision, in an order that does not depend on the caller's."""
    return {content.revision: content for content in sorted(announced, key=lambda content: content.revision)}
