"""One caller's view of the instances it may call, and what calls to them come to."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol


class Candidate(Protocol):
    """What the balancer reads of an instance; the registry's instances have this shape."""

    @property
    def service(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def suspect(self) -> bool: ...
    @property
    def foreign(self) -> bool: ...
    @property
    def bundles(self) -> bool: ...


class Outcome(Enum):
    """How a call to one instance ended, as far as it says something about the instance."""

    ANSWERED = auto()
    """Any valid reply, an application's 500 included."""
    NO_RESPONDERS = auto()
    """NATS says that nobody listens: the call was never delivered."""
    TIMEOUT = auto()
    """No reply within a timeout of at least 1 s."""
    SHORT_TIMEOUT = auto()
    """No reply within less than 1 s: too little to blame the instance."""
    BAD_REPLY = auto()
    """A reply that is unusable."""
    LOST = auto()
    """The instance, or its connection, died while it had the call."""
    CANCELLED = auto()
    """The caller gave up, or could not send, or asked another one: says nothing about the instance."""


FAILURES = frozenset({Outcome.TIMEOUT, Outcome.BAD_REPLY, Outcome.LOST})
"""Outcomes that count towards ejection."""


class Peer:
    """An instance as one caller sees it. Only the balancer writes to it.

    A caller may keep a peer for the length of a call, also when the instance has left meanwhile.
    """

    __slots__ = (
        "address",
        "connection",
        "ejected",
        "ejected_until",
        "ejections",
        "foreign",
        "id",
        "inflight",
        "picked",
        "place",
        "ready",
        "revision",
        "service",
        "skipped",
        "skipped_at",
        "strikes",
        "suspect",
    )

    def __init__(self, service: str, id: str, address: bytes, *, foreign: bool = False, bundles: bool = False) -> None:
        self.service = service
        self.id = id
        self.address = address
        """What an endpoint's name is appended to; empty for a foreign peer, whose endpoints have whole subjects."""
        self.foreign = foreign
        self.place = address if bundles else b""
        """``address`` where the instance takes several requests in one message; empty otherwise."""

        # As the registry says.
        self.revision = ""
        self.ready = False
        self.suspect = False
        self.connection = 0
        """Which of its connections to NATS it spoke of last; 0 until it does."""

        # This caller's own calls.
        self.inflight = 0
        self.picked = 0
        """The balancer's pick counter when it was last picked; 0 for never."""

        # What came of them.
        self.skipped = False
        """Nobody listened; until the instance is heard again."""
        self.skipped_at = float("-inf")
        """When nobody listened first, in the caller's monotonic seconds."""
        self.strikes = 0
        """Failures in a row."""
        self.ejections = 0
        """Ejections in a row; the next one lasts twice as long as the last."""
        self.ejected = False
        """Kept out for its failures; a last resort until ``ejected_until``."""
        self.ejected_until = 0.0
        """When the ejection ends, in the caller's monotonic seconds; 0 where there is none to remember."""

    def __repr__(self) -> str:
        marks = [name for name in ("ready", "suspect", "skipped", "ejected", "foreign") if getattr(self, name)]
        return f"<Peer {self.service}.{self.id} inflight={self.inflight} strikes={self.strikes} {' '.join(marks)}>"
