"""How calls in flight learn that their attempts may be lost, and that they can be sent again.

Certain signs end an attempt: the registry lost the instance, or our connection to NATS broke. Others only raise a
doubt, since the instance may still answer: NATS says that nobody listens at its address, or it says itself that it has
another connection. What may run twice is sent elsewhere then; everything else waits on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.balancer import Peer, Reason
from mesh.bus import FAILOVER_S, Bus, Pending
from mesh.client.conversation import Conversation
from mesh.errors import BusUnavailable, InstanceLost, MeshError

SETTLE_S = 0.02
"""Between a sign and the doubt. What NATS and the instance have sent already arrives meanwhile: no-responders for other
requests, which nobody received, and answers that the instance kept while it had no connection."""
RECONNECT_S = 0.5
"""How long a call that was in flight when our connection broke waits for the next one, within its deadline."""

_log = logging.getLogger("mesh.client")

Resume = Callable[[bool], None]
"""Called once with whether what it waited for happened."""
Doubted = Callable[[MeshError], None]
"""Told why the first word of a conversation may never come, though it still may."""


class Recovery:
    """One caller's calls that may have to be sent again. ``on_repeat`` is told the reason of every attempt that is not
    a call's first."""

    def __init__(self, bus: Bus) -> None:
        self.on_repeat: Callable[[Reason], None] | None = None
        self._bus = bus
        self._waiting: dict[Resume, tuple[str, asyncio.TimerHandle]] = {}  # with the service; empty for NATS
        self._opening: dict[Conversation, tuple[Peer, Doubted | None]] = {}
        bus.on_connection(self._connection)

    def repeated(self, reason: Reason, service: str, attempt: int, why: MeshError) -> None:
        """Note that a call goes on with its attempt of that number."""
        _log.debug("attempt %d at %s, %s: %s", attempt, service, reason.value, why)
        if self.on_repeat is not None:
            self.on_repeat(reason)

    # -- waiting

    def await_connection(self, resume: Resume, left: float) -> bool:
        """Call ``resume`` with our next connection, or after `RECONNECT_S`; False where there is nothing to wait for.

        ``left``: the seconds that the call has at most.
        """
        if self._bus.closed:
            return False
        self._wait(resume, "", min(left, RECONNECT_S))
        return True

    def await_return(self, resume: Resume, tried: Sequence[Peer], left: float) -> bool:
        """Call ``resume`` when an instance of the service is heard again after nobody listened at its address.

        Only where servers of a cluster are known, and soon after NATS said so: when a node of it dies, those who were
        connected to it need some milliseconds to come to another one. False otherwise.
        """
        if self._bus.closed or not self._bus.has_others:
            return False
        said = max((peer.skipped_at for peer in tried if peer.ready), default=float("-inf"))
        patience = said + FAILOVER_S - self._bus.now()
        if patience <= 0:
            return False
        self._wait(resume, tried[0].service, min(left, patience))
        return True

    async def connected(self, left: float) -> bool:
        """Whether there is a connection, now or soon; see `await_connection`."""
        return self._bus.connected or await self._awaited(lambda resume: self.await_connection(resume, left))

    async def returned(self, tried: Sequence[Peer], left: float) -> bool:
        """Whether an instance came back soon; see `await_return`."""
        return await self._awaited(lambda resume: self.await_return(resume, tried, left))

    async def _awaited(self, wait: Callable[[Resume], bool]) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def resume(happened: bool) -> None:
            if not future.done():  # who waits may be cancelled in the same turn
                future.set_result(happened)

        if not wait(resume):
            return False
        try:
            return await future
        finally:
            self.stop_waiting(resume)

    def stop_waiting(self, resume: Resume) -> None:
        """Harmless where it does not wait."""
        waiting = self._waiting.pop(resume, None)
        if waiting is not None:
            waiting[1].cancel()

    def _wait(self, resume: Resume, service: str, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._resume, resume, False)
        self._waiting[resume] = service, timer

    def _resume(self, resume: Resume, happened: bool) -> None:
        self.stop_waiting(resume)
        try:
            resume(happened)
        except Exception:
            _log.exception("going on with a call failed")

    def _resume_all(self, service: str) -> None:
        for resume in [resume for resume, (awaited, _) in self._waiting.items() if awaited == service]:
            if resume in self._waiting:
                self._resume(resume, True)

    def _connection(self, connected: bool) -> None:
        if connected:
            self._resume_all("")

    # -- instances

    def opening(self, conversation: Conversation, peer: Peer, doubted: Doubted | None) -> None:
        """A conversation waits for its first word from ``peer``; `opened` must follow.

        ``doubted`` is None where it is waited for all the same."""
        self._opening[conversation] = peer, doubted

    def opened(self, conversation: Conversation) -> None:
        self._opening.pop(conversation, None)

    def unheard(self, peer: Peer) -> None:
        """NATS says that nobody listens at the address of an instance that should."""
        self._suspect(peer, lambda: InstanceLost(f"{peer.service}.{peer.id} had the call and cannot be reached"))

    def heard(self, service: str) -> None:
        """An instance at whose address nobody listened is there again."""
        self._resume_all(service)

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
        requests = self._bus.requests.suspectable(peer.address)
        opening = [c for c, (other, doubted) in self._opening.items() if other is peer and doubted is not None]
        if requests or opening:
            asyncio.get_running_loop().call_later(SETTLE_S, self._doubt, requests, opening, make_error)

    def _doubt(self, requests: list[Pending], opening: list[Conversation], make_error: Callable[[], MeshError]) -> None:
        if self._bus.closed:
            return
        self._bus.requests.suspect_loss(requests, make_error)
        for conversation in opening:
            _, doubted = self._opening.get(conversation, (None, None))
            if doubted is not None:
                doubted(make_error())
