"""How calls in flight learn that their attempts may be lost, and when they can be sent again.

Two signs end an attempt for certain: the registry lost the instance, or our connection to NATS broke. Two others say
only that it may be lost, since the instance may still reply: NATS says that nothing listens at its address, or the
instance says that it has another connection than before. Calls that may run twice are sent elsewhere then; all others
wait on. Which ones those are, `Attempts` decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.balancer import Peer, RetryReason
from mesh.bus import FAILOVER_S, Bus, Pending
from mesh.client.attempt_messages import tell_cancelled
from mesh.client.streaming_call import StreamingCall
from mesh.errors import BusUnavailable, InstanceLost, MeshError

SIGN_DELAY_S = 0.02
"""Seconds between a sign that attempts may be lost and its effect. Messages that were sent before the sign arrive in
that time: no-responders for other requests, and replies that the instance kept while it had no connection."""
RECONNECT_S = 0.5
"""Seconds that a call waits for our next connection to NATS, within its deadline."""

_log = logging.getLogger("mesh.client")

Resume = Callable[[bool], None]
"""Called once when a wait is over: with True if what was waited for happened."""
MayBeLost = Callable[[MeshError], None]
"""Called with the reason why the reply to an attempt may never come."""


class Recovery:
    """One caller's calls that may have to be sent again."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # The service of which an instance is waited for, empty for our connection to NATS, and the timeout's timer.
        self._waiting: dict[Resume, tuple[str, asyncio.TimerHandle]] = {}
        self._openings: dict[StreamingCall, tuple[Peer, MayBeLost | None]] = {}
        bus.on_connection(self._connection)

    # -- retries that have to wait

    def wait(self, resume: Resume, reason: RetryReason, tried: Sequence[Peer], left: float) -> bool:
        """Call ``resume`` when a retry can be sent, or when the wait is over without that.

        After ``CONNECTION_LOST`` it waits `RECONNECT_S` for our next connection. After ``NO_RESPONDERS`` it waits until
        an instance of the service is heard again, but only if other servers of a NATS cluster are known, and only
        `FAILOVER_S` from the moment when NATS first said so: if a node of a cluster dies, the processes that were
        connected to it need some milliseconds to connect to another node.

        tried: the instances that had an attempt; the last one is the last element.
        left: seconds until the call's deadline.
        Returns False if there is nothing to wait for; ``resume`` is not called then.
        """
        if self._bus.closed:
            return False
        if reason is RetryReason.CONNECTION_LOST:
            self._wait(resume, "", min(left, RECONNECT_S))
            return True
        if not self._bus.has_others:
            return False
        since = max((peer.skipped_at for peer in tried if peer.ready), default=float("-inf"))
        timeout = since + FAILOVER_S - self._bus.now()
        if timeout <= 0:
            return False
        self._wait(resume, tried[0].service, min(left, timeout))
        return True

    async def waited(self, reason: RetryReason, tried: Sequence[Peer], left: float) -> bool:
        """Wait as `wait` does; returns True if a retry can be sent."""
        if reason is RetryReason.CONNECTION_LOST and self._bus.connected:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def resume(happened: bool) -> None:
            if not future.done():  # the waiting task may be cancelled in the same turn of the loop
                future.set_result(happened)

        if not self.wait(resume, reason, tried, left):
            return False
        try:
            return await future
        finally:
            self.stop_waiting(resume)

    def stop_waiting(self, resume: Resume) -> None:
        """Forget a wait; harmless if it is over."""
        waiting = self._waiting.pop(resume, None)
        if waiting is not None:
            waiting[1].cancel()

    def cancel_lost(self, peer: Peer, reply: bytes, left: float) -> None:
        """Cancel an attempt at ``peer`` that ended with our connection to NATS, as soon as there is another connection.

        Its call may be cancelled meanwhile: the instance is told in that case too.

        reply: the attempt's reply subject.
        left: seconds until the call's deadline; the instance ends the attempt itself then.
        """

        def connected(happened: bool) -> None:
            if happened:
                tell_cancelled(self._bus, peer.service, peer.id, reply)

        if self._bus.connected:
            connected(True)
        elif not self._bus.closed:
            self._wait(connected, "", min(left, RECONNECT_S))

    def _wait(self, resume: Resume, service: str, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._resume, resume, False)
        self._waiting[resume] = service, timer

    def _resume(self, resume: Resume, happened: bool) -> None:
        self.stop_waiting(resume)
        try:
            resume(happened)
        except Exception:
            _log.exception("a call could not go on after a wait")

    def _resume_all(self, service: str) -> None:
        for resume in [resume for resume, (awaited, _) in self._waiting.items() if awaited == service]:
            if resume in self._waiting:
                self._resume(resume, True)

    def _connection(self, connected: bool) -> None:
        if connected:
            self._resume_all("")

    # -- signs that attempts are lost

    def opening(self, call: StreamingCall, peer: Peer, may_be_lost: MayBeLost | None) -> None:
        """Watch a streaming call until `opened`: it waits for the first message from ``peer``.

        may_be_lost: None if it waits on whatever the signs say.
        """
        self._openings[call] = peer, may_be_lost

    def opened(self, call: StreamingCall) -> None:
        """A streaming call has its first message, or has ended."""
        self._openings.pop(call, None)

    def no_responders(self, peer: Peer) -> None:
        """NATS says that nothing listens at the address of an instance."""
        if peer.ready and not peer.skipped:  # the first time since the instance was heard
            what = f"{peer.service}.{peer.id} had the call and cannot be reached"
            self._may_be_lost(peer, lambda: InstanceLost(what))

    def instance_heard(self, service: str) -> None:
        """An instance at whose address nobody listened was heard again."""
        self._resume_all(service)

    def instance_reconnected(self, peer: Peer) -> None:
        """An instance has another connection to NATS than before."""
        what = f"{peer.service}.{peer.id} lost its connection to NATS while it had the call"
        self._may_be_lost(peer, lambda: BusUnavailable(what, executed="unknown"))

    def instance_lost(self, service: str, instance: str) -> None:
        """An instance is gone: end the attempts that it had."""

        def make_error() -> MeshError:
            return InstanceLost(f"{service}.{instance} died while it had the call")

        self._bus.requests.fail_prefix(self._bus.subjects.to(service, instance, "").encode(), make_error)
        for call, (peer, _) in list(self._openings.items()):
            if (peer.service, peer.id) == (service, instance):
                call.fail(make_error())

    def _may_be_lost(self, peer: Peer, make_error: Callable[[], MeshError]) -> None:
        if not peer.address:  # of a foreign service: NATS balances, and no instance is known to have a call
            return
        requests = self._bus.requests.doubtful(peer.address)
        openings = [c for c, (other, told) in self._openings.items() if other is peer and told is not None]
        if requests or openings:
            loop = asyncio.get_running_loop()
            loop.call_later(SIGN_DELAY_S, self._tell_may_be_lost, requests, openings, make_error)

    def _tell_may_be_lost(
        self, requests: list[Pending], openings: list[StreamingCall], make_error: Callable[[], MeshError]
    ) -> None:
        if self._bus.closed:
            return
        self._bus.requests.doubt(requests, make_error)
        for call in openings:
            _, told = self._openings.get(call, (None, None))
            if told is not None:
                told(make_error())
