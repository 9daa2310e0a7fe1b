"""What the registry holds and what it says: contents, instances, changes, asks."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mesh.messages import Announcement, Endpoint, Route, State
from mesh.registry.questions import Question

Kind = Literal["joined", "changed", "state", "suspect", "recovered", "lost", "left"]


class Content(Struct, frozen=True):
    """What equal instances share: everything the revision is a hash of."""

    service: str
    version: str
    revision: str
    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...]


class Change(Struct, frozen=True, kw_only=True):
    """One thing that became different in the registry; JSON-ready through ``msgspec.to_builtins``.

    ``joined``, ``left`` (said ``stopped``) and ``lost`` (fell silent) come and go; ``changed`` is new content,
    ``state`` a new declared state, ``suspect`` and ``recovered`` what the receiver concludes. A message that does
    several things gives several changes, each of which takes up where the one before ended.
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
        # Until the instance ends; a later announcement that says otherwise is not believed.
        self.service = announcement.name
        self.id = announcement.id
        self.metadata: dict[str, str] = dict(announcement.metadata or {})
        self.description = announcement.description
        self.started = announcement.started
        self.heartbeat_ms = announcement.heartbeat_ms
        self.bundles = announcement.bundles
        self.foreign = False
        """A native NATS micro service: it has no heartbeats, so silence says nothing of it."""

        # With every announcement.
        self.content = content
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
        self.question: Question | None = None

    @property
    def version(self) -> str:
        return self.content.version

    @property
    def revision(self) -> str:
        """The revision of the last announcement."""
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


def labels(content: Content) -> set[str]:
    """The routes of ``content`` as people write them: ``GET /path``."""
    return {f"{route.method} {route.path}" for route in content.routes}
