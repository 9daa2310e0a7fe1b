"""Which instance gets a call, and whether a call may be repeated: pure decisions, time and chance passed in."""

from mesh.balancer.balancer import Balancer
from mesh.balancer.budget import RetryBudget
from mesh.balancer.peers import FAILURES, Availability, Candidate, Outcome, Peer
from mesh.balancer.retries import NEVER, Course, Reason, RetryPolicy

__all__ = [
    "FAILURES",
    "NEVER",
    "Availability",
    "Balancer",
    "Candidate",
    "Course",
    "Outcome",
    "Peer",
    "Reason",
    "RetryBudget",
    "RetryPolicy",
]
