"""How calls in flight learn that their attempts may be lost, and that they can be sent again.

Certain signs end an attempt: the registry lost the instance, or our connection to NATS broke. Others only raise a
doubt, since the instance may still answer: NATS says that nobody listens at its address, or it says itself that it has
another connection. What may run twice is sent elsewhere then; everything else waits on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mesh.balancer import Peer, Reason
from mesh.bus import Bus, Pending
from mesh.client.conversation import Conversation
from mesh.errors import BusUnavailable, InstanceLost, MeshError

SETTLE_S = 0.02
"""Between a sign and the doubt. What NATS and the instance have sent already arrives meanwhile: no-responders for other
requests, which nobody received, and answers that the instance kept while it had no connection."""
RECONNECT_S = 1.0
"""How long a call that was in flight when our connection broke waits for the next one, within its deadline."""

_log = logging.getLogger("mesh.client")

Resume = Callable[[bool], None]
"""Called once with whether there is a connection again."""


class Recovery:
    """One caller's calls that may have to be sent again. ``on_repeat`` is told the reason of every attempt that is not
    a call's first."""

    def __init__(self, bus: Bus) -> None:
        self.on_repeat: Callable[[Reason], None] | None = None
        self._bus = bus
        self._waiting: dict[Resume, asyncio.TimerHandle] = {}
        self._opening: dict[Conversation, tuple[Peer, bool]] = {}
        bus.on_connection(self._connection)

    def repeated(self, reason: Reason, service: str, attempt: int, why: MeshError) -> None:
        """Note that a call goes on with its attempt of that number."""
        _log.debug("attempt %d at %s, %s: %s", attempt, service, reason.value, why)
        if self.on_repeat is not None:
            self.on_repeat(reason)

    # -- our own connection

    def wait(self, resume: Resume, timeout: float) -> bool:
        """Call ``resume`` with the next connection, at the latest after ``timeout`` seconds; False where none comes."""
        if self._bus.closed:
            return False
        delay = min(timeout, RECONNECT_S)
        self._waiting[resume] = asyncio.get_running_loop().call_later(delay, self._resume, resume, False)
        return True

    async def connected(self, timeout: float) -> bool:
        """Whether there is a connection, now or with the next one; see `wait`."""
        if self._bus.connected:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        resume = future.set_result
        if not self.wait(resume, timeout):
            return False
        try:
            return await future
        finally:
            self.stop_waiting(resume)

    def stop_waiting(self, resume: Resume) -> None:
        """Harmless where it does not wait."""
        timer = self._waiting.pop(resume, None)
        if timer is not None:
            timer.cancel()

    def _resume(self, resume: Resume, connected: bool) -> None:
        self.stop_waiting(resume)
        try:
            resume(connected)
        except Exception:
            _log.exception("going on with a call failed")

    def _connection(self, connected: bool) -> None:
        if connected:
            for resume in list(self._waiting):
                if resume in self._waiting:
                    self._resume(resume, True)

    # -- instances

    def opening(self, conversation: Conversation, peer: Peer, repeatable: bool) -> None:
        """A conversation waits for its first word from ``peer``; `opened` must follow."""
        self._opening[conversation] = peer, repeatable

    def opened(self, conversation: Conversation) -> None:
        self._opening.pop(conversation, None)

    def unheard(self, peer: Peer) -> None:
        """NATS says that nobody listens at the address of an instance that should."""
        self._suspect(peer, lambda: InstanceLost(f"{peer.service}.{peer.id} had the call and cannot be reached"))

    def reconnected(self, peer: Peer) -> None:
        """An instance has another connection than before."""
        what = f"{peer.service}.{peer.id} lost its connection to NATS while it had the call"
        self._suspect(peer, lambda: BusUnavailable(what, executed="unknown"))

    def lost(self, service: str, instance: str) -> None:
        """An instance is gone: what it had ends."""

        def error() -> MeshError:
            return InstanceLost(f"{service}.{instance} died while it had the call")

        self._bus.requests.fail_prefix(self._bus.subjects.to(service, instance, "").encode(), error)
        for conversation, (peer, _) in list(self._opening.items()):
            if (peer.service, peer.id) == (service, instance):
                conversation.lost(error())

    def _suspect(self, peer: Peer, make_error: Callable[[], MeshError]) -> None:
        if not peer.address:  # of a foreign service: NATS balances, and no instance is known to have a call
            return
        requests = self._bus.requests.doubtful(peer.address)
        opening = [c for c, (other, repeatable) in self._opening.items() if other is peer and repeatable]
        if requests or opening:
            asyncio.get_running_loop().call_later(SETTLE_S, self._doubt, requests, opening, make_error)

    def _doubt(self, requests: list[Pending], opening: list[Conversation], make_error: Callable[[], MeshError]) -> None:
        if self._bus.closed:
            return
        self._bus.requests.doubt(requests, make_error)
        for conversation in opening:
            if conversation in self._opening:
                conversation.lost(make_error())
