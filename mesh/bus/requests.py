"""Requests in flight: one wildcard inbox, unguessable tokens, one deadline sweep.

A request has no timer and no subscription of its own. However it ends (reply, no responders, deadline, lost connection,
cancelled caller), nothing of it is left afterwards. The bus ``users`` ``I1`` subscribes to one subject for all::

    mesh.inbox.users.I1.a1b2c3.*              the inbox
    mesh.inbox.users.I1.a1b2c3.9f3c07d1e842   the reply subject of one request; the end is its token
    mesh.inbox.users.I1.a1b2c3.+              replies to several requests, as a bundle

Deadlines are kept in buckets of `SWEEP_S` seconds: a request due at 12.3456 s is in bucket 1235, which ends at 12.35 s.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Final

from mesh import headers, logs
from mesh.bus.bundles import MARK, BadBundle, is_refusal, unpack
from mesh.bus.bundling import HeadlessBundles, bundled_below, is_unanswered, prefix_of_bundles
from mesh.bus.pending import AwaitedRequest, Ending, Pending, Reply, let_go
from mesh.errors import BusUnavailable, DeadlineExceeded, MeshError, NoResponders

SWEEP_S: Final = 0.01
"""Seconds between two looks at the deadlines: a request fails at most this much late."""
MAX_KNOWN_BLOCKS: Final = 1024
"""Header blocks of replies that are remembered."""
LONGEST_KNOWN_BLOCK: Final = 1024
"""Bytes of the longest of them."""

_log = logging.getLogger("mesh.bus")


class Requests:
    """All requests in flight of one bus, and whatever else listens on its inbox."""

    __slots__ = (
        "_adopt",
        "_buckets",
        "_headless",
        "_inbox",
        "_known_blocks",
        "_listeners",
        "_loop",
        "_orphan",
        "_pending",
        "_resend",
        "_ticks",
        "_timer",
        "_tokens",
        "broken",
        "ignored",
        "late",
    )

    def __init__(self, inbox: str, resend: Callable[[list[Pending]], None] | None = None) -> None:
        """
        inbox: the prefix of the subjects that the bus's wildcard subscription covers, without its last dot.
        resend: sends the requests of a refused bundle again, each by itself.
        """
        self.broken = 0
        """Bundles of replies that could not be read to their end."""
        self.ignored = 0
        """Messages to a request in flight that are not replies: they have no ``Mesh-Status``."""
        self.late = 0
        """Messages to the inbox for which nothing waits: replies after their deadline, usually."""
        self._inbox = inbox.encode() + b"."
        self._loop = asyncio.get_running_loop()
        self._pending: dict[bytes, Pending] = {}
        # Blocks that were checked: they are valid and begin no stream. Services send the same few over and over.
        self._known_blocks: set[bytes] = set()
        self._listeners: dict[bytes, Callable[[bytes, bytes], None]] = {}
        # By tick of the deadline; a request is in exactly one bucket and leaves it when it ends.
        self._buckets: dict[int, dict[bytes, Pending]] = {}
        self._ticks: list[int] = []  # a heap of the buckets' keys
        self._timer: asyncio.TimerHandle | None = None
        self._headless = HeadlessBundles()
        self._tokens: list[bytes] = []
        self._resend = resend
        self._adopt: Callable[[bytes, bytes], Any] | None = None
        self._orphan: Callable[[bytes, bytes], None] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def on_stream(self, adopt: Callable[[bytes, bytes], Any], orphan: Callable[[bytes, bytes], None]) -> None:
        """Register what makes streams.

        adopt: given the reply subject and header block of a reply with ``Mesh-Stream``, returns None or an object with
            ``deliver(block, payload)``, which gets what follows. A `MeshError` that it raises ends the request.
        orphan: called with the reply subject and header block of a message for which nothing waits.
        """
        self._adopt, self._orphan = adopt, orphan

    # -- beginning

    def new_reply(self) -> bytes:
        """An unused subject of the inbox; see `listen`."""
        return self._inbox + self.new_token()

    def new_token(self) -> bytes:
        """12 unguessable characters; the system's random source is asked once for many tokens."""
        if not self._tokens:
            text = os.urandom(6 * 512).hex().encode()
            self._tokens = [text[i : i + 12] for i in range(0, len(text), 12)]
        return self._tokens.pop()

    def open(self, timeout: float, *, lenient: bool = False) -> AwaitedRequest:
        """Begin a request whose future fails with `DeadlineExceeded` after ``timeout`` seconds.

        lenient: take any reply; otherwise one without ``Mesh-Status`` is ignored, as the protocol asks. It may be a
            JetStream acknowledgement of a stream laid over the subject.
        """
        token = self.new_token()
        pending = AwaitedRequest(token, self._inbox + token, self._loop.create_future(), lenient)
        self._add(pending, timeout)
        return pending

    def expect(self, timeout: float, on_end: Callable[[Ending], None], *, lenient: bool = False) -> Pending:
        """Like `open`, but calls ``on_end`` instead: that saves a future and a turn of the event loop."""
        token = self.new_token()
        pending = Pending(token, self._inbox + token, on_end, lenient)
        self._add(pending, timeout)
        return pending

    def _add(self, pending: Pending, timeout: float) -> None:
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
        """Forget a request; harmless if it has ended already."""
        if self._pending.pop(pending.token, None) is not None and pending.bucket is not None:
            pending.bucket.pop(pending.token, None)
            if pending.bundled_with is not None:
                self._headless.keep(pending, self._pending)
        pending.on_end, pending.stream, pending.on_suspected_loss = let_go, None, None
        if isinstance(pending, AwaitedRequest) and not pending.future.done():
            pending.future.cancel()

    def bundle_sent(self, bundled: list[Pending]) -> None:
        """Note that these requests went in one bundle, in this order."""
        first = bundled[0]
        first.bundled_with = bundled[1:]
        if first.token not in self._pending:  # it was closed before the bundle was written
            self._headless.keep(first, self._pending)

    # -- listening for any number of messages

    def listen(self, reply: bytes, deliver: Callable[[bytes, bytes], None]) -> None:
        """Give each message on a subject of the inbox to ``deliver(block, payload)``, until `stop_listening`."""
        self._listeners[reply[len(self._inbox) :]] = deliver

    def stop_listening(self, reply: bytes) -> None:
        """End `listen`. A subject that is not of the inbox is ignored."""
        if reply.startswith(self._inbox):
            self._listeners.pop(reply[len(self._inbox) :], None)

    # -- incoming messages

    def deliver(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """The callback of the inbox's subscription."""
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
        if block in self._known_blocks:
            pending.has_known_block = pending.is_answered = True
            self._end(pending, Reply(block, payload))
            return
        is_reply = headers.is_reply(block)
        has_status = is_reply or headers.has(block, headers.STATUS)
        if (pending.lenient or not has_status) and headers.says_no_responders(block, payload):
            self._end_unheard(pending, *(pending.bundled_with or ()))
            return
        if not pending.lenient and not has_status:
            self.ignored += 1
            return
        refuses = is_refusal(block, payload)
        if refuses and pending.bundled_with is not None and is_unanswered(pending.bundled_with):
            others, pending.bundled_with = pending.bundled_with, None
            self._send_again([pending, *others])
            return
        pending.is_answered = True
        has_stream = headers.has(block, headers.STREAM)
        if has_stream and self._adopt is not None:
            try:
                pending.stream = self._adopt(pending.reply, block)
            except MeshError as error:
                self._end(pending, error)
                return
            if pending.stream is not None:
                self._listeners[token] = pending.stream.deliver  # its first frames may be in the same read
        if is_reply and not has_stream and not refuses and len(block) <= LONGEST_KNOWN_BLOCK:
            if len(self._known_blocks) >= MAX_KNOWN_BLOCKS:
                self._known_blocks.clear()
            self._known_blocks.add(block)
        self._end(pending, Reply(block, payload))

    def _take_other(self, token: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """Take a message that is not for a request in flight."""
        listener = self._listeners.get(token)
        if listener is not None:
            listener(block, payload)
        elif token in self._headless and headers.says_no_responders(block, payload):
            self._end_unheard(*self._headless.pop(token))
        elif token in self._headless and is_refusal(block, payload) and is_unanswered(self._headless[token]):
            self._send_again(self._headless.pop(token))
        else:
            self.late += 1
            if reply and self._orphan is not None:
                self._orphan(reply, block)

    def _send_again(self, bundled: list[Pending]) -> None:
        in_flight = [pending for pending in bundled if pending.token in self._pending]
        if self._resend is not None and in_flight:
            self._resend(in_flight)

    def _end_unheard(self, *bundled: Pending) -> None:
        for pending in bundled:
            self._end(pending, NoResponders("nobody listens on the subject"))

    # -- failures

    def fail(self, pending: Pending, error: MeshError) -> None:
        """End one request with an error."""
        self._end(pending, error)

    def fail_all(self, make_error: Callable[[], MeshError]) -> None:
        """End each request with an error of its own: the connection is lost."""
        for pending in list(self._pending.values()):
            self._end(pending, make_error())

    def fail_address(self, address: bytes, make_error: Callable[[], MeshError]) -> None:
        """End the requests to one subject, given in lower case: nats-py changes the server's message to it."""
        prefix = prefix_of_bundles(address)
        if prefix:
            failed = bundled_below(prefix, self._pending.values(), self._headless)
        else:
            failed = [pending for pending in self._pending.values() if pending.address.lower() == address]
        for pending in failed:
            self._end(pending, make_error())

    def fail_prefix(self, prefix: bytes, make_error: Callable[[], MeshError]) -> None:
        """End the requests to subjects that begin with ``prefix``: an instance died."""
        for pending in list(self._pending.values()):
            if pending.address.startswith(prefix):
                self._end(pending, make_error())

    def suspectable(self, prefix: bytes) -> list[Pending]:
        """The requests to subjects that begin with ``prefix`` and have an `Pending.on_suspected_loss`."""
        return [p for p in self._pending.values() if p.on_suspected_loss is not None and p.address.startswith(prefix)]

    def suspect_loss(self, requests: Iterable[Pending], make_error: Callable[[], MeshError]) -> None:
        """Call `Pending.on_suspected_loss` of those that have not ended yet."""
        for pending in requests:
            if pending.on_suspected_loss is not None and pending.token in self._pending:
                try:
                    pending.on_suspected_loss(make_error())
                except Exception:
                    _log.exception("what waited for a reply failed")

    def aclose(self) -> None:
        """End everything and stop the sweep."""
        self.fail_all(lambda: BusUnavailable("the bus was closed", executed="unknown"))
        self._listeners.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, pending: Pending, ending: Ending) -> None:
        if self._pending.pop(pending.token, None) is None:
            return  # it was closed while another one ended
        if pending.bucket is not None:
            pending.bucket.pop(pending.token, None)
        try:
            pending.on_end(ending)
        except Exception:
            _log.exception("what waited for a reply failed")
        pending.on_end, pending.stream, pending.on_suspected_loss = let_go, None, None

    def _sweep(self) -> None:
        now = int(self._loop.time() / SWEEP_S)
        ticks = self._ticks
        while ticks and ticks[0] <= now:
            for pending in list(self._buckets.pop(heappop(ticks)).values()):
                if pending.bundled_with is not None:
                    self._headless.keep(pending, self._pending)
                self._end(pending, DeadlineExceeded("no reply before the deadline"))
        self._timer = self._loop.call_later(SWEEP_S, self._sweep) if self._buckets else None
