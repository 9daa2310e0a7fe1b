"""What the registry holds and what it says: instances, what they announce, changes, requests for announcements."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from mesh.messages import NEVER, Announcement, Endpoint, Route, State
from mesh.registry.awaited_announcements import AwaitedAnnouncement

ChangeKind = Literal["joined", "changed", "claimed", "state", "suspect", "recovered", "lost", "left"]


class AnnouncedContent(Struct, frozen=True):
    """What equal instances share: everything that the revision is a hash of."""

    service: str
    version: str
    revision: str
    """Distinguishes it from all other content of its service: the announced revision, or one that the receiver made if
    other content has that already."""
    announced_revision: str
    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...]


class ClaimedRoutes(NamedTuple):
    """The routes of one revision, and since when their service claims them, in Unix milliseconds.

    ``claimed`` has one time for all routes, or one for each.
    """

    revision: str
    routes: tuple[Route, ...]
    claimed: tuple[int, ...]


class AlteredRoute(NamedTuple):
    """A route that was announced before and is announced still, with other fields."""

    before: Route
    after: Route


class Change(Struct, frozen=True, kw_only=True):
    """One thing that became different in the registry.

    ``joined``, ``left`` (said ``stopped``) and ``lost`` (fell silent) come and go. ``changed`` is new content, or
    another description or the like (``reason`` has the fields). ``claimed`` is other times of its claims, ``state`` a
    new declared state. ``suspect`` and ``recovered`` are what the receiver concludes. A message that does several
    things gives several changes; each continues from the one before.
    """

    kind: ChangeKind
    service: str
    instance: str
    version: str
    state: State
    """The declared state after the change."""
    previous: State | None = None
    """The declared state before it; None for ``joined``."""
    added: tuple[Route, ...] = ()
    """New routes, in the order of the announcement; all of them for ``joined``."""
    removed: tuple[Route, ...] = ()
    """Routes that are not announced any more; all of them for ``left`` and ``lost``."""
    altered: tuple[AlteredRoute, ...] = ()
    """Routes of which another field than method and path changed; for ``changed`` only."""
    reason: str = ""
    """A few words for people; may be empty."""


class DiscoverRequest(Struct, frozen=True):
    """One instance that should get a discover message, so that it announces itself again."""

    service: str
    instance: str


class Instance:
    """A live instance. Only the registry writes to it. Readers may keep it: when it is gone, ``live`` is False."""

    __slots__ = (
        "announced",
        "awaited",
        "bundles",
        "capacity",
        "claimed",
        "connection",
        "content",
        "description",
        "due",
        "foreign",
        "heartbeat_ms",
        "id",
        "inflight",
        "lag_ms",
        "live",
        "lost_s",
        "metadata",
        "seen",
        "seq",
        "service",
        "started",
        "state",
        "suspect",
        "suspect_s",
        "told",
    )

    def __init__(self, announcement: Announcement, content: AnnouncedContent, now: float) -> None:
        # Until the instance ends.
        self.service = announcement.name
        self.id = announcement.id
        self.foreign = False
        """True for a NATS micro service that is not of the mesh: it has no heartbeats, so its silence means nothing."""

        # With every announcement. An instance says the same each time: another value is a forgery, or corrects one.
        self.metadata: dict[str, str] = {}
        self.description = self.started = ""
        self.heartbeat_ms = 0
        self.bundles = False
        self.describe(announcement)
        self.content = content
        self.claimed = claim_times_of(announcement.claimed, self.started)
        """Since when the service claims its routes, in Unix milliseconds: one time for all of them, or one for each."""
        self.announced = announcement.seq
        """``seq`` of the announcement that ``content`` is from."""
        self.connection = announcement.connection
        """The number of its connection to NATS, counted from 1; 0 if it does not say."""

        # With every message.
        self.state: State = announcement.state
        self.seq = announcement.seq
        """The highest ``seq`` seen."""
        self.told = announcement.revision
        """The revision in the message with the highest ``seq``."""
        self.seen = now
        """Liveness time of the last message that was new, in seconds."""
        self.inflight = 0
        self.capacity = 0
        self.lag_ms = 0

        # What the receiver concludes.
        self.live = True
        self.suspect = False

        # The registry's own bookkeeping.
        self.suspect_s = 0.0
        self.lost_s = 0.0
        self.due = 0.0
        self.awaited: AwaitedAnnouncement | None = None

    def describe(self, announcement: Announcement) -> list[str]:
        """Take over what the instance says of itself, except its content. Returns the fields that changed."""
        facts = {
            "bundles": announcement.bundles,
            "description": announcement.description,
            "heartbeat_ms": announcement.heartbeat_ms,
            "metadata": announcement.metadata or {},
            "started": announcement.started,
        }
        changed = [name for name, value in facts.items() if getattr(self, name) != value]
        for name in changed:
            setattr(self, name, facts[name])
        return changed

    @property
    def version(self) -> str:
        return self.content.version

    @property
    def revision(self) -> str:
        """The revision of the last announcement, as in `AnnouncedContent`."""
        return self.content.revision

    @property
    def routes(self) -> tuple[Route, ...]:
        return self.content.routes

    @property
    def ready(self) -> bool:
        """True if it may be picked: live and declared ``ready``. A suspect one may be, as a last resort."""
        return self.live and self.state == "ready"

    def __repr__(self) -> str:
        marks = "".join([" suspect" if self.suspect else "", "" if self.live else " gone"])
        return f"<Instance {self.service}.{self.id} {self.version} {self.state} seq={self.seq}{marks}>"


def claim_times_of(claimed: tuple[int, ...], started: str) -> tuple[int, ...]:
    """The claim times of an instance. One that announces none claims its routes since it ``started``."""
    if claimed:
        return claimed[:1] if len(set(claimed)) == 1 else claimed
    try:
        return (min(NEVER, max(0, round(datetime.fromisoformat(started).timestamp() * 1000))),)
    except (ValueError, OverflowError):
        return (NEVER,)


def earliest_claim_times(claims: Collection[tuple[int, ...]]) -> tuple[int, ...]:
    """The earliest claim time of each route over several instances.

    claims: of each instance one time for all routes, or one for each: ``[(20,), (10, 30)]`` gives ``(10, 20)``
    """
    if len(claims) == 1:
        return next(iter(claims))
    for_all = min((claim[0] for claim in claims if len(claim) == 1), default=NEVER)
    for_each = [claim for claim in claims if len(claim) > 1]
    return tuple(min(for_all, *times) for times in zip(*for_each, strict=False)) or (for_all,)


def route_label(route: Route) -> str:
    """A route as people write it: ``GET /path``."""
    return f"{route.method} {route.path}"


def compare_routes(
    before: tuple[Route, ...], after: tuple[Route, ...]
) -> tuple[tuple[Route, ...], tuple[Route, ...], tuple[AlteredRoute, ...]]:
    """The routes that were added, removed and altered. A route is known by its method and path."""
    old, new = {route_label(route): route for route in before}, {route_label(route): route for route in after}
    return (
        tuple(route for label, route in new.items() if label not in old),
        tuple(route for label, route in old.items() if label not in new),
        tuple(AlteredRoute(old[label], route) for label, route in new.items() if route != old.get(label, route)),
    )
