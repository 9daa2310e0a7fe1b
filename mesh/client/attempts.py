"""The one place that decides whether a call is sent again, and to which instance.

`Call` (one message each way) and `StreamOpening` (uploads, WebSocket handshakes) both ask it, so the rules are the same
for both: docs/guide/limits.md and ADR 19. It decides only; `Call` and `StreamOpening` send and wait.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from mesh.balancer import NO_RETRY, CallProgress, Peer, RetryPolicy, RetryReason
from mesh.bus import Reply
from mesh.client.called_service import CalledService
from mesh.client.destinations import Destination
from mesh.client.failures import error_for_caller, outcome_of, retry_reason
from mesh.client.replies import says_not_executed
from mesh.errors import MeshError


class CallSpec(Struct, frozen=True, kw_only=True, eq=False):
    """A call as its caller asks for it.

    destination: the service, and its endpoint at each revision.
    lines: header lines that go with every attempt, each ending in CRLF.
    deadline: the moment at which the call ends, on the clock of `Bus.now`.
    policy: which retries are allowed (`RetryPolicy.allows`).
    """

    destination: Destination
    lines: bytes
    deadline: float
    policy: RetryPolicy = NO_RETRY


class Retry(NamedTuple):
    """A retry that is allowed.

    reason: why the attempt before it failed.
    peer: the instance to send it to. None if the call has to wait first (`Recovery.wait`): for our next connection to
        NATS after ``CONNECTION_LOST``, for an instance that listens again after ``NO_RESPONDERS``.
    """

    reason: RetryReason
    peer: Peer | None


class Attempts(Struct, eq=False):
    """The attempts of one call to ``service``, so far."""

    service: CalledService
    spec: CallSpec
    body_bytes: int = 0
    tried: list[Peer] = field(default_factory=list)
    """The instance of each attempt, in order."""
    losses: int = 0
    """Retries after an attempt was lost."""
    error: MeshError | None = None
    """The error that the caller gets if there is no further attempt; None before the first error."""

    def choose(self, now: float, *, retried: bool = False) -> Peer | None:
        """The instance for the next attempt, or None if there is none.

        retried: an instance that had an attempt is chosen if there is no other one.
        """
        service, revisions = self.service, self.spec.destination.revisions
        peer = service.balancer.pick(now, revisions, self.tried)
        if peer is None and retried:
            peer = service.balancer.pick(now, revisions)
        if peer is None:
            service.found_no_instance(self.tried, now)
        return peer

    def failed(self, peer: Peer, error: MeshError, timeout: float, now: float) -> None:
        """Tell the balancer what the error of an attempt says about its instance, and keep the error for the caller."""
        self.service.observe(peer, outcome_of(error, timeout), now)
        self.note(error)

    def note(self, error: MeshError) -> MeshError:
        """Keep the error of an attempt; returns the one that the caller is told if it was the last attempt."""
        self.error = error_for_caller(self.error, error)
        self.error.attempts = max(1, len(self.tried))
        return self.error

    def retry_after(self, error: MeshError, now: float) -> Retry | None:
        """The retry after an attempt that ended with ``error``; None if there is to be none. Charges the budget."""
        reason = retry_reason(error)
        if reason is None or (reason is RetryReason.NO_RESPONDERS and self.tried[-1].foreign):
            return None  # NATS balances foreign services itself: if one of its instances listened, it had the request
        progress = self._progress(now)
        if not self.spec.policy.permits(reason, progress):
            return None
        peer = self.choose(now) if reason is not RetryReason.CONNECTION_LOST else None
        if peer is None and reason in (RetryReason.INSTANCE_LOST, RetryReason.TIMEOUT):
            return None  # these retries do not wait for an instance that is still to come
        return self._charged(Retry(reason, peer), progress, now)

    def retry_instead(self, error: MeshError, now: float) -> Retry | None:
        """The retry that replaces an attempt which may be lost, for the reason that ``error`` states; None if it has
        to go on. Charges the budget.

        If only a connection was lost, the instance itself may get the retry.
        """
        reason, progress = retry_reason(error), self._progress(now)
        if reason is None or not self.spec.policy.permits(reason, progress):
            return None
        peer = self.choose(now, retried=reason is RetryReason.CONNECTION_LOST)
        return self._charged(Retry(reason, peer), progress, now) if peer is not None else None

    def retry_resumed(self, retry: Retry, now: float) -> Retry | None:
        """A retry that has waited, with its instance now; without one if it has to wait longer; None if it cannot be
        made."""
        peer = self.choose(now, retried=True)
        return Retry(retry.reason, peer) if peer is not None or retry.reason is RetryReason.NO_RESPONDERS else None

    def retried(self, retry: Retry, error: MeshError, now: float) -> None:
        """A retry was sent, after ``error``."""
        self.service.retried(retry.reason, self.tried, error, now)

    def error_instead_of(self, reply: Reply) -> MeshError | None:
        """The error of an earlier attempt that may have run, if ``reply`` says only that the last attempt did not run.

        The caller must not read from that reply that the request never ran.
        """
        error = self.error
        if error is None or error.executed == "no" or not says_not_executed(reply):
            return None
        error.attempts = len(self.tried)
        return error

    def _progress(self, now: float) -> CallProgress:
        return CallProgress(len(self.tried), self.losses, self.body_bytes, self.spec.deadline - now)

    def _charged(self, retry: Retry, progress: CallProgress, now: float) -> Retry | None:
        """A retry that the policy permits, if the budget has room for it."""
        reason = retry.reason
        if not self.spec.policy.allows(reason, progress, self.service.budget, now):
            self.service.budget_empty(reason)
            return None
        self.losses += reason in (RetryReason.INSTANCE_LOST, RetryReason.CONNECTION_LOST)
        return retry
