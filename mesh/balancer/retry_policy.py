"""The retry policy of a route: when a call whose attempt failed may be sent again (ADR 19).

The gateway and ``ctx.call`` share it. Nothing runs twice that is not declared harmless: RFC 9110 section 9.2.2 lets a
proxy retry a request of a safe method by itself, and no other one. A route may declare more (``idempotent``), or less
(``retry`` false).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol, Self

from msgspec import Struct

from mesh.balancer.retry_budget import RetryBudget
from mesh.defaults import ATTEMPTS, RETRIES_AFTER_LOSS, RETRY_BODY

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose requests are retried after a loss unless the route forbids it (RFC 9110 section 9.2.1)."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {"PUT", "DELETE", "TRACE"}
"""Methods for which two runs have the effect of one (RFC 9110 section 9.2.2)."""


class RetryReason(Enum):
    """Why an attempt failed; the values are labels of a metric."""

    NO_RESPONDERS = "no_responders"
    """No instance received it, so the next attempt is its first run."""
    TIMEOUT = "timeout"
    """It took longer than ``try_timeout_ms``."""
    INSTANCE_LOST = "instance_lost"
    """The instance died, or nothing listens at its address any more."""
    CONNECTION_LOST = "connection_lost"
    """The caller's connection to NATS broke, or the instance's did: request or reply may be lost."""


class RetryDeclaration(Protocol):
    """The part of a route's declaration that is about retries; `mesh.messages.Route` has this shape."""

    @property
    def try_timeout_ms(self) -> int: ...
    @property
    def idempotent(self) -> bool: ...
    @property
    def retry(self) -> bool: ...


class CallProgress(NamedTuple):
    """How far a call has come.

    attempts: how many were made.
    losses: how many of them were retries after a loss.
    body_bytes: the size of its body.
    left_s: seconds until its deadline.
    """

    attempts: int
    losses: int
    body_bytes: int
    left_s: float


class RetryPolicy(Struct, frozen=True):
    """Which retries the calls to one route may have."""

    after_loss: bool = False
    """True if a call whose attempt was lost may run a second time."""
    try_timeout_ms: int = 0
    """Milliseconds after which an attempt is retried at another instance; 0 for never."""

    @classmethod
    def of(cls, method: str, routes: Iterable[RetryDeclaration]) -> Self:
        """The policy for requests of one method to one route.

        method: the HTTP method, in capitals.
        routes: the route as each of its live revisions declares it. If they differ, the stricter one counts: all of
            them must allow a retry, and the longest ``try_timeout_ms`` is the route's. Without any there are no
            retries.
        """
        declared = list(routes)
        if not declared or not all(route.retry for route in declared):
            return cls()
        idempotent = all(route.idempotent for route in declared)
        timed = all(route.try_timeout_ms for route in declared) and (idempotent or method in IDEMPOTENT_METHODS)
        longest = max(route.try_timeout_ms for route in declared) if timed else 0
        return cls(after_loss=idempotent or method in SAFE_METHODS, try_timeout_ms=longest)

    def permits(self, reason: RetryReason, progress: CallProgress) -> bool:
        """True if there may be another attempt, as far as the call itself decides; `allows` asks the budget too.

        A call whose response has begun is over for its caller, and is not asked about.
        """
        if progress.attempts >= ATTEMPTS or progress.left_s <= 0:
            return False
        if reason is RetryReason.NO_RESPONDERS:
            return True
        if progress.body_bytes > RETRY_BODY:
            return False
        if reason is RetryReason.TIMEOUT:
            return self.try_timeout_ms > 0
        return self.after_loss and progress.losses < RETRIES_AFTER_LOSS

    def allows(self, reason: RetryReason, progress: CallProgress, budget: RetryBudget, now: float) -> bool:
        """True if there may be another attempt. ``budget`` is charged only if the handler may run twice.

        now: seconds on the budget's clock.
        """
        return self.permits(reason, progress) and (reason is RetryReason.NO_RESPONDERS or budget.try_spend(now))


NO_RETRY: Final = RetryPolicy()
"""No call that may have run is sent again."""
