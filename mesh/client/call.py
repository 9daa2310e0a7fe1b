"""A call whose request is one message: attempt after attempt, until one has an outcome for the caller.

Nothing here waits. Replies, deadlines and lost connections arrive as calls from the bus, and the outcome goes to a
callback. So a caller that has a callback pays for no task and no future, and one that waits adds a future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh import headers
from mesh.balancer import Balancer, Outcome, Peer, RetryReason
from mesh.bus import Bus, Ending, Pending, Reply
from mesh.client.attempt_messages import request_block, tell_cancelled
from mesh.client.attempts import Attempts, Retry
from mesh.client.failures import deadline_passed, no_instance
from mesh.client.recovery import Recovery
from mesh.client.replies import Answer, is_usable
from mesh.errors import BadReply, DeadlineExceeded, MeshError, NoResponders
from mesh.streams import Stream
from mesh.watcher import Watcher

_ANSWERED = Outcome.ANSWERED


Done = Callable[[Answer | MeshError], None]
"""Called once with a call's outcome."""


class CallerParts(NamedTuple):
    """What all calls of one caller share."""

    bus: Bus
    watcher: Watcher
    recovery: Recovery


class Call:
    """A call in flight. ``done`` is called once with its outcome, unless `cancel` comes first.

    The first reply counts: an attempt that is given up for another one is cancelled, and its late reply dropped.
    """

    __slots__ = (
        "_attempts",
        "_bus",
        "_done",
        "_payload",
        "_peer",
        "_pending",
        "_recovery",
        "_timeout",
        "_waiting",
        "_watcher",
    )

    def __init__(self, callers: CallerParts, attempts: Attempts, payload: bytes, done: Done) -> None:
        self._bus, self._watcher, self._recovery = callers
        self._attempts = attempts
        self._payload = payload
        self._done = done
        # The attempt in flight.
        self._peer: Peer | None = None
        self._pending: Pending | None = None
        self._timeout = 0.0
        # The retry that waits until it can be sent; there is no attempt in flight then.
        self._waiting: Retry | None = None

    def send(self, peer: Peer | None, now: float) -> None:
        """Send an attempt to ``peer``; None if the balancer knows no instance.

        Raises `MeshError` if it cannot be sent; ``done`` is not called then.
        """
        bus, attempts = self._bus, self._attempts
        spec = attempts.spec
        left = spec.deadline - now
        if left <= 0:
            raise deadline_passed()
        if peer is None:
            self._send_queued(left)
            return
        name, lines = spec.destination.endpoint(peer.revision)
        policy = spec.policy
        self._timeout = min(left, policy.try_timeout_ms / 1000) if policy.try_timeout_ms else left
        attempts.tried.append(peer)
        pending = self._pending = bus.send(
            peer.address + name,
            self._payload,
            request_block(left, lines, spec.lines),
            self._timeout,
            self._ended,
            lenient=peer.foreign,
            bundle_prefix=peer.bundle_address,
        )
        if policy.after_loss:
            pending.on_suspected_loss = self._may_be_lost
        self._peer = peer
        attempts.service.balancer.started(peer)

    def cancel(self) -> None:
        """Drop the call, and tell its instance to drop the attempt too. Harmless when it has ended."""
        if self._waiting is not None:
            self._waiting = None
            self._recovery.stop_waiting(self._resumed)
        self._give_up()

    def _send_queued(self, left: float) -> None:
        """Send the first attempt to any instance: a caller that is still learning which there are lets NATS choose."""
        spec, tried = self._attempts.spec, self._attempts.tried
        service = spec.destination.service
        if not spec.destination.queued or tried or self._watcher.knows(service):
            self._attempts.service.found_no_instance(tried, self._bus.now())
            raise no_instance(self._bus, self._watcher, service, tried)
        address = self._bus.address(spec.destination.queued)
        block = request_block(left, spec.lines)
        self._pending = self._bus.send(address, self._payload, block, left, self._queued_ended)

    def _give_up(self) -> None:
        """End the attempt in flight without its reply."""
        pending, self._pending = self._pending, None
        peer, self._peer = self._peer, None
        if pending is None:
            return
        service = self._attempts.service
        tell_cancelled(self._bus, service.name, peer.id if peer is not None else "", pending.reply)
        self._bus.requests.close(pending)
        if peer is not None:
            service.balancer.released(peer)

    # -- from the bus

    def _queued_ended(self, ending: Ending) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None
        if isinstance(ending, Reply):
            self._done(Answer(ending, "", 1, pending.stream))
            return
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, self._attempts.service.name, "", pending.reply)
        self._done(self._attempts.note(ending))

    def _ended(self, ending: Ending) -> None:
        pending, self._pending = self._pending, None
        peer, self._peer = self._peer, None
        attempts, now = self._attempts, self._bus.now()
        balancer = attempts.service.balancer
        assert pending is not None
        assert peer is not None
        stream = pending.stream
        if isinstance(ending, Reply) and (pending.has_known_block or is_usable(ending.block, peer.foreign)):
            balancer.finished(peer, _ANSWERED, now)
            if attempts.error is not None and (error := attempts.error_instead_of(ending)) is not None:
                self._done(error)
                return
            if stream is not None:
                _keep_in_flight(balancer, peer, stream)
            self._done(Answer(ending, "" if peer.foreign else peer.id, len(attempts.tried), stream))
            return
        if isinstance(ending, Reply):
            status = headers.find(headers.decode(ending.block), headers.STATUS)
            ending = BadReply(f"{peer.service}.{peer.id} replied with the status {status!r}")
        if stream is not None:  # it began, and is of no use
            stream.close()
        balancer.released(peer)
        if isinstance(ending, NoResponders):
            self._recovery.no_responders(peer)
            if peer.foreign:
                self._watcher.report_no_responders(peer.service)
        attempts.failed(peer, ending, self._timeout, now)
        if isinstance(ending, DeadlineExceeded):
            tell_cancelled(self._bus, peer.service, peer.id, pending.reply)
        retry = attempts.retry_after(ending, now)
        if retry is not None and retry.reason is RetryReason.CONNECTION_LOST:
            self._recovery.cancel_lost(peer, pending.reply, attempts.spec.deadline - now)
        self._retry(retry, now)

    def _may_be_lost(self, error: MeshError) -> None:
        """The attempt may be lost, though its reply may still come: it is given up only if there is a retry."""
        now = self._bus.now()
        retry = self._attempts.retry_instead(error, now)
        if retry is None:
            return
        self._give_up()
        self._attempts.note(error)
        self._retry(retry, now)

    # -- retries

    def _retry(self, retry: Retry | None, now: float) -> None:
        """Send the retry, or wait until it can be sent; end the call if there is none."""
        attempts = self._attempts
        error = attempts.error
        assert error is not None
        if retry is None:
            self._done(error)
        elif retry.peer is None:
            if self._recovery.wait(self._resumed, retry.reason, attempts.tried, attempts.spec.deadline - now):
                self._waiting = retry
            else:
                self._done(error)
        else:
            try:
                self.send(retry.peer, now)
            except MeshError as failed:
                self._done(attempts.note(failed))
                return
            attempts.retried(retry, error, now)

    def _resumed(self, happened: bool) -> None:
        """The wait is over. ``happened``: the connection, or an instance, is there."""
        retry, self._waiting = self._waiting, None
        assert retry is not None
        now = self._bus.now()
        self._retry(self._attempts.retry_resumed(retry, now) if happened else None, now)


def _keep_in_flight(balancer: Balancer, peer: Peer, stream: Stream) -> None:
    """Count the call as in flight at its instance until its stream is over."""
    balancer.started(peer)
    stream.add_done_callback(lambda: balancer.released(peer))
