"""The state of a service at one caller, and how the decisions about its calls can be seen.

The balancer and the retry policy decide and do no I/O. Here their decisions are counted, for the operator's plane and
for metrics, and logged at debug level: once when something changes, not for every call that meets it.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from mesh.balancer import Availability, Balancer, Outcome, Peer, RetryBudget, RetryReason
from mesh.errors import MeshError

RETRIES_SHOWN: Final = 10
"""The last retries of a service that are kept."""

_balancing = logging.getLogger("mesh.balancer")
_log = logging.getLogger("mesh.client")


class RetryRecord(NamedTuple):
    """One retry that was sent.

    at: when, in the caller's monotonic seconds.
    reason: why the attempt before it failed.
    failed: the id of the instance of that attempt.
    chosen: the id of the instance of the retry.
    """

    at: float
    reason: RetryReason
    failed: str
    chosen: str


class CalledService:
    """One service as one caller sees it: its instances, the budget for retries, and what was decided."""

    __slots__ = (
        "_budget_was_empty",
        "_had_no_instance",
        "balancer",
        "budget",
        "last_retries",
        "name",
        "retries",
        "without_instance",
    )

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name = name
        self.balancer = balancer
        self.budget = RetryBudget()
        self.retries = dict.fromkeys(RetryReason, 0)
        """Retries that were sent, by reason."""
        self.last_retries: deque[RetryRecord] = deque(maxlen=RETRIES_SHOWN)
        self.without_instance = 0
        """Attempts, or retries, for which there was no instance that could have them."""
        self._had_no_instance = False
        self._budget_was_empty = False

    # -- instances

    def observe(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """Tell the balancer the outcome of an attempt at ``peer``; log it if that makes it a last resort."""
        if self.balancer.observe(peer, outcome, now) and _balancing.isEnabledFor(logging.DEBUG):
            what = peer.availability(now)
            until = f" for {peer.ejected_until - now:.0f} s" if what is Availability.EJECTED else ""
            _balancing.debug("%s.%s is %s%s: %s", self.name, peer.id, what.value, until, peer.why(now))

    def heard(self, id: str, connection: int) -> tuple[bool, Peer | None]:
        """An instance was heard.

        Returns whether it was skipped until now, and the peer if it has another connection than before.
        """
        was_skipped = self.balancer.is_skipped(id)
        reconnected = self.balancer.heard(id, connection)
        if was_skipped:
            self._had_no_instance = False
            _balancing.debug("%s.%s is heard again and no longer skipped", self.name, id)
        return was_skipped, reconnected

    def instances_changed(self, id: str, change: str) -> None:
        """The registry changed an instance; ``change`` is the kind of the change."""
        self._had_no_instance = False
        if change in ("suspect", "recovered"):
            _balancing.debug("%s.%s: %s", self.name, id, change)

    def found_no_instance(self, tried: Sequence[Peer], now: float) -> None:
        """Count an attempt for which there was no instance; log the first one since the instances changed."""
        self.without_instance += 1
        if self._had_no_instance:
            return
        self._had_no_instance = True
        if _balancing.isEnabledFor(logging.DEBUG):
            counts = Counter(peer.availability(now).value for peer in self.balancer.peers())
            known = ", ".join(f"{count} {availability}" for availability, count in sorted(counts.items())) or "none"
            _balancing.debug("no instance of %s for an attempt: known %s; tried %d", self.name, known, len(tried))

    # -- retries

    def retried(self, reason: RetryReason, tried: Sequence[Peer], error: MeshError, now: float) -> None:
        """Count and log a retry that was sent, after ``error``; the last two of ``tried`` are its instances."""
        self.retries[reason] += 1
        self.last_retries.append(RetryRecord(now, reason, tried[-2].id, tried[-1].id))
        self._budget_was_empty = False
        _log.debug("attempt %d at %s, %s: %s", len(tried), self.name, reason.value, error)

    def budget_empty(self, reason: RetryReason) -> None:
        """Log that a retry is not made as the budget is empty, once until there is a retry again."""
        if not self._budget_was_empty:
            self._budget_was_empty = True
            _log.debug("no retry at %s after %s: the retry budget is empty", self.name, reason.value)
