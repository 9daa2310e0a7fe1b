"""Requests that wait for replies: one wildcard inbox, unguessable tokens, one deadline sweep.

No timer and no subscription per request. Whatever happens (reply, no responders, deadline, lost connection,
cancelled caller) the entry is gone afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush
from typing import Any

from msgspec import Struct

from mesh import headers, logs
from mesh.bus.bundles import MARK, BadBundle, refuses, unpack
from mesh.errors import BusUnavailable, DeadlineExceeded, MeshError, NoResponders

SWEEP_S = 0.01
"""Grain of the deadlines, in seconds: a request is failed at most this much late."""

_log = logging.getLogger("mesh.bus")
MOST_PLAIN, LONGEST_PLAIN = 1024, 1024
"""Header blocks of replies that are remembered, and bytes of one."""


class Reply(Struct, frozen=True):
    """A reply as it came: header block and payload."""

    block: bytes
    payload: bytes


Ending = Reply | MeshError
"""How a request ends: with its reply, or with what became of it instead."""


class Pending:
    """One request under way; ``settle`` is called once with its ending, synchronously, unless it is closed before."""

    __slots__ = (
        "address",
        "answered",
        "bucket",
        "doubted",
        "lenient",
        "message",
        "others",
        "plain",
        "reply",
        "settle",
        "stream",
        "token",
    )

    def __init__(self, token: bytes, reply: bytes, settle: Callable[[Ending], None], lenient: bool) -> None:
        self.token = token
        self.reply = reply
        self.settle = settle
        self.lenient = lenient
        self.address = b""
        self.answered = False
        """Whether a reply to it came: then its receiver has begun the bundle that it was in."""
        self.plain = False
        """Whether it ended with a reply whose header block was looked through before: a valid one without a stream."""
        self.stream: Any = None
        """What `Requests.adopt` made of a reply that begins a stream."""
        self.bucket: dict[bytes, Pending] | None = None
        self.message = (b"", b"")
        """Header block and payload of one that was sent in a bundle, which may have to be sent by itself."""
        self.doubted: Callable[[MeshError], None] | None = None
        """Told why the reply may never come, though it still may; None where it is waited for all the same."""
        self.others: list[Pending] | None = None
        """Who was sent in one bundle with it, and hears by its token that nobody listens."""


class Waiting(Pending):
    """A request that somebody awaits: its ending is ``future``'s."""

    __slots__ = ("future",)

    def __init__(self, token: bytes, reply: bytes, future: asyncio.Future[Reply], lenient: bool) -> None:
        super().__init__(token, reply, partial(_resolve, future), lenient)
        self.future = future


class Requests:
    """All pending requests of one bus. ``inbox`` is the subject prefix that its wildcard subscription covers."""

    __slots__ = (
        "_buckets",
        "_heirs",
        "_inbox",
        "_loop",
        "_pending",
        "_plain",
        "_streams",
        "_ticks",
        "_timer",
        "_tokens",
        "adopt",
        "apart",
        "broken",
        "ignored",
        "late",
        "orphan",
    )

    def __init__(self, inbox: str) -> None:
        self._inbox = inbox.encode() + b"."
        self._loop = asyncio.get_running_loop()
        self._pending: dict[bytes, Pending] = {}
        # Blocks of replies that were looked through, are valid and begin no stream: services send the same few again.
        self._plain: set[bytes] = set()
        self._streams: dict[bytes, Callable[[bytes, bytes], None]] = {}
        # Deadlines by tick; a request is in exactly one bucket and leaves it when it ends.
        self._buckets: dict[int, dict[bytes, Pending]] = {}
        self._ticks: list[int] = []  # a heap of the buckets' keys
        self._timer: asyncio.TimerHandle | None = None
        # Others of a bundle whose first has ended before anything was heard of it, by its token.
        self._heirs: dict[bytes, list[Pending]] = {}
        self._tokens: list[bytes] = []
        self.adopt: Callable[[bytes, bytes], Any] | None = None
        """Makes an object with a ``deliver(block, payload)`` of a reply, given its subject and block, or None.

        The `MeshError` that it raises ends the request."""
        self.apart: Callable[[list[Pending]], None] | None = None
        """Sends the requests of a bundle again, each by itself: their receiver did not begin them (`bundles.APART`)."""
        self.orphan: Callable[[bytes, bytes], None] | None = None
        """Told the reply subject and block of what came for nobody."""
        self.broken = 0
        """Bundles of replies that could not be read to their end."""
        self.ignored = 0
        """Messages to a waiting request that are no replies: they have no ``Mesh-Status``."""
        self.late = 0
        """Messages to the inbox for which nothing waits, replies after their deadline mostly."""

    def __len__(self) -> int:
        return len(self._pending)

    def new_reply(self) -> bytes:
        """An unused subject of the inbox; see `route`."""
        return self._inbox + self.new_token()

    def new_token(self) -> bytes:
        """12 unguessable characters; the system's random source is asked once for many."""
        if not self._tokens:
            text = os.urandom(6 * 512).hex().encode()
            self._tokens = [text[i : i + 12] for i in range(0, len(text), 12)]
        return self._tokens.pop()

    def open(self, timeout: float, *, lenient: bool = False) -> Waiting:
        """A new pending request whose future fails with `DeadlineExceeded` after ``timeout`` seconds.

        ``lenient`` takes any reply; otherwise one without ``Mesh-Status`` is ignored (a JetStream
        acknowledgement of a stream laid over the subject, say), as the protocol asks.
        """
        token = self.new_token()
        pending = Waiting(token, self._inbox + token, self._loop.create_future(), lenient)
        self._watch(pending, timeout)
        return pending

    def expect(self, timeout: float, settle: Callable[[Ending], None], *, lenient: bool = False) -> Pending:
        """Like `open`, for one who is called rather than waits: a future and a turn of the event loop less."""
        token = self.new_token()
        pending = Pending(token, self._inbox + token, settle, lenient)
        self._watch(pending, timeout)
        return pending

    def _watch(self, pending: Pending, timeout: float) -> None:
        loop, token = self._loop, pending.token
        self._pending[token] = pending
        tick = int((loop.time() + timeout) / SWEEP_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
        bucket[token] = pending
        pending.bucket = bucket
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_S, self._sweep)

    def close(self, pending: Pending) -> None:
        """Forget a request; harmless when it has ended already."""
        if self._pending.pop(pending.token, None) is not None and pending.bucket is not None:
            pending.bucket.pop(pending.token, None)
            if pending.others is not None:
                self._inherit(pending)
        if isinstance(pending, Waiting) and not pending.future.done():
            pending.future.cancel()

    def open_stream(self, deliver: Callable[[bytes, bytes], None]) -> bytes:
        """A reply subject for any number of replies, until `close_stream`."""
        reply = self.new_reply()
        self.route(reply, deliver)
        return reply

    def route(self, reply: bytes, deliver: Callable[[bytes, bytes], None]) -> None:
        """Give what comes on a subject of the inbox to ``deliver(block, payload)``, until `close_stream`."""
        self._streams[reply[len(self._inbox) :]] = deliver

    def close_stream(self, reply: bytes) -> None:
        if reply.startswith(self._inbox):
            self._streams.pop(reply[len(self._inbox) :], None)

    def deliver(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """The inbox subscription's callback."""
        token = subject[len(self._inbox) :]
        if token != MARK:
            self._take(token, reply, block, payload)
            return
        try:
            for (token,), *message in unpack(payload, 1):
                self._take(token, b"", *message)
        except BadBundle as error:
            self.broken += 1
            if logs.is_due(self.broken):
                _log.warning("dropped replies: %s (%d so far)", error, self.broken)

    def _take(self, token: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        pending = self._pending.get(token)
        if pending is None:
            self._take_other(token, reply, block, payload)
            return
        if block in self._plain:
            pending.plain = pending.answered = True
            self._end(pending, Reply(block, payload))
            return
        is_reply = headers.is_reply(block)
        has_status = is_reply or headers.has(block, headers.STATUS)
        if (pending.lenient or not has_status) and not payload and block.startswith(headers.NO_RESPONDERS):
            self._nobody(pending, *(pending.others or ()))
            return
        if not pending.lenient and not has_status:
            self.ignored += 1
            return
        is_refusal = refuses(block, payload)
        if is_refusal and pending.others is not None and _is_unanswered(pending.others):
            others, pending.others = pending.others, None
            self._send_apart([pending, *others])
            return
        pending.answered = True
        has_stream = headers.has(block, headers.STREAM)
        if has_stream and self.adopt is not None:
            try:
                pending.stream = self.adopt(pending.reply, block)
            except MeshError as error:
                self._end(pending, error)
                return
            if pending.stream is not None:
                self._streams[token] = pending.stream.deliver  # its first frames may be in the same read
        if is_reply and not has_stream and not is_refusal and len(block) <= LONGEST_PLAIN:
            if len(self._plain) >= MOST_PLAIN:
                self._plain.clear()
            self._plain.add(block)
        self._end(pending, Reply(block, payload))

    def _take_other(self, token: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """What is no reply to a request that waits."""
        stream = self._streams.get(token)
        if stream is not None:
            stream(block, payload)
        elif token in self._heirs and not payload and block.startswith(headers.NO_RESPONDERS):
            self._nobody(*self._heirs.pop(token))
        elif token in self._heirs and refuses(block, payload) and _is_unanswered(self._heirs[token]):
            self._send_apart(self._heirs.pop(token))
        else:
            self.late += 1
            if reply and self.orphan is not None:
                self.orphan(reply, block)

    def _send_apart(self, bundled: list[Pending]) -> None:
        waiting = [pending for pending in bundled if pending.token in self._pending]
        if self.apart is not None and waiting:
            self.apart(waiting)

    def _nobody(self, *bundled: Pending) -> None:
        for pending in bundled:
            self._end(pending, NoResponders("nobody listens on the subject"))

    def _inherit(self, first: Pending) -> None:
        """The first of a bundle ends unheard: the others may still have to learn that nobody listens."""
        pending = self._pending
        self._heirs = {t: o for t, o in self._heirs.items() if any(other.token in pending for other in o)}
        self._heirs[first.token] = first.others or []

    def fail_all(self, make_error: Callable[[], MeshError]) -> None:
        """End every pending request with an error of its own: the connection is gone."""
        for pending in list(self._pending.values()):
            self._end(pending, make_error())

    def fail(self, pending: Pending, error: MeshError) -> None:
        """End one request with an error."""
        self._end(pending, error)

    def fail_address(self, address: bytes, make_error: Callable[[], MeshError]) -> None:
        """End the requests to one subject, compared without case (nats-py lower-cases the server's message)."""
        if address.endswith(b"." + MARK):
            place = address[: -len(MARK)]
            bundles = [[first, *first.others] for first in self._pending.values() if first.others is not None]
            ended = [p for of_one in (*bundles, *self._heirs.values()) for p in of_one]
            ended = [pending for pending in ended if pending.address.lower().startswith(place)]
        else:
            ended = [pending for pending in self._pending.values() if pending.address.lower() == address]
        for pending in ended:
            self._end(pending, make_error())

    def fail_prefix(self, prefix: bytes, make_error: Callable[[], MeshError]) -> None:
        """End the requests to subjects that start so: an instance died."""
        for pending in list(self._pending.values()):
            if pending.address.startswith(prefix):
                self._end(pending, make_error())

    def doubtful(self, prefix: bytes) -> list[Pending]:
        """The requests to subjects that start so and want to be told when their replies may never come."""
        return [p for p in self._pending.values() if p.doubted is not None and p.address.startswith(prefix)]

    def doubt(self, requests: Iterable[Pending], make_error: Callable[[], MeshError]) -> None:
        """Tell those that have not ended yet that their replies may never come."""
        for pending in requests:
            if pending.doubted is not None and pending.token in self._pending:
                try:
                    pending.doubted(make_error())
                except Exception:
                    _log.exception("what waited for a reply failed")

    def aclose(self) -> None:
        """End everything and stop the sweep."""
        self.fail_all(lambda: BusUnavailable("the bus was closed", executed="unknown"))
        self._streams.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, pending: Pending, ending: Ending) -> None:
        if self._pending.pop(pending.token, None) is None:
            return  # what ended another one closed it
        if pending.bucket is not None:
            pending.bucket.pop(pending.token, None)
        try:
            pending.settle(ending)
        except Exception:
            _log.exception("what waited for a reply failed")

    def _sweep(self) -> None:
        now = int(self._loop.time() / SWEEP_S)
        ticks = self._ticks
        while ticks and ticks[0] <= now:
            for pending in list(self._buckets.pop(heappop(ticks)).values()):
                if pending.others is not None:
                    self._inherit(pending)
                self._end(pending, DeadlineExceeded("no reply before the deadline"))
        self._timer = self._loop.call_later(SWEEP_S, self._sweep) if self._buckets else None


def _is_unanswered(bundled: list[Pending]) -> bool:
    """Whether the receiver may have begun none of them: who has answered one does not refuse the bundle any more."""
    return not any(pending.answered for pending in bundled)


def _resolve(future: asyncio.Future[Reply], ending: Ending) -> None:
    if future.done():
        return
    if isinstance(ending, Reply):
        future.set_result(ending)
    else:
        future.set_exception(ending)
