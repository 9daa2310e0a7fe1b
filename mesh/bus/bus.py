"""The bus: publish, subscribe and request, on a connection that heals itself.

The one seam between the mesh and nats-py. Callbacks are plain functions that get bytes. Publishing is a plain call that
either puts the message on its way or raises at once: it does not wait for a connection. What the bus consists of:

==============================  ==================================================
`BusConnection`                 the base class: opening, closing, waiting, facts
`Requests`                      requests in flight and the inbox on which replies come
`Subscriptions`                 what the bus listens to, on whatever connection there is
`SupervisedConnection`          nats-py's client, replaced whenever it is of no use
`FastTransport`, `plain_client` the two ways of messages to and from the socket
`ConnectionWait`                callers that wait for a connection
`KeptReplies`                   replies that wait for one
`BundlePeers`                   which peers take bundles, see `mesh.bus.bundling`
==============================  ==================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

from mesh.bus import plain_client
from mesh.bus.bundles import REFUSAL, unpack
from mesh.bus.bundling import BundlePeers
from mesh.bus.bus_connection import OFFLINE, BusConnection
from mesh.bus.frames import Deliver
from mesh.bus.nats_errors import translate
from mesh.bus.pending import Ending, Pending, Reply
from mesh.bus.subscriptions import Subscription
from mesh.errors import BusUnavailable, Forbidden, MeshError, TooLarge
from mesh.settings import BusSettings
from mesh.subjects import check_subject
from mesh.tasks import keep

_log = logging.getLogger("mesh.bus")


class Bus(BusConnection):
    """The bus of one process (a service instance, a gateway, a client) in one mesh.

    ::

        async with Bus(settings, service="users", instance=new_id()) as bus:
            await bus.subscribe("mesh.event.hello", lambda subject, reply, block, payload: print(payload))
            bus.publish(bus.address("mesh.event.hello"), b"hi")
    """

    def __init__(
        self, settings: BusSettings, *, service: str = "client", instance: str = "", give_up_s: float = float("inf")
    ) -> None:
        """See `BusConnection`."""
        super().__init__(settings, service=service, instance=instance, give_up_s=give_up_s)
        self._sends_bundles = settings.bundles
        self._bundle_peers = BundlePeers()

    # -- messages out

    def address(self, subject: str) -> bytes:
        """Check a subject to publish to, once: the check is slow, so keep the result. Raises `BadSubject`."""
        return check_subject(subject).encode()

    def publish(self, address: bytes, payload: bytes, block: bytes = b"", reply: bytes = b"") -> None:
        """Send one message.

        address: the subject, checked by `address`.
        block: a header block of `mesh.headers.encode`; empty for none.
        reply: the reply subject; empty for none.

        Raises `BusUnavailable` while disconnected, `Overloaded` if NATS reads too slowly, `TooLarge` over the server's
        max_payload: nats-py checks only the payload, and the server closes the connection if headers exceed it.
        """
        if not self.connected:
            raise BusUnavailable(OFFLINE)
        size = len(payload) + len(block)
        if size > self._max_payload:
            raise TooLarge(f"message of {size} bytes; NATS takes {self._max_payload}")
        queue = self._queue
        if queue is None:
            assert self._client is not None
            plain_client.publish(self._client, self._publishing, address, payload, block, reply)
        elif block:
            if reply:
                queue.send(b"HPUB %b %b %d %d\r\n" % (address, reply, len(block), size), block, payload, b"\r\n")
            else:
                queue.send(b"HPUB %b %d %d\r\n" % (address, len(block), size), block, payload, b"\r\n")
        elif reply:
            queue.send(b"PUB %b %b %d\r\n" % (address, reply, size), payload, b"\r\n")
        else:
            queue.send(b"PUB %b %d\r\n" % (address, size), payload, b"\r\n")

    def reply(self, reply: bytes, payload: bytes, block: bytes) -> None:
        """Reply to a request; its reply subject must have passed `Subjects.may_reply`.

        While disconnected the reply is kept: its caller may wait on another server of the cluster. Raises only
        `TooLarge` and `Overloaded`.
        """
        if self.connected:
            cut = reply.rfind(b".") + 1
            inbox, queue = reply[:cut], self._queue
            if (
                queue is None
                or inbox not in self._bundle_peers.inboxes
                or not block
                or not queue.add_to_bundle(inbox, reply[cut:], b"", block, payload, None)
            ):
                self.publish(reply, payload, block)
            return
        size = len(payload) + len(block)
        if size > self._max_payload:
            raise TooLarge(f"message of {size} bytes; NATS takes {self._max_payload}")
        self._kept_replies.keep(reply, payload, block)

    # -- messages in

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str = "") -> Subscription:
        """Call ``deliver(subject, reply, block, payload)`` for every message on ``subject``, from now on.

        While disconnected the subscription waits for the connection. `flush` returns when the server has it. Raises
        `BadSubject`.
        """
        return await self._subscriptions.add(subject, deliver, queue)

    async def unsubscribe(self, *subscriptions: Subscription) -> None:
        """End subscriptions. Returns when every message that the server had sent for them has been delivered."""
        await self._subscriptions.remove(subscriptions, self.flush)

    async def flush(self, timeout: float = 5.0) -> None:
        """Return when the server has processed everything that was sent before: a message to our own inbox came back.

        nats-py's own ``flush`` loses its read loop when it times out. Raises `DeadlineExceeded`, `BusUnavailable`.
        """
        pending = self.requests.open(timeout, lenient=True)
        try:
            if self._client is None or not self.connected:
                raise BusUnavailable(OFFLINE)
            # Through nats-py, after the SUB and UNSUB commands that it has still to write.
            await self._client.publish(pending.reply.decode(), b"")
            await pending.future
        except MeshError:
            raise
        except Exception as error:
            raise translate(error) from error
        finally:
            self.requests.close(pending)

    # -- requests

    async def request(
        self, address: bytes, payload: bytes, block: bytes = b"", *, timeout: float, lenient: bool = False
    ) -> Reply:
        """Send a request and wait for its one reply. ``lenient``: see `Requests.open`.

        Raises `NoResponders`, `DeadlineExceeded`, `BusUnavailable`, `TooLarge`, `Forbidden` (NATS permissions).
        """
        pending = self.requests.open(timeout, lenient=lenient)
        self._post(pending, address, payload, block)
        try:
            return await pending.future
        finally:
            self.requests.close(pending)

    def send(
        self,
        address: bytes,
        payload: bytes,
        block: bytes,
        timeout: float,
        on_end: Callable[[Ending], None],
        *,
        lenient: bool = False,
        bundle_prefix: bytes = b"",
    ) -> Pending:
        """Send a request, like `request`, and call ``on_end`` with its ending, unless ``Requests.close`` comes first.

        bundle_prefix: the address without its last token, ending in a dot, if its receiver takes bundles.
        """
        pending = self.requests.expect(timeout, on_end, lenient=lenient)
        queue = self._queue
        if bundle_prefix and queue is not None and self.connected and bundle_prefix not in self._bundle_peers.refusing:
            names = b"%b %b" % (address[len(bundle_prefix) :], pending.token)
            if queue.add_to_bundle(bundle_prefix, names, pending.reply, block, payload, pending):
                pending.address = address
                pending.message = (block, payload)
                return pending
        self._post(pending, address, payload, block)
        return pending

    def send_unbundled(self, bundled: list[Pending]) -> None:
        """Send the requests of a refused bundle again, each by itself."""
        prefix = bundled[0].address[: bundled[0].address.rindex(b".") + 1]
        self._bundle_peers.refused(prefix)
        for pending in bundled:
            block, payload = pending.message
            try:
                self.publish(pending.address, payload, block, pending.reply)
            except MeshError as error:
                self.requests.fail(pending, error)

    def open_bundle(self, reply: bytes, payload: bytes) -> Iterator[tuple[list[bytes], bytes, bytes]] | None:
        """Begin to unpack a bundle of requests; see `bundles.unpack` for what the iterator yields and raises.

        reply: the bundle's reply subject, which must have passed `Subjects.may_reply`.

        Returns None if its requests cannot be answered one by one: then it is refused as a whole.
        """
        if not self.subjects.is_inbox(reply):
            try:
                self.reply(reply, b"", REFUSAL)
            except MeshError as error:
                _log.warning("a bundle was not refused: %s", error)
            return None
        self._bundle_peers.inboxes.remember(reply[: reply.rindex(b".") + 1])
        self.expect_replies()
        return unpack(payload, 2)

    def expect_replies(self) -> None:
        """While a message is received: have the replies to it, and to others, written at the end of this turn."""
        if self._queue is not None:
            self._queue.expects_replies = True

    def _post(self, pending: Pending, address: bytes, payload: bytes, block: bytes) -> None:
        pending.address = address
        try:
            self.publish(address, payload, block, pending.reply)
        except BaseException:
            self.requests.close(pending)
            raise

    @asynccontextmanager
    async def gather(self, address: bytes, payload: bytes, block: bytes = b"") -> AsyncIterator[asyncio.Queue[Reply]]:
        """Publish one message to many, and collect their replies in a queue while the context lasts."""
        replies: asyncio.Queue[Reply] = asyncio.Queue()
        reply = self.requests.new_reply()
        self.requests.listen(reply, lambda block, payload: replies.put_nowait(Reply(block, payload)))
        try:
            self.publish(address, payload, block, reply)
            yield replies
        finally:
            self.requests.stop_listening(reply)

    # -- when there is a connection

    def begin_sending(self) -> None:
        """Allow bundles, send the replies that were kept, and show on plain nats-py that the server lives."""
        if self._queue is not None:
            if self._sends_bundles:
                self._queue.allow_bundles(self._max_payload, self.requests.bundle_sent)
            else:
                self._queue.forbid_bundles()
        for reply, payload, block in self._kept_replies.release():
            try:
                self.publish(reply, payload, block)
            except MeshError as error:  # this server may take less in one message than the one before
                _log.warning("a reply that was kept while disconnected is lost: %s", error)
        if self._queue is None:
            if self._pinging is not None:
                self._pinging.cancel()
            pings = partial(plain_client.ping_self, self.requests, self.publish, self._own_ping_came)
            self._pinging = keep(pings, "nats echo")

    def refused(self, verb: str, subject: str) -> None:
        """The server does not permit to ``publish`` to that subject, or a ``subscription`` to it."""
        if verb != "publish":
            return
        if subject.endswith(".+") and self._queue is not None:
            _log.warning("bundles are off from now on: allow %s*, or set MESH_BUNDLES=off", subject[:-1])
            self._sends_bundles = False
            self._queue.forbid_bundles()
        self.requests.fail_address(
            subject.encode(),
            lambda: Forbidden(f"NATS permissions do not allow publishing to {subject}", reason="bus_permission"),
        )
