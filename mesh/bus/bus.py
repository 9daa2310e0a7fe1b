"""The bus: publish, subscribe, request, on a connection that heals itself.

The one seam between the mesh and nats-py. Callbacks are plain functions that get bytes; publishing is a plain
call that either puts the message on its way or raises at once. Nothing waits for a connection that is not there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from mesh.bus import plain_client
from mesh.bus.bundles import Takers
from mesh.bus.connection_errors import NO_NATS, Reason
from mesh.bus.fast_transport import FastTransport
from mesh.bus.frames import Deliver
from mesh.bus.held_replies import HeldReplies
from mesh.bus.nats_errors import translate
from mesh.bus.requests import Ending, Pending, Reply, Requests
from mesh.bus.subscription import Subscription
from mesh.bus.supervised_connection import SupervisedConnection
from mesh.bus.transport_check import probe
from mesh.errors import BusUnavailable, Forbidden, MeshError, NoConnection, TooLarge
from mesh.settings import BusSettings
from mesh.settings_reader import redact
from mesh.subjects import Subjects, check_subject, new_id
from mesh.tasks import keep

BLINK_S = 0.045
"""How long after a loss a request waits for the next connection before it is refused."""
FAILOVER_S = 0.25
"""The same where another server of the cluster is known: it may take a second attempt."""

MOST_APART = 4096

OFFLINE = "not connected to NATS"

_log = logging.getLogger("mesh.bus")


class Bus:
    """A connection of one party (a service instance, a gateway, a client) to one mesh.

    ::

        async with Bus(settings, service="users", instance=new_id()) as bus:
            await bus.subscribe("mesh.event.hello", lambda subject, reply, block, payload: print(payload))
            bus.publish(bus.address("mesh.event.hello"), b"hi")
    """

    def __init__(
        self, settings: BusSettings, *, service: str = "client", instance: str = "", patience_s: float = float("inf")
    ) -> None:
        """``patience_s``: after how many seconds entering gives up where every server has failed to connect, for one
        who waits before a screen; otherwise only reasons that stay end it before ``connect_timeout_s``."""
        self.settings = settings
        self.subjects = Subjects(settings.prefix)
        self.service = service
        self.instance = instance or new_id()
        self.connected = False
        self.held_up: Callable[[], str] = lambda: ""
        """Who has held up the event loop of late, for a message; empty for nobody that is known."""
        self.connections = 0
        """How many connections there have been, the current one included; moving to another server makes none."""
        self._inbox = self.subjects.inbox(service, self.instance, new_id())
        self.requests: Requests
        self.now: Callable[[], float]  # seconds of the event loop's clock
        self._link: SupervisedConnection
        self._lane: FastTransport | None = None
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []
        self._watchers: list[Callable[[bool], None]] = []
        self._is_up = asyncio.Event()
        self._max_payload = 1024 * 1024
        self._bundles = settings.bundles
        self.takers = Takers()
        self._apart: set[bytes] = set()
        """Places (subjects without their last token, ending in a dot) whose receivers cannot answer bundles."""
        self._said_apart = False
        self._lost_at = float("-inf")
        self._held = HeldReplies()
        self._echoes = 0.0
        self._echoing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._adopt: Callable[[bytes, bytes], Any] | None = None
        self._orphan: Callable[[bytes, bytes], None] | None = None
        self._opened = False
        self._patience_s = patience_s

    # -- life

    def open(self) -> None:
        """Start connecting in the background. Use `wait_connected` where the first connection matters."""
        assert not self._opened, "a bus is opened once"
        self._opened = True
        self.now = asyncio.get_running_loop().time
        self.requests = Requests(self._inbox)
        self.requests.adopt, self.requests.orphan = self._adopt, self._orphan
        self.requests.apart = self._send_apart
        self._subscriptions.insert(0, Subscription(self._inbox + ".*", "", self.requests.deliver))
        self._link = SupervisedConnection(self.settings, f"{self.service}.{self.instance}", self._inbox + ".js", self)
        self._link.start()

    async def wait_connected(self, timeout: float) -> None:
        """Raise `BusUnavailable`, with the reason, when there is no connection within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._is_up.wait()
        except TimeoutError:
            raise self._not_connected() from None

    async def _connect(self) -> None:
        """Return with the first connection. Raises `BusUnavailable` when it is late, and as soon as every server has
        refused for a reason that stays, or after ``patience_s`` for any reason."""
        failures = self._link.failures
        up, over = (asyncio.ensure_future(event.wait()) for event in (self._is_up, failures.hopeless))
        left = self.settings.connect_timeout_s
        patience = min(left, self._patience_s)
        try:
            done, _ = await asyncio.wait((up, over), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done and not failures.everywhere:
                await asyncio.wait((up, over), timeout=left - patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            over.cancel()
        if not self.connected:
            raise self._not_connected()

    def _not_connected(self) -> BusUnavailable:
        where = ", ".join(redact(url) for url in self.settings.servers)
        reason = self._link.failures.summary() or Reason("no answer", NO_NATS, final=False)
        return NoConnection(f"no NATS at {where}: {reason.what}", hint=reason.todo)

    async def blink(self) -> None:
        """Return when connected; otherwise at the latest `BLINK_S` (`FAILOVER_S`) after the connection was lost.

        Going over to another server of a cluster takes some milliseconds: not worth an error to anybody.
        """
        if self.connected:
            return
        left = self._lost_at + (FAILOVER_S if self._link.has_others else BLINK_S) - self.now()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._is_up.wait()
            except TimeoutError:
                pass

    async def aclose(self) -> None:
        """Close now; what was published before is written first. May be called twice."""
        if not self._opened:
            return
        self._opened = False
        self.connected = False
        self.requests.aclose()
        for task in (*self._background, self._echoing):
            if task is not None:
                task.cancel()
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        self.open()
        try:
            await self._connect()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(True)`` at every (re)connection, after subscriptions are in place, ``(False)`` at a loss."""
        self._watchers.append(callback)

    def on_stream(self, adopt: Callable[[bytes, bytes], Any], orphan: Callable[[bytes, bytes], None]) -> None:
        """Whom to give replies that begin a stream, and messages for streams that are over; see `Requests`."""
        self._adopt, self._orphan = adopt, orphan
        if self._opened:
            self.requests.adopt, self.requests.orphan = adopt, orphan

    # -- facts

    @property
    def closed(self) -> bool:
        """Whether there will be no connection any more."""
        return not self._opened

    @property
    def has_others(self) -> bool:
        """Whether another server of the cluster is known."""
        return self._link.has_others

    @property
    def lane(self) -> bool:
        """Whether messages take the hot lane, rather than plain nats-py."""
        return self._lane is not None

    @property
    def last_bytes(self) -> float:
        """Event-loop time of the last sign of life from the server, in seconds."""
        return self._lane.last_bytes if self._lane is not None else self._echoes

    @property
    def silence(self) -> float:
        """Seconds without a byte that just ended: what arrives now may be that old. Always 0.0 on plain nats-py."""
        return self._lane.silence if self._lane is not None else 0.0

    @property
    def last_error(self) -> str:
        """That there is no connection, as a sentence that anybody may read; empty while there is one.

        Why there is none is in the log: it names servers, files and settings.
        """
        return OFFLINE if self._link.last_error else ""

    @property
    def max_payload(self) -> int:
        """Bytes that header block and payload of one message may have together, as the server says."""
        return self._max_payload

    @property
    def server(self) -> dict[str, Any]:
        """The connected server's INFO (``version``, ``server_name``, ``jetstream``, ...); empty when not connected."""
        client = self._client
        return dict(getattr(client, "_server_info", {})) if client is not None and self.connected else {}

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written to NATS."""
        return self._lane.buffered if self._lane is not None else 0

    async def writable(self) -> None:
        """Return when NATS has taken most of what was published."""
        if self._lane is not None:
            await self._lane.writable()

    def statistics(self) -> dict[str, int]:
        """Counters of this process's connection since it was made."""
        client, lane = self._client, self._lane
        stats = dict(client.stats) if client is not None else {}
        return {
            "in_msgs": lane.frames.in_msgs if lane else stats.get("in_msgs", 0),
            "in_bytes": lane.frames.in_bytes if lane else stats.get("in_bytes", 0),
            "out_msgs": (lane.out_msgs if lane else 0) + stats.get("out_msgs", 0),
            "reconnects": stats.get("reconnects", 0) + (self._link.restarts if self._opened else 0),
            "dropped_frames": lane.frames.dropped if lane else 0,
            "dropped_replies": self._held.dropped,
            "late_replies": self.requests.late if self._opened else 0,
            "ignored_replies": self.requests.ignored if self._opened else 0,
            "pending_requests": len(self.requests) if self._opened else 0,
        }

    def jetstream_client(self) -> Client:
        """nats-py's client, for JetStream inside ``mesh.bus`` only. Raises `BusUnavailable` while disconnected."""
        if self._client is None or not self.connected:
            raise BusUnavailable(OFFLINE)
        return self._client

    # -- messages out

    def address(self, subject: str) -> bytes:
        """A checked subject to publish to; keep it, the check is not for the hot path. Raises `BadSubject`."""
        return check_subject(subject).encode()

    def publish(self, address: bytes, payload: bytes, block: bytes = b"", reply: bytes = b"") -> None:
        """Send one message; ``block`` is a header block of `mesh.headers.encode`.

        Raises `BusUnavailable` while disconnected, `TooLarge` over the server's max_payload (nats-py checks only
        the payload, and the server closes the connection for the rest), `Overloaded` when NATS does not keep up.
        """
        if not self.connected:
            raise BusUnavailable(OFFLINE)
        size = len(payload) + len(block)
        if size > self._max_payload:
            raise TooLarge(f"message of {size} bytes; NATS takes {self._max_payload}")
        lane = self._lane
        if lane is None:
            assert self._client is not None
            plain_client.publish(self._client, self._background, address, payload, block, reply)
        elif block:
            if reply:
                lane.send(b"HPUB %b %b %d %d\r\n" % (address, reply, len(block), size), block, payload, b"\r\n")
            else:
                lane.send(b"HPUB %b %d %d\r\n" % (address, len(block), size), block, payload, b"\r\n")
        elif reply:
            lane.send(b"PUB %b %b %d\r\n" % (address, reply, size), payload, b"\r\n")
        else:
            lane.send(b"PUB %b %d\r\n" % (address, size), payload, b"\r\n")

    def reply(self, reply: bytes, payload: bytes, block: bytes) -> None:
        """Answer to a request's reply subject, which must have passed `Subjects.may_reply`.

        While disconnected the reply is kept for a while: its caller may wait on another server of the cluster. Raises
        `TooLarge` only.
        """
        if self.connected:
            cut = reply.rfind(b".") + 1
            place, lane = reply[:cut], self._lane
            if (
                lane is None
                or place not in self.takers
                or not block
                or not lane.bundle(place, reply[cut:], b"", block, payload, None)
            ):
                self.publish(reply, payload, block)
            return
        size = len(payload) + len(block)
        if size > self._max_payload:
            raise TooLarge(f"message of {size} bytes; NATS takes {self._max_payload}")
        self._held.keep(reply, payload, block)

    # -- messages in

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str = "") -> Subscription:
        """Call ``deliver(subject, reply, block, payload)`` for every message on ``subject``, from now on.

        While disconnected the subscription waits for the connection. `flush` tells when the server has it.
        """
        check_subject(subject, wildcards=True)
        subscription = Subscription(subject, queue, deliver)
        self._subscriptions.append(subscription)
        if self._client is not None and self._client.is_connected:
            await subscription.attach(self._client, self._lane)
        return subscription

    async def unsubscribe(self, *subscriptions: Subscription) -> None:
        """End subscriptions; returns when every message that the server had sent for them has been delivered."""
        ended: list[NatsSubscription] = []
        for subscription in subscriptions:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            handle = await subscription.detach(self._client, self._lane)
            if handle is not None:
                ended.append(handle)
        if self._lane is not None and ended:
            try:
                await self.flush()
            except MeshError as error:
                _log.debug("unsubscribe: %s", error)
            for handle in ended:
                if self._lane is not None:
                    self._lane.frames.routes.pop(b"%d" % handle._id, None)

    async def flush(self, timeout: float = 5.0) -> None:
        """Return when the server has processed everything sent before: a message to our own inbox came back.

        nats-py's own ``flush`` loses its read loop when it times out. Raises `DeadlineExceeded`, `BusUnavailable`.
        """
        pending = self.requests.open(timeout, lenient=True)
        try:
            if self._client is None or not self.connected:
                raise BusUnavailable(OFFLINE)
            # Through nats-py, behind the SUB and UNSUB commands that it still holds.
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
        """Send a request and wait for its one reply.

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
        settle: Callable[[Ending], None],
        *,
        lenient: bool = False,
        place: bytes = b"",
    ) -> Pending:
        """Like `request`, for a caller who is called with what it ends with; ``Requests.close`` ends it before.

        ``place`` is the address without its last token, where its receiver takes bundles.
        """
        pending = self.requests.expect(timeout, settle, lenient=lenient)
        lane = self._lane
        if place and lane is not None and self.connected and place not in self._apart:
            names = b"%b %b" % (address[len(place) :], pending.token)
            if lane.bundle(place, names, pending.reply, block, payload, pending):
                pending.address = address
                pending.message = (block, payload)
                return pending
        self._post(pending, address, payload, block)
        return pending

    def _send_apart(self, bundled: list[Pending]) -> None:
        """Send requests again, each by itself, and those to that receiver from now on."""
        place = bundled[0].address[: bundled[0].address.rindex(b".") + 1]
        if len(self._apart) >= MOST_APART:
            self._apart.clear()  # instances come and go
        self._apart.add(place)
        if not self._said_apart:
            self._said_apart = True
            receiver = place.decode("ascii", "replace").rstrip(".")
            _log.info("no bundles to %s and its like: NATS maps replies there, as between accounts", receiver)
        for pending in bundled:
            block, payload = pending.message
            try:
                self.publish(pending.address, payload, block, pending.reply)
            except MeshError as error:
                self.requests.fail(pending, error)

    def expect_answers(self) -> None:
        """Said while a message is received: its answer, and those of others, may follow in this turn already."""
        if self._lane is not None:
            self._lane.answering = True

    def _post(self, pending: Pending, address: bytes, payload: bytes, block: bytes) -> None:
        pending.address = address
        try:
            self.publish(address, payload, block, pending.reply)
        except BaseException:
            self.requests.close(pending)
            raise

    @asynccontextmanager
    async def gather(self, address: bytes, payload: bytes, block: bytes = b"") -> AsyncIterator[asyncio.Queue[Reply]]:
        """Publish to many and collect their replies in a queue for as long as the context lasts."""
        replies: asyncio.Queue[Reply] = asyncio.Queue()
        reply = self.requests.open_stream(lambda block, payload: replies.put_nowait(Reply(block, payload)))
        try:
            self.publish(address, payload, block, reply)
            yield replies
        finally:
            self.requests.close_stream(reply)

    # -- what the link tells (Owner)

    async def attached(self, client: Client, lane: FastTransport | None, *, check: bool = True) -> None:
        fresh = check and client is not self._client
        self._client, self._lane = client, lane
        for subscription in list(self._subscriptions):
            if subscription.client is not client:
                await subscription.attach(client, lane)
        if lane is not None and fresh and (why := await probe(self.requests, client, lane)):
            self._link.plain_because = why
            _log.error("the hot lane does not work here (%s): using plain nats-py", why)
            raise BusUnavailable(why)

    def up(self) -> None:
        assert self._client is not None
        self._max_payload = self._client.max_payload
        if self._lane is not None:
            self._lane.bundle_up_to(self._max_payload if self._bundles else 0)
        self._heard()
        if not self.connected:
            self.connections += 1
        self.connected = True
        self._is_up.set()
        self._send_held()
        if self._lane is None:
            if self._echoing is not None:
                self._echoing.cancel()
            self._echoing = keep(partial(plain_client.echo, self.requests, self.publish, self._heard), "nats echo")
        self._tell(True)

    def _send_held(self) -> None:
        for reply, payload, block in self._held.release():
            try:
                self.publish(reply, payload, block)
            except MeshError as error:  # this server takes less in one message than the one before, say
                _log.warning("a reply that was kept while disconnected is lost: %s", error)

    def _heard(self) -> None:
        self._echoes = self.now()

    def down(self) -> None:
        if not self.connected:
            return
        self.connected = False
        if self._echoing is not None:
            self._echoing.cancel()
        self._lost_at = self.now()
        self._is_up.clear()
        self.requests.fail_all(lambda: BusUnavailable("the connection to NATS was lost", executed="unknown"))
        self._tell(False)

    def refused(self, verb: str, subject: str) -> None:
        if verb == "publish":
            if subject.endswith(".+") and self._lane is not None:
                _log.warning("bundles are off from now on: allow %s*, or set MESH_BUNDLES=off", subject[:-1])
                self._bundles = False
                self._lane.bundle_up_to(0)
            self.requests.fail_address(
                subject.encode(),
                lambda: Forbidden(f"NATS permissions do not allow publishing to {subject}", reason="bus_permission"),
            )

    def handles(self) -> list[NatsSubscription]:
        return [s.handle for s in self._subscriptions if s.handle is not None and s.client is self._client]

    async def lame_duck(self) -> None:
        _log.info("the NATS server is going away: moving to another one")
        await self._link.move()

    def _tell(self, connected: bool) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(connected)
            except Exception:
                _log.exception("a connection callback failed")
