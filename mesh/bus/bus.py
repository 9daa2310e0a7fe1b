"""The bus: publish, subscribe and request, on a connection that heals itself.

The one seam between the mesh and nats-py. Callbacks are plain functions that get bytes. Publishing is a plain call that
either puts the message on its way or raises at once: it does not wait for a connection. What the bus consists of:

==============================  ==================================================
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
from typing import Any, Self

from nats.aio.client import Client

from mesh.bus import plain_client
from mesh.bus.bundles import REFUSAL, unpack
from mesh.bus.bundling import BundlePeers
from mesh.bus.connection_wait import ConnectionWait
from mesh.bus.fast_transport import FastTransport
from mesh.bus.frames import Deliver
from mesh.bus.kept_replies import KeptReplies
from mesh.bus.nats_errors import translate
from mesh.bus.pending import Ending, Pending, Reply
from mesh.bus.requests import Requests
from mesh.bus.subscriptions import Subscription, Subscriptions
from mesh.bus.supervised_connection import SupervisedConnection
from mesh.bus.write_queue import WriteQueue
from mesh.errors import BusUnavailable, Forbidden, MeshError, TooLarge
from mesh.settings import BusSettings
from mesh.subjects import Subjects, check_subject, new_id
from mesh.tasks import keep

OFFLINE = "not connected to NATS"

_log = logging.getLogger("mesh.bus")


class Bus:
    """The connection of one process (a service instance, a gateway, a client) to one mesh.

    ::

        async with Bus(settings, service="users", instance=new_id()) as bus:
            await bus.subscribe("mesh.event.hello", lambda subject, reply, block, payload: print(payload))
            bus.publish(bus.address("mesh.event.hello"), b"hi")
    """

    def __init__(
        self, settings: BusSettings, *, service: str = "client", instance: str = "", give_up_s: float = float("inf")
    ) -> None:
        """
        service, instance: whose bus this is; they become part of the inbox.
        give_up_s: seconds after which ``async with`` gives up if every server has failed to connect. Without it only
            reasons that stay end the attempt before ``connect_timeout_s``.
        """
        self.settings = settings
        self.subjects = Subjects(settings.prefix)
        self.service = service
        self.instance = instance or new_id()
        self.connected = False
        self.connections = 0
        """Connections so far, the current one included; moving to another server of a cluster makes none."""
        self.loop_blocked_by: Callable[[], str] = lambda: ""
        """Says what has blocked the event loop of late, for log lines; empty if that is not known."""
        self.requests: Requests
        self.now: Callable[[], float]
        """Seconds of the event loop's clock."""
        # While it is open.
        self._opened = False
        self._connection: SupervisedConnection
        self._wait: ConnectionWait
        self._inbox = self.subjects.inbox(service, self.instance, new_id())
        self._give_up_s = give_up_s
        self._subscriptions = Subscriptions()
        self._connection_callbacks: list[Callable[[bool], None]] = []
        self._on_stream: tuple[Callable[[bytes, bytes], Any], Callable[[bytes, bytes], None]] | None = None
        self._kept_replies = KeptReplies()
        self._sends_bundles = settings.bundles
        self._bundle_peers = BundlePeers()
        # Of one connection after the other.
        self._client: Client | None = None
        self._fast_transport: FastTransport | None = None
        self._queue: WriteQueue | None = None  # the fast transport's
        self._max_payload = 1024 * 1024
        self._last_own_ping = 0.0
        self._pinging: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    # -- opening and closing

    def open(self) -> None:
        """Begin to connect in the background. Use `wait_connected` if the first connection matters."""
        assert not self._opened, "a bus is opened once"
        self._opened = True
        self.now = asyncio.get_running_loop().time
        self.requests = Requests(self._inbox, self._send_unbundled)
        if self._on_stream is not None:
            self.requests.on_stream(*self._on_stream)
        self._subscriptions.add_later(self._inbox + ".*", self.requests.deliver, first=True)
        self._connection = SupervisedConnection(
            self.settings,
            name=f"{self.service}.{self.instance}",
            inbox=self._inbox + ".js",
            requests=self.requests,
            subscriptions=self._subscriptions,
            on_client=self._use_client,
            on_up=self._is_up,
            on_down=self._is_down,
            on_refused=self.refused,
            loop_blocked_by=lambda: self.loop_blocked_by(),
        )
        self._wait = ConnectionWait(self.settings, self._connection.failures, self._give_up_s)
        self._connection.start()

    async def aclose(self) -> None:
        """Close now; what was published before is written first. May be called twice."""
        if not self._opened:
            return
        self._opened = False
        self.connected = False
        self.requests.aclose()
        for task in (*self._publishing, self._pinging):
            if task is not None:
                task.cancel()
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        """Open it and wait for the first connection. Raises `BusUnavailable`."""
        self.open()
        try:
            await self._wait.until_first()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def wait_connected(self, timeout: float) -> None:
        """Raise `BusUnavailable`, with the reason, if there is no connection within ``timeout`` seconds."""
        await self._wait.until_connected(timeout)

    async def wait_reconnected(self) -> None:
        """Give a connection that was just lost a moment to come back; see `ConnectionWait.until_reconnected`.

        A move to another server of a cluster takes some milliseconds: too little to fail a request.
        """
        if not self.connected:
            await self._wait.until_reconnected(self._connection.has_others)

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(True)`` at every (re)connection, after subscriptions are in place, ``(False)`` at a loss."""
        self._connection_callbacks.append(callback)

    def on_stream(self, adopt: Callable[[bytes, bytes], Any], orphan: Callable[[bytes, bytes], None]) -> None:
        """Register what makes streams of replies; see `Requests.on_stream`.

        Raises RuntimeError if something is registered already.
        """
        if self._on_stream is not None:
            raise RuntimeError("the streams of this bus have an owner already")
        self._on_stream = adopt, orphan
        if self._opened:
            self.requests.on_stream(adopt, orphan)

    # -- facts

    @property
    def closed(self) -> bool:
        """True if there will be no connection any more."""
        return not self._opened

    @property
    def has_others(self) -> bool:
        """True if another server of the cluster is known."""
        return self._connection.has_others

    @property
    def lane(self) -> bool:
        """True if messages take the hot lane (`FastTransport`), False on plain nats-py."""
        return self._fast_transport is not None

    @property
    def last_bytes(self) -> float:
        """When the server last gave a sign of life, on the event loop's clock in seconds."""
        return self._fast_transport.last_bytes if self._fast_transport is not None else self._last_own_ping

    @property
    def silence(self) -> float:
        """Seconds without a byte that just ended: what arrives now may be that old. Always 0.0 on plain nats-py."""
        return self._fast_transport.silence if self._fast_transport is not None else 0.0

    @property
    def last_error(self) -> str:
        """That there is no connection, as a sentence that anybody may read; empty while there is one.

        The log says why there is none: the reason names servers, files and settings.
        """
        return OFFLINE if self._connection.last_error else ""

    @property
    def max_payload(self) -> int:
        """Bytes that header block and payload of one message may have together, as the server says."""
        return self._max_payload

    @property
    def server(self) -> dict[str, Any]:
        """The connected server's INFO (``version``, ``server_name``, ``jetstream``, ...); empty when not connected."""
        return dict(self._connection.server_info) if self.connected else {}

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written to NATS."""
        return self._queue.buffered if self._queue is not None else 0

    async def writable(self) -> None:
        """Return when NATS has taken most of what was published."""
        if self._queue is not None:
            await self._queue.wait_writable()

    def statistics(self) -> dict[str, int]:
        """Counters of this process's connection since it was made."""
        client, fast = self._client, self._fast_transport
        stats = dict(client.stats) if client is not None else {}
        return {
            "in_msgs": fast.frames.in_msgs if fast else stats.get("in_msgs", 0),
            "in_bytes": fast.frames.in_bytes if fast else stats.get("in_bytes", 0),
            "out_msgs": (fast.queue.messages_out if fast else 0) + stats.get("out_msgs", 0),
            "reconnects": stats.get("reconnects", 0) + (self._connection.restarts if self._opened else 0),
            "dropped_frames": fast.frames.dropped if fast else 0,
            "dropped_replies": self._kept_replies.dropped,
            "pending_requests": len(self.requests) if self._opened else 0,
        }

    def jetstream_client(self) -> Client:
        """nats-py's client, for JetStream inside ``mesh.bus`` only. Raises `BusUnavailable` while disconnected."""
        if self._client is None or not self.connected:
            raise BusUnavailable(OFFLINE)
        return self._client

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

    def _send_unbundled(self, bundled: list[Pending]) -> None:
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
            self.reply(reply, b"", REFUSAL)
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

    # -- callbacks of the supervised connection

    def _use_client(self, client: Client, fast_transport: FastTransport | None) -> None:
        self._client, self._fast_transport = client, fast_transport
        self._queue = fast_transport.queue if fast_transport is not None else None

    def _is_up(self) -> None:
        assert self._client is not None
        self._max_payload = self._client.max_payload
        if self._queue is not None:
            if self._sends_bundles:
                self._queue.allow_bundles(self._max_payload, self.requests.bundle_sent)
            else:
                self._queue.forbid_bundles()
        self._own_ping_came()
        if not self.connected:
            self.connections += 1
        self.connected = True
        self._wait.connected()
        self._send_kept_replies()
        if self._queue is None:
            if self._pinging is not None:
                self._pinging.cancel()
            pings = partial(plain_client.ping_self, self.requests, self.publish, self._own_ping_came)
            self._pinging = keep(pings, "nats echo")
        self._tell(True)

    def _is_down(self) -> None:
        if not self.connected:
            return
        self.connected = False
        if self._pinging is not None:
            self._pinging.cancel()
        self._wait.lost()
        self.requests.fail_all(lambda: BusUnavailable("the connection to NATS was lost", executed="unknown"))
        self._tell(False)

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

    def _send_kept_replies(self) -> None:
        for reply, payload, block in self._kept_replies.release():
            try:
                self.publish(reply, payload, block)
            except MeshError as error:  # this server may take less in one message than the one before
                _log.warning("a reply that was kept while disconnected is lost: %s", error)

    def _own_ping_came(self) -> None:
        self._last_own_ping = self.now()

    def _tell(self, connected: bool) -> None:
        for callback in list(self._connection_callbacks):
            try:
                callback(connected)
            except Exception:
                _log.exception("a connection callback failed")
