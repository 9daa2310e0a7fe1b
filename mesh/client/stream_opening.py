"""The first message of a call that goes on as a stream: an upload, or a WebSocket's handshake.

Nothing of a body has gone before the request is accepted, so a request that no instance received is sent to another one
like any other request. `Attempts` decides about retries, for `Call` too.
"""

from __future__ import annotations

from functools import partial

from mesh.balancer import Outcome, Peer, RetryReason
from mesh.bus import Bus
from mesh.client.attempt_messages import request_block, tell_cancelled
from mesh.client.attempts import Attempts, Retry
from mesh.client.failures import deadline_passed, no_instance
from mesh.client.recovery import Recovery
from mesh.client.streaming_call import StreamingCall
from mesh.errors import DeadlineExceeded, InstanceLost, MeshError, NoResponders, TooLarge
from mesh.streams import Stream, Streams
from mesh.watcher import Watcher


class StreamOpening:
    """One call that becomes a `StreamingCall`; `open` is called once."""

    def __init__(
        self, *, bus: Bus, watcher: Watcher, streams: Streams, recovery: Recovery, attempts: Attempts, kind: bytes
    ) -> None:
        """kind: what follows the request, ``stream`` or ``websocket``."""
        self._bus = bus
        self._watcher = watcher
        self._streams = streams
        self._recovery = recovery
        self._attempts = attempts
        self._lines = b"Mesh-Body: %b\r\n" % kind
        self._replaced: Retry | None = None  # the retry for which the attempt in flight was given up

    async def open(self) -> StreamingCall:
        """See `Caller.open`."""
        bus, attempts = self._bus, self._attempts
        service, deadline = attempts.service.name, attempts.spec.deadline
        peer, retry = attempts.choose(bus.now()), None
        while True:
            if peer is None:
                raise attempts.error or no_instance(bus, self._watcher, service, attempts.tried)
            left = deadline - bus.now()
            if left <= 0:
                raise attempts.error or deadline_passed()
            if peer.foreign:
                raise TooLarge(f"{service} takes no more than one message")
            attempts.tried.append(peer)
            stream = self._streams.call()
            try:
                call = await self._send(peer, stream, left, retry)
            except MeshError as error:
                retry, self._replaced = self._replaced, None
                if retry is not None:
                    attempts.note(error)
                else:
                    attempts.failed(peer, error, left, bus.now())
                    retry = await self._retry_after(error, peer, stream)
                if retry is None:
                    assert attempts.error is not None
                    raise attempts.error from None
                peer = retry.peer
                continue
            if attempts.error is not None and call.answered:
                earlier = attempts.error_instead_of(await call.head())
                if earlier is not None:
                    call.close()
                    raise earlier
            return call

    async def _send(self, peer: Peer, stream: Stream, timeout: float, retry: Retry | None) -> StreamingCall:
        """One attempt: returns when it is accepted, or answered already."""
        bus, attempts, recovery = self._bus, self._attempts, self._recovery
        balancer, spec = attempts.service.balancer, attempts.spec
        balancer.started(peer)
        stream.on_over = lambda: balancer.released(peer)
        call = StreamingCall(stream, bus.subjects, peer.id)
        call.attempts = len(attempts.tried)
        name, lines = spec.destination.endpoint(peer.revision)
        may_be_lost = partial(self._may_be_lost, call) if spec.policy.after_loss else None
        recovery.opening(call, peer, may_be_lost)
        try:
            block = request_block(timeout, lines, self._lines, spec.lines)
            bus.publish(peer.address + name, b"", block, stream.own)
            if retry is not None:
                assert attempts.error is not None
                attempts.retried(retry, attempts.error, bus.now())
            await call.accepted(timeout)
        except BaseException as error:
            if isinstance(error, NoResponders):
                recovery.no_responders(peer)
            ended = isinstance(error, MeshError) and not isinstance(error, DeadlineExceeded | InstanceLost)
            if self._replaced is not None or not ended:
                tell_cancelled(bus, peer.service, peer.id, stream.own)
            call.close()
            raise
        finally:
            recovery.opened(call)
        balancer.observe(peer, Outcome.ANSWERED, bus.now())
        return call

    async def _retry_after(self, error: MeshError, peer: Peer, stream: Stream) -> Retry | None:
        """The retry after an attempt that failed, once it can be sent; None if there is to be none."""
        bus, attempts, recovery = self._bus, self._attempts, self._recovery
        deadline = attempts.spec.deadline
        retry = attempts.retry_after(error, bus.now())
        if retry is not None and retry.reason is RetryReason.CONNECTION_LOST:
            recovery.cancel_lost(peer, stream.own, deadline - bus.now())
        while retry is not None and retry.peer is None:
            if not await recovery.waited(retry.reason, attempts.tried, deadline - bus.now()):
                return None
            retry = attempts.retry_resumed(retry, bus.now())
        return retry

    def _may_be_lost(self, call: StreamingCall, error: MeshError) -> None:
        """The attempt may be lost, though its reply may still come: it is given up only if there is a retry."""
        if call.begun:
            return
        retry = self._attempts.retry_instead(error, self._bus.now())
        if retry is not None:
            self._replaced = retry
            call.fail(error)
