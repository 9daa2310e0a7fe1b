"""Which failed calls may be sent again, to another instance."""

from __future__ import annotations

from typing import Final

from mesh.balancer.budget import RetryBudget
from mesh.balancer.peers import Outcome

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods of which RFC 9110 says that twice is like once."""
MAX_RETRY_BODY: Final = 64 * 1024
"""Bytes of the largest body that is kept for a second attempt."""


def may_retry(
    outcome: Outcome,
    *,
    method: str,
    body_bytes: int,
    try_timeout_ms: int,
    idempotent: bool,
    budget: RetryBudget,
    now: float,
) -> bool:
    """Whether a call that ended with ``outcome`` may be sent to another instance.

    No-responders means that nobody got it, so it may always, and costs nothing. After a timeout the handler may
    have run, so it may only where the route sets ``try_timeout_ms``, the call does the same when done twice, its
    body is small, and ``budget`` allows; only then is the budget charged. Nothing else is ever repeated: a bad
    reply or a lost instance may have done the work, and nobody declared that another try is wanted.

    ``idempotent``: the route declares that repeating is harmless, by nature or because it honours
    ``Idempotency-Key`` and the call has one. The header alone, on a route that declares nothing, is not enough.
    ``now``: seconds on the budget's clock.
    """
    if outcome is Outcome.NO_RESPONDERS:
        return True
    if outcome is not Outcome.TIMEOUT and outcome is not Outcome.SHORT_TIMEOUT:
        return False
    if try_timeout_ms <= 0 or body_bytes > MAX_RETRY_BODY:
        return False
    if not idempotent and method.upper() not in IDEMPOTENT_METHODS:
        return False
    return budget.try_spend(now)
