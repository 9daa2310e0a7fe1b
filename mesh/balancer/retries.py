"""Whether a call whose attempt came to nothing is sent again: one policy for the gateway and for ``ctx.call``.

Twice is asked for nothing that nobody declared harmless. RFC 9110 section 9.2.2 lets a proxy repeat a request of a
safe method by itself, and no other one; a route may declare more (``idempotent``), or less (``retry`` false).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol, Self

from msgspec import Struct

from mesh.balancer.budget import RetryBudget
from mesh.defaults import ATTEMPTS, RETRIES_AFTER_LOSS, RETRY_BODY

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose requests are repeated unless the route forbids it (RFC 9110 section 9.2.1)."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {"PUT", "DELETE", "TRACE"}
"""Methods of which RFC 9110 section 9.2.2 says that twice is like once."""


class Reason(Enum):
    """Why an attempt came to nothing; the values are labels of a metric."""

    NO_RESPONDERS = "no_responders"
    """Nobody received it, so the next attempt is no repetition."""
    TIMEOUT = "timeout"
    """It took longer than ``try_timeout_ms``."""
    INSTANCE_LOST = "instance_lost"
    """The instance died, or nobody listens at its address any more."""
    CONNECTION_LOST = "connection_lost"
    """The caller's connection to NATS broke, or the instance's did: request or answer may be lost."""


class Declared(Protocol):
    """What a route declares; `mesh.messages.Route` has this shape."""

    @property
    def try_timeout_ms(self) -> int: ...
    @property
    def idempotent(self) -> bool: ...
    @property
    def retry(self) -> bool: ...


class Course(NamedTuple):
    """A call so far: attempts made, how many of them were repeated because they were lost, bytes of its body, and the
    seconds that it has left."""

    attempts: int
    losses: int
    body_bytes: int
    left_s: float


class RetryPolicy(Struct, frozen=True):
    """What may be repeated of the calls to one route."""

    after_loss: bool = False
    """Whether a call whose attempt was lost may run a second time."""
    try_timeout_ms: int = 0
    """After how many milliseconds an attempt is repeated elsewhere; 0 for never."""

    @classmethod
    def of(cls, method: str, routes: Iterable[Declared]) -> Self:
        """The policy for requests of ``method`` to one route, as its live revisions declare it.

        Where they differ the stricter one counts: all of them must allow a repetition, and the longest
        ``try_timeout_ms`` is the route's. Without routes nothing is repeated.
        """
        declared = list(routes)
        if not declared or not all(route.retry for route in declared):
            return cls()
        idempotent = all(route.idempotent for route in declared)
        timed = all(route.try_timeout_ms for route in declared) and (idempotent or method in IDEMPOTENT_METHODS)
        longest = max(route.try_timeout_ms for route in declared) if timed else 0
        return cls(after_loss=idempotent or method in SAFE_METHODS, try_timeout_ms=longest)

    def allows(self, reason: Reason, course: Course, budget: RetryBudget, now: float) -> bool:
        """Whether there may be another attempt. Only where the handler may run twice is ``budget`` charged.

        A call whose answer has begun is over for its caller, and not asked about. ``now``: seconds on the budget's
        clock.
        """
        if course.attempts >= ATTEMPTS or course.left_s <= 0:
            return False
        if reason is Reason.NO_RESPONDERS:
            return True
        if course.body_bytes > RETRY_BODY:
            return False
        if reason is Reason.TIMEOUT:
            return self.try_timeout_ms > 0 and budget.try_spend(now)
        return self.after_loss and course.losses < RETRIES_AFTER_LOSS and budget.try_spend(now)


NEVER: Final = RetryPolicy()
"""Nothing that may have run is sent again."""
