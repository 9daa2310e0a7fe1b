"""Which instance gets a call, and whether a call may be repeated: pure decisions, time and chance passed in."""

from mesh.balancer.balancer import Balancer
from mesh.balancer.budget import RetryBudget
from mesh.balancer.peers import Candidate, Outcome, Peer
from mesh.balancer.retries import IDEMPOTENT_METHODS, MAX_RETRY_BODY, may_retry

__all__ = [
    "IDEMPOTENT_METHODS",
    "MAX_RETRY_BODY",
    "Balancer",
    "Candidate",
    "Outcome",
    "Peer",
    "RetryBudget",
    "may_retry",
]
