"""What services claim: the routes of one service over all its live revisions, and who may not have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from msgspec import Struct

from mesh.messages import NEVER, Route, Why
from mesh.routes.slices import ROUTES, Steps
from mesh.routes.template import BadTemplate, Shape, Template, parse_template, prefix_segments

GATEWAY = "gateway"


class Key(NamedTuple):
    """A route's identity: what it matches, and the method."""

    shape: Shape
    method: str


class Content(Protocol):
    """What the table needs of an instance's announcement."""

    @property
    def revision(self) -> str: ...

    @property
    def routes(self) -> tuple[Route, ...]: ...

    @property
    def claimed(self) -> tuple[int, ...]:
        """Since when its service claims the routes, in Unix milliseconds: one for all, or one for each."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one revision leads a route, and what it calls the values of a match (in their order)."""

    route: Route
    endpoint: str
    names: tuple[str, ...]
    address: bytes = field(init=False, repr=False, compare=False)
    """The endpoint's name as it is in a subject."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.endpoint.encode())


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A route of one service. ``bindings`` has the revisions that announce it: it goes only to their instances.

    ``template`` is the smallest of the spellings in them, so that every replica says the same. Compared by
    identity, and the same object for as long as nothing about the route changes.
    """

    service: str
    method: str
    template: str
    bindings: Mapping[str, Binding]

    @property
    def timeout_ms(self) -> int:
        """The shortest that a revision announces, 0 where none does."""
        return min((b.route.timeout_ms for b in self.bindings.values() if b.route.timeout_ms), default=0)


class Bar(NamedTuple):
    """Why a claim never serves: the path is ``winner``'s."""

    winner: str
    why: Why


class Claim(NamedTuple):
    """An entry and its standing: claimed since that moment, live or remembered until ``due``, barred or not."""

    entry: Entry
    since: int
    bar: Bar | None = None
    due: float | None = None


class Rejected(Struct, frozen=True, order=True):
    """An announced route that is left out because it cannot be one. ``path`` is as announced, so unchecked."""

    service: str
    method: str
    path: str
    why: str


class Rules:
    """The configured rights: owners of path prefixes, and the gateway's own paths.

    Raises `BadTemplate` for a prefix or path that is none, and where one prefix has two owners.
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

    def bar(self, service: str, shape: Shape) -> Bar | None:
        """Why ``service`` may not have routes of that shape; None where it may."""
        segments, tail = shape
        if not tail and segments in self._exact:
            return Bar(GATEWAY, "reserved")
        prefixes = [segments[:length] for length in self._lengths if length <= len(segments)]
        for prefix in prefixes:
            # A subtree begins behind its slash: "/docs/" has "/docs/" and all below, not "/docs".
            if prefix in self._subtrees and (tail or len(prefix) < len(segments)):
                return Bar(GATEWAY, "reserved")
        for prefix in prefixes:
            owner = self._owners.get(prefix)
            if owner is not None:
                return None if owner == service else Bar(owner, "owner")
        return None


class Parsed(NamedTuple):
    """One route of a revision, and its place among the revision's routes."""

    template: Template
    binding: Binding
    place: int


class Reading:
    """The routes of one revision, parsed; read once for as long as the revision lives."""

    __slots__ = ("parsed", "rejected", "routes")

    def __init__(self, routes: tuple[Route, ...], parsed: dict[Key, Parsed], rejected: Iterable[Rejected]) -> None:
        self.routes = routes
        self.parsed = parsed
        self.rejected = tuple(rejected)


def read(service: str, routes: tuple[Route, ...]) -> Steps[Reading]:
    """Parse the routes of one revision."""
    parsed: dict[Key, Parsed] = {}
    rejected = []
    for place, route in enumerate(routes):
        if place % ROUTES == ROUTES - 1:
            yield
        try:
            template = parse_template(route.path)
        except BadTemplate as error:
            rejected.append(Rejected(service, route.method, route.path, str(error)))
            continue
        key = Key(template.shape, route.method)
        if key in parsed:
            why = f"the same route as {parsed[key].template.text!r}, announced before it"
            rejected.append(Rejected(service, route.method, route.path, why))
            continue
        parsed[key] = Parsed(template, Binding(route, route.endpoint, template.names), place)
    return Reading(routes, parsed, rejected)


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """All that one service claims: live with its readings by revision, or remembered until ``due``."""

    readings: Mapping[str, Reading]
    claims: Mapping[Key, Claim]
    claimed: Mapping[str, tuple[int, ...]]
    due: float | None = None

    def is_of(self, contents: Mapping[str, Content]) -> bool:
        """Whether this is live and of exactly these contents."""
        if self.due is not None or self.readings.keys() != contents.keys():
            return False
        return all(
            reading.routes == contents[revision].routes and self.claimed[revision] == contents[revision].claimed
            for revision, reading in self.readings.items()
        )

    def remember(self, due: float) -> Holding:
        """The same routes without an instance. A barred claim never served, so nobody misses it."""
        claims = {key: claim._replace(due=due) for key, claim in self.claims.items() if not claim.bar}
        return Holding({}, claims, {}, due)


NOTHING = Holding({}, {}, {})


def hold(service: str, contents: Mapping[str, Content], rules: Rules, before: Holding) -> Steps[Holding]:
    """What the service claims with these contents; readings and entries that did not change are kept."""
    readings: dict[str, Reading] = {}
    merged: dict[Key, tuple[str, dict[str, Binding], int]] = {}
    for revision, content in contents.items():
        reading = before.readings.get(revision)
        if reading is None or reading.routes != content.routes:
            reading = yield from read(service, content.routes)
        readings[revision] = reading
        claimed = content.claimed
        for_all = claimed[0] if len(claimed) == 1 else None if claimed else NEVER
        for key, (template, binding, place) in reading.parsed.items():
            text, bindings, since = merged.get(key) or (template.text, {}, NEVER)
            bindings[revision] = binding
            merged[key] = min(text, template.text), bindings, min(since, claimed[place] if for_all is None else for_all)
        yield
    claims: dict[Key, Claim] = {}
    for number, (key, (text, bindings, since)) in enumerate(merged.items(), 1):
        if number % (4 * ROUTES) == 0:
            yield
        old = before.claims.get(key)
        if old is None or old.entry.template != text or old.entry.bindings != bindings:
            claims[key] = Claim(Entry(service, key.method, text, bindings), since, rules.bar(service, key.shape))
        elif old.due is None and old.since == since:
            claims[key] = old
        else:
            claims[key] = old._replace(since=since, due=None)
    return Holding(readings, claims, {revision: content.claimed for revision, content in contents.items()})


def by_revision(contents: Iterable[Content]) -> dict[str, Content]:
    """The contents by revision, in an order that does not depend on the caller's."""
    return {content.revision: content for content in sorted(contents, key=lambda content: content.revision)}
