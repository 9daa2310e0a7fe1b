"""One call to one service: pick an instance, send, retry where that is safe, account for the outcome.

The gateway and ``ctx.call`` both come through here, so there is one set of policies. Decisions are the
balancer's; this module does the waiting.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from mesh import headers, messages
from mesh.balancer import Balancer, Outcome, Peer, RetryBudget, may_retry
from mesh.bus import Bus, Pending, Reply
from mesh.client.conversation import Conversation
from mesh.clock import boot_ms
from mesh.errors import (
    BadReply,
    BusUnavailable,
    DeadlineExceeded,
    InstanceLost,
    MeshError,
    NoInstances,
    NoResponders,
    Starting,
    TooLarge,
)
from mesh.messages import Cancel
from mesh.registry import Change
from mesh.streams import Stream, Streams
from mesh.watcher import Watcher

MAX_ATTEMPTS = 8
"""Instances tried for one call. Only no-responders leads on without a declared retry, so more is never useful."""
STOPPED_GRACE_S = 0.25
"""A last reply may be overtaken by the ``stopped`` announcement: calls in flight are failed this much later."""

_OURS = b"NATS/1.0\r\nMesh-Status: "

_log = logging.getLogger("mesh.client")


class Destination(Protocol):
    """Where a call goes, once the instance is known: revisions may name endpoints and parameters differently."""

    @property
    def service(self) -> str: ...

    @property
    def revisions(self) -> Collection[str] | None:
        """Only instances of these revisions; None for all."""

    @property
    def queued(self) -> str:
        """The subject on which NATS balances, for a caller that does not know the instances yet; empty for none."""

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        """The endpoint's name at that revision, and header lines of its own (each ending in CRLF)."""


class Answer(NamedTuple):
    """A reply and how it came about."""

    reply: Reply
    instance: str
    attempts: int
    stream: Stream | None = None
    """The rest of a body that is larger than one message, or has no end yet; close it."""


class Repeatable(NamedTuple):
    """What a route declares about repeating a call whose attempt took too long."""

    method: str
    try_timeout_ms: int
    idempotent: bool


class NamedEndpoint:
    """A destination that is the same at every revision. ``subject`` is the endpoint's own."""

    __slots__ = ("_name", "queued", "revisions", "service")

    def __init__(self, service: str, endpoint: str, subject: str) -> None:
        self.service = service
        self.queued = subject
        self.revisions: Collection[str] | None = None
        self._name = endpoint.encode()

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        return self._name, b""


class Caller:
    """Calls services over ``bus``, knowing their instances from ``watcher``."""

    def __init__(self, bus: Bus, watcher: Watcher, streams: Streams, rng: random.Random | None = None) -> None:
        self._bus = bus
        self._streams = streams
        self._watcher = watcher
        self._rng = rng or random.Random()
        self._balancers: dict[str, Balancer] = {}
        self._budgets: dict[str, RetryBudget] = {}
        watcher.on_change(self._changed)
        watcher.on_heard(self._heard)

    def peers(self, service: str) -> Sequence[Peer]:
        """What this caller knows of the instances of a service, its own calls in flight included."""
        balancer = self._balancers.get(service)
        return list(balancer.peers()) if balancer is not None else []

    async def call(
        self,
        destination: Destination,
        common: bytes,
        payload: bytes,
        timeout: float,
        repeatable: Repeatable | None = None,
    ) -> Answer:
        """The answer of one instance within ``timeout`` seconds.

        ``common`` are header lines, each ending in CRLF, that go with every attempt. An attempt that nobody received
        is repeated elsewhere at once; one that takes longer than ``repeatable`` says, within the rules of
        `mesh.balancer.may_retry`. Raises `NoInstances`, `NoResponders`, `Starting`, `BusUnavailable`, `InstanceLost`,
        `DeadlineExceeded`, `BadReply`, `TooLarge`. When the caller is cancelled, the instance is told.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if not self._bus.connected:
            await self._bus.blink()
        balancer = self._balancers.get(destination.service)
        tried: list[Peer] = []
        failed: MeshError | None = None
        budget = self._budget(destination.service, deadline - timeout) if repeatable is not None else None
        while True:
            now = loop.time()
            left = deadline - now
            if left <= 0:
                raise DeadlineExceeded("no instance could be reached before the deadline", executed="no")
            peer = balancer.pick(now, destination.revisions, tried) if balancer is not None else None
            if peer is None:
                if destination.queued and not tried and not self._watcher.knows(destination.service):
                    return await self._queued(destination, common, payload, left)
                raise failed or self._nobody(destination.service, tried)
            name, lines = destination.endpoint(peer.revision)
            block = _block(left, lines, common)
            assert balancer is not None
            tried.append(peer)
            patience = min(left, repeatable.try_timeout_ms / 1000) if repeatable is not None else left
            try:
                reply, stream = await self._attempt(balancer, peer, peer.address + name, block, payload, patience)
            except NoResponders as error:
                if peer.foreign:  # NATS balances those: there is no other one to try
                    self._watcher.doubt(destination.service)
                    raise
                failed = failed or error  # an attempt before may have run: then that is what the caller must know
                if len(tried) < MAX_ATTEMPTS:
                    continue
                raise failed from None
            except DeadlineExceeded as error:
                failed = error
                if (
                    repeatable is not None
                    and budget is not None
                    and len(tried) < MAX_ATTEMPTS
                    and may_retry(
                        Outcome.TIMEOUT,
                        method=repeatable.method,
                        body_bytes=len(payload),
                        try_timeout_ms=repeatable.try_timeout_ms,
                        idempotent=repeatable.idempotent,
                        budget=budget,
                        now=loop.time(),
                    )
                ):
                    continue
                raise
            return Answer(reply, "" if peer.foreign else peer.id, len(tried), stream)

    async def open(
        self, destination: Destination, common: bytes, timeout: float, *, kind: bytes = b"stream"
    ) -> Conversation:
        """Begin a call whose body follows as a stream; returns when it is accepted, or answered already.

        ``kind`` is what follows: ``stream`` for a body, ``websocket`` for messages both ways. ``timeout`` is for this
        alone, in seconds. A request that nobody received is sent elsewhere at once: nothing of its body has gone yet.
        Raises as `call` does, and `TooLarge` where the service takes no streams.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if not self._bus.connected:
            await self._bus.blink()
        balancer = self._balancers.get(destination.service)
        tried: list[Peer] = []
        while True:
            now = loop.time()
            peer = balancer.pick(now, destination.revisions, tried) if balancer is not None else None
            if peer is None or balancer is None or now >= deadline:
                raise self._nobody(destination.service, tried)
            if peer.foreign:
                raise TooLarge(f"{destination.service} takes no more than one message")
            tried.append(peer)
            name, lines = destination.endpoint(peer.revision)
            try:
                lines = b"Mesh-Body: %b\r\n%b%b" % (kind, lines, common)
                return await self._begin(balancer, peer, peer.address + name, lines, deadline - now, tried)
            except NoResponders:
                if len(tried) >= MAX_ATTEMPTS:
                    raise

    async def _begin(
        self, balancer: Balancer, peer: Peer, address: bytes, lines: bytes, timeout: float, tried: Sequence[Peer]
    ) -> Conversation:
        loop = asyncio.get_running_loop()
        stream = self._streams.call()
        outcome = Outcome.CANCELLED
        balancer.started(peer)
        stream.on_over = lambda: balancer.finished(peer, outcome, loop.time())
        conversation = Conversation(stream, self._bus.subjects, peer.id)
        conversation.attempts = len(tried)
        try:
            self._bus.publish(address, b"", _block(timeout, b"", lines), stream.own)
            await conversation.accepted(timeout)
            outcome = Outcome.ANSWERED
            return conversation
        except BaseException as error:
            if isinstance(error, NoResponders):
                outcome = Outcome.NO_RESPONDERS
            elif isinstance(error, DeadlineExceeded) and timeout >= 1:
                outcome = Outcome.TIMEOUT
            if not isinstance(error, MeshError) or isinstance(error, DeadlineExceeded):
                self._cancel(peer.service, peer.id, stream.own)
            conversation.close()
            raise

    def _budget(self, service: str, now: float) -> RetryBudget:
        budget = self._budgets.get(service)
        if budget is None:
            budget = self._budgets[service] = RetryBudget()
        budget.record_call(now)
        return budget

    async def _queued(self, destination: Destination, common: bytes, payload: bytes, timeout: float) -> Answer:
        """The first calls of a caller that is still learning who lives: NATS balances over the queue group."""
        block = _block(timeout, b"", common)
        pending = self._bus.send(self._bus.address(destination.queued), payload, block, timeout)
        try:
            reply = await pending.future
            stream, pending.stream = pending.stream, None
            return Answer(reply, "", 1, stream)
        except (DeadlineExceeded, asyncio.CancelledError):
            self._cancel(destination.service, "", pending.reply)
            raise
        finally:
            self._close(pending)

    async def _attempt(
        self, balancer: Balancer, peer: Peer, address: bytes, block: bytes, payload: bytes, timeout: float
    ) -> tuple[Reply, Stream | None]:
        loop = asyncio.get_running_loop()
        pending = self._bus.send(address, payload, block, timeout, peer.foreign)
        balancer.started(peer)
        outcome = Outcome.CANCELLED
        try:
            reply = await pending.future
            if not _is_usable(reply.block, peer.foreign):
                given = headers.find(headers.decode(reply.block), headers.STATUS)
                raise BadReply(f"{peer.service}.{peer.id} replied with the status {given!r}")
            outcome = Outcome.ANSWERED
            stream, pending.stream = pending.stream, None
            if stream is not None:  # the instance has the call until the stream is over
                balancer.started(peer)
                stream.on_over = lambda: balancer.finished(peer, Outcome.CANCELLED, loop.time())
            return reply, stream
        except NoResponders:
            outcome = Outcome.NO_RESPONDERS
            raise
        except BadReply:
            outcome = Outcome.BAD_REPLY
            raise
        except DeadlineExceeded:
            outcome = Outcome.TIMEOUT if timeout >= 1 else Outcome.SHORT_TIMEOUT
            self._cancel(peer.service, peer.id, pending.reply)
            raise
        except (BusUnavailable, InstanceLost) as error:
            # A lost bus says nothing about the instance.
            outcome = Outcome.LOST if isinstance(error, InstanceLost) else Outcome.CANCELLED
            raise
        except asyncio.CancelledError:
            self._cancel(peer.service, peer.id, pending.reply)
            raise
        finally:
            balancer.finished(peer, outcome, loop.time())
            self._close(pending)

    def _close(self, pending: Pending) -> None:
        self._bus.requests.close(pending)
        if pending.stream is not None:  # it began, and nobody is there to read it
            pending.stream.close()

    def _cancel(self, service: str, instance: str, reply: bytes) -> None:
        subject = self._bus.subjects.control("cancel", service, instance)
        try:
            self._bus.publish(self._bus.address(subject), messages.encode(Cancel(reply=reply.decode())))
        except MeshError as error:
            _log.debug("not cancelled: %s", error)

    def _nobody(self, service: str, tried: Sequence[Peer]) -> MeshError:
        if not self._bus.connected:
            return BusUnavailable(self._bus.last_error or "not connected to NATS")
        if not self._watcher.knows(service):
            return Starting("the registry is not synchronised yet")
        if tried:
            return NoResponders(f"none of the instances of {service} that were tried is listening")
        return NoInstances(f"no live instance of {service}")

    # -- from the watcher

    def _changed(self, changes: Sequence[Change]) -> None:
        for service in {change.service for change in changes}:
            balancer = self._balancers.get(service)
            if balancer is None:
                balancer = self._balancers[service] = Balancer(service, self._rng, self._bus.subjects.prefix)
            balancer.sync(self._watcher.registry.instances(service))
            if not balancer.peers():
                del self._balancers[service]
        for change in changes:
            if change.kind == "lost":
                self._fail(change.service, change.instance)
            elif change.kind == "left":
                loop = asyncio.get_running_loop()
                loop.call_later(STOPPED_GRACE_S, self._fail, change.service, change.instance)

    def _heard(self, service: str, instance: str) -> None:
        balancer = self._balancers.get(service)
        if balancer is not None:
            balancer.heard(instance)

    def _fail(self, service: str, instance: str) -> None:
        prefix = self._bus.subjects.to(service, instance, "").encode()
        self._bus.requests.fail_prefix(prefix, lambda: InstanceLost(f"{service}.{instance} died while it had the call"))
        self._streams.fail_prefix(self._bus.subjects.stream(service, instance, "").encode())


def _is_usable(block: bytes, foreign: bool) -> bool:
    """Whether a reply has a valid status; decodes it only where it does not begin as ours do.

    A foreign service needs none. Elsewhere ``Mesh-Status:`` may stand in the block and be no header of it.
    """
    if block.startswith(_OURS) and block[26:28] == b"\r\n":
        status = block[23:26]
        return status.isdigit() and b"200" <= status <= b"599"
    pairs = headers.decode(block)
    return headers.status_of(pairs) is not None and (foreign or headers.find(pairs, headers.STATUS) is not None)


def _block(left: float, lines: bytes, common: bytes) -> bytes:
    """The header block of one attempt with ``left`` seconds to go."""
    return b"NATS/1.0\r\nMesh-Deadline: %d\r\nMesh-Sent: %d\r\n%b%b\r\n" % (
        max(1, int(left * 1000)),
        boot_ms(),
        lines,
        common,
    )
