"""What the registry holds and what it says: contents, instances, changes, asks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from mesh.messages import NEVER, Announcement, Endpoint, Route, State
from mesh.registry.announcement_requests import AnnouncementRequest

Kind = Literal["joined", "changed", "claimed", "state", "suspect", "recovered", "lost", "left"]


class Content(Struct, frozen=True):
    """What equal instances share: everything the revision is a hash of."""

    service: str
    version: str
    revision: str
    """Tells it apart from all other contents of its service: the announced one, or, if that is another content's
    already, one that the receiver made."""
    announced_revision: str
    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...]


class Announced(NamedTuple):
    """The routes of one content, and since when their service claims them, in Unix milliseconds: one moment for all of
    them, or one for each."""

    revision: str
    routes: tuple[Route, ...]
    claimed: tuple[int, ...]


class Change(Struct, frozen=True, kw_only=True):
    """One thing that became different in the registry; JSON-ready through ``msgspec.to_builtins``.

    ``joined``, ``left`` (said ``stopped``) and ``lost`` (fell silent) come and go; ``changed`` is new content, or
    another description or the like (``reason`` has the fields), ``claimed`` other moments of its claims, ``state`` a
    new declared state, ``suspect`` and ``recovered`` what the receiver concludes. A message that does several things
    gives several changes, each of which takes up where the one before ended.
    """

    kind: Kind
    service: str
    instance: str
    version: str
    state: State
    """The declared state after the change."""
    previous: State | None = None
    """The declared state before it; None for ``joined``."""
    added: tuple[str, ...] = ()
    """Routes as ``GET /path``, sorted; all of them for ``joined``."""
    removed: tuple[str, ...] = ()
    """Routes as ``GET /path``, sorted; all of them for ``left`` and ``lost``."""
    reason: str = ""
    """A few words for people; may be empty."""


class Ask(Struct, frozen=True):
    """This one instance should be asked to announce again."""

    service: str
    instance: str


class Instance:
    """A live instance. Only the registry writes to it; readers may keep it, it then ends with ``live`` False."""

    __slots__ = (
        "announced",
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
        "question",
        "seen",
        "seq",
        "service",
        "started",
        "state",
        "suspect",
        "suspect_s",
        "told",
    )

    def __init__(self, announcement: Announcement, content: Content, now: float) -> None:
        # Until the instance ends.
        self.service = announcement.name
        self.id = announcement.id
        self.foreign = False
        """A native NATS micro service: it has no heartbeats, so silence says nothing of it."""

        # With every announcement. An instance says the same each time, so another word is a forgery, or ends one.
        self.metadata: dict[str, str] = {}
        self.description = self.started = ""
        self.heartbeat_ms = 0
        self.bundles = False
        self.describe(announcement)
        self.content = content
        self.claimed = moments_of(announcement.claimed, self.started)
        """Since when the service claims its routes, in Unix milliseconds: one for all of them, or one for each."""
        self.announced = announcement.seq
        """``seq`` of the announcement that ``content`` is from."""
        self.connection = announcement.connection
        """Which of its connections to NATS it speaks on; 0 where it does not tell."""

        # With every message.
        self.state: State = announcement.state
        self.seq = announcement.seq
        """The highest ``seq`` seen."""
        self.told = announcement.revision
        """The revision that the message with the highest ``seq`` spoke of."""
        self.seen = now
        """Liveness time of the last message that was news, in seconds."""
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
        self.question: AnnouncementRequest | None = None

    def describe(self, announcement: Announcement) -> list[str]:
        """Take over what the instance says of itself besides its content; the names of the fields that changed."""
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
        """The revision of the last announcement, as the receiver tells contents apart; see `Content`."""
        return self.content.revision

    @property
    def routes(self) -> tuple[Route, ...]:
        return self.content.routes

    @property
    def ready(self) -> bool:
        """Whether it may be picked: live and declared ``ready``. A suspect one still is, as a last resort."""
        return self.live and self.state == "ready"

    def __repr__(self) -> str:
        marks = "".join([" suspect" if self.suspect else "", "" if self.live else " gone"])
        return f"<Instance {self.service}.{self.id} {self.version} {self.state} seq={self.seq}{marks}>"


def moments_of(claimed: tuple[int, ...], started: str) -> tuple[int, ...]:
    """The moments of an instance's claims; one that announces none claims its routes since it ``started``."""
    if claimed:
        return claimed[:1] if len(set(claimed)) == 1 else claimed
    try:
        return (min(NEVER, max(0, round(datetime.fromisoformat(started).timestamp() * 1000))),)
    except (ValueError, OverflowError):
        return (NEVER,)


def earliest(claims: Collection[tuple[int, ...]]) -> tuple[int, ...]:
    """Of several instances' moments (one for all routes, or one for each) the earliest of each route."""
    if len(claims) == 1:
        return next(iter(claims))
    for_all = min((claim[0] for claim in claims if len(claim) == 1), default=NEVER)
    for_each = [claim for claim in claims if len(claim) > 1]
    return tuple(min(for_all, *moments) for moments in zip(*for_each, strict=False)) or (for_all,)


def labels(content: Content) -> set[str]:
    """The routes of ``content`` as people write them: ``GET /path``."""
    return {f"{route.method} {route.path}" for route in content.routes}
