"""The instances of a service as one caller sees them, and the outcomes of calls to them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from mesh.defaults import FAILURES_TO_EJECT


class Candidate(Protocol):
    """The attributes of an instance that the balancer reads; `mesh.registry.Instance` has this shape."""

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
    """How a call to one instance ended, as far as it says something about the instance.

    The values of those in `FAILURES` are labels of a metric.
    """

    ANSWERED = "answered"
    """Any valid reply, an application's 500 included."""
    NO_RESPONDERS = "no_responders"
    """NATS says that nothing listens: the call was never delivered."""
    TIMEOUT = "timeout"
    """No reply within a timeout of at least 1 s."""
    SHORT_TIMEOUT = "short_timeout"
    """No reply within less than 1 s: too little to blame the instance."""
    BAD_REPLY = "bad_reply"
    """A reply that is unusable."""
    LOST = "instance_lost"
    """The instance, or its connection, died while it had the call."""
    CANCELLED = "cancelled"
    """The caller gave up, or could not send, or sent it to another instance: says nothing about the instance."""


FAILURES = frozenset({Outcome.TIMEOUT, Outcome.BAD_REPLY, Outcome.LOST})
"""Outcomes that count towards ejection."""


class Availability(Enum):
    """How an instance stands with one caller; the values are labels of a metric."""

    READY = "ready"
    """It gets calls."""
    SUSPECT = "suspect"
    """Its heartbeats are late. It gets calls only if no instance is ready."""
    SKIPPED = "skipped"
    """NATS said that nothing listens at its address. Until it is heard again it is a last resort."""
    EJECTED = "ejected"
    """The circuit breaker is open: too many calls in a row failed. Until its time is over it is a last resort."""
    UNREADY = "unready"
    """It declared that it takes no calls: starting, unready or draining. It gets none."""


class Peer:
    """An instance as one caller sees it. Only the balancer writes to it.

    A caller may keep a peer for the length of a call, also when the instance has left meanwhile.
    """

    __slots__ = (
        "address",
        "bundle_address",
        "connection",
        "declared",
        "ejected",
        "ejected_until",
        "ejections",
        "failures_in_a_row",
        "foreign",
        "id",
        "inflight",
        "last_failure",
        "picked",
        "ready",
        "revision",
        "service",
        "skipped",
        "skipped_at",
        "suspect",
    )

    def __init__(self, service: str, id: str, address: bytes, *, foreign: bool = False, bundles: bool = False) -> None:
        self.service = service
        self.id = id
        self.address = address
        """The prefix of its endpoints' subjects; empty for a foreign instance, whose endpoints have whole subjects."""
        self.foreign = foreign
        self.bundle_address = address if bundles else b""
        """``address`` if the instance takes several requests in one message; empty otherwise."""

        # As the registry says.
        self.revision = ""
        self.declared = ""
        """The state that the instance declares."""
        self.ready = False
        """True if that state is ``ready``."""
        self.suspect = False
        self.connection = 0
        """The number of its connection to NATS, as it stated last; 0 until it does."""

        # This caller's own calls.
        self.inflight = 0
        self.picked = 0
        """The balancer's pick counter when it was last picked; 0 for never."""

        # Learnt from the calls' outcomes.
        self.skipped = False
        """Nobody listened at its address, and it was not heard since."""
        self.skipped_at = float("-inf")
        """When NATS first said so, in the caller's monotonic seconds."""
        self.failures_in_a_row = 0
        """Failures since the last success or ejection."""
        self.last_failure: Outcome | None = None
        self.ejections = 0
        """Ejections in a row; the next one lasts twice as long as the last."""
        self.ejected = False
        """The circuit breaker is open. A pick after ``ejected_until`` closes it."""
        self.ejected_until = 0.0
        """When the last ejection ends or ended, in the caller's monotonic seconds; 0 if there is none to remember."""

    def availability(self, now: float) -> Availability:
        """How it stands at ``now``, in the caller's monotonic seconds."""
        if not self.ready:
            return Availability.UNREADY
        if self.skipped:
            return Availability.SKIPPED
        if self.ejected and now < self.ejected_until:
            return Availability.EJECTED
        return Availability.SUSPECT if self.suspect else Availability.READY

    def why(self, now: float) -> str:
        """Why it is not an instance of first choice at ``now``, for people; empty if it is one."""
        availability = self.availability(now)
        if availability is Availability.UNREADY:
            return f"it says that it is {self.declared}"
        if availability is Availability.SKIPPED:
            return f"NATS said {now - self.skipped_at:.1f} s ago that nothing listens at its address"
        if availability is Availability.EJECTED:
            return f"{FAILURES_TO_EJECT} calls in a row failed, the last one: {self._last_failure()}"
        if availability is Availability.SUSPECT:
            return "its heartbeats are late"
        if self.failures_in_a_row >= FAILURES_TO_EJECT:
            return (
                f"{self.failures_in_a_row} calls in a row failed, the last one: {self._last_failure()}; "
                "it still gets calls, as half of the instances are ejected already"
            )
        return ""

    def _last_failure(self) -> str:
        return self.last_failure.value if self.last_failure is not None else ""

    def __repr__(self) -> str:
        marks = [name for name in ("ready", "suspect", "skipped", "ejected", "foreign") if getattr(self, name)]
        counts = f"inflight={self.inflight} failures_in_a_row={self.failures_in_a_row}"
        return f"<Peer {self.service}.{self.id} {counts} {' '.join(marks)}>"
