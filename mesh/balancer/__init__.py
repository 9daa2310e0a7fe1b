"""Which instance gets a call, and whether a call may be retried: pure decisions, with time and chance passed in."""

from mesh.balancer.balancer import Balancer
from mesh.balancer.peers import Availability, Candidate, Outcome, Peer
from mesh.balancer.retry_budget import RetryBudget
from mesh.balancer.retry_policy import NO_RETRY, CallProgress, RetryPolicy, RetryReason

__all__ = [
    "NO_RETRY",
    "Availability",
    "Balancer",
    "CallProgress",
    "Candidate",
    "Outcome",
    "Peer",
    "RetryBudget",
    "RetryPolicy",
    "RetryReason",
]
