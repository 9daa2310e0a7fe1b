"""One supervised connection to NATS: it comes back whatever happens to it.

nats-py reconnects after an ordinary loss and replays its subscriptions. Everything else is added here: jitter
between attempts, a new client when the old one was closed for good (any -ERR of the server does that), a
reconnect when the server has gone silent, and the choice between hot lane and plain nats-py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any, Protocol, TypeVar
from urllib.parse import ParseResult

from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription as NatsSubscription

from mesh.bus.connect_failures import Failures
from mesh.bus.connection_errors import Reason, ServerSaid, reason_of
from mesh.bus.encryption_guard import Guard
from mesh.bus.fast_transport import FastTransport
from mesh.bus.guarded_transports import GuardedTcp, GuardedWebSocket
from mesh.bus.login import Login
from mesh.bus.nats_contract import Use, check_contract, require
from mesh.bus.nats_errors import explain, forbidden_subject
from mesh.bus.without_aiohttp import provide
from mesh.settings import BusSettings
from mesh.tasks import keep

SILENCE_S = 4.0
"""Seconds without a byte after which the connection is replaced; the server's and our pings come each second."""

SPREAD_S = 0.25
"""Seconds that a subscription is given to get round a cluster. No server tells when the others know of it."""

_NO_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_log = logging.getLogger("mesh.bus")
T = TypeVar("T")


class Owner(Protocol):
    """What a link tells its bus."""

    held_up: Callable[[], str]

    async def attached(self, client: Client, lane: FastTransport | None, *, check: bool = True) -> None:
        """A new client is connected: subscribe everything on it, and ``check`` the lane. Raises to have it replaced."""

    def up(self) -> None:
        """Subscriptions are in place (again)."""

    def down(self) -> None:
        """The connection is lost; more than one call for one loss is possible."""

    def refused(self, verb: str, subject: str) -> None:
        """The server refused a publish or subscription for lack of permission."""

    def handles(self) -> list[NatsSubscription]:
        """nats-py's subscriptions on the client that is in use."""

    async def lame_duck(self) -> None:
        """The server says that it will close this connection soon."""


class SupervisedConnection:
    """Keeps one client connected until `aclose`."""

    def __init__(self, settings: BusSettings, name: str, inbox: str, owner: Owner) -> None:
        self.client: Client | None = None
        self.lane: FastTransport | None = None
        self.last_error = ""
        self._login = Login(settings)
        self.failures = Failures(self._login.servers)
        self.plain_because = self._choose_plain(settings)
        self.restarts = 0
        self._settings = settings
        self._name = name
        self._inbox = inbox
        self._owner = owner
        self._closing = False
        self._moving = False
        self._guard: Guard | None = None
        self._gone = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def _choose_plain(settings: BusSettings) -> str:
        """Why the fast transport is not used; empty if it is."""
        if settings.servers[0].startswith(("ws://", "wss://")):
            provide()
            return "NATS is reached over WebSocket"
        if settings.lane == "plain":
            return "MESH_LANE is plain"
        why = check_contract(Use.FAST_TRANSPORT)
        if why:
            _log.error("%s: using plain nats-py", why)
        return why

    @property
    def has_others(self) -> bool:
        """Whether another server is known: configured, or named by the one that was connected."""
        return self.client is not None and len(self.client.servers) > 1

    @property
    def server_info(self) -> dict[str, Any]:
        """The INFO of the server; empty before it came."""
        return self._guard.info if self._guard is not None else {}

    def start(self) -> None:
        """Begin connecting in the background; the owner hears ``up`` and ``down``."""
        self._tasks = [
            keep(self._supervise, "nats link"),
            keep(self._watch_silence, "nats silence watch"),
        ]

    async def aclose(self) -> None:
        """End the connection after what was published before has been written."""
        self._closing = True
        await _end(self._tasks)
        await self._discard()

    async def restart(self, why: str) -> None:
        """Replace the client: for a connection that is open but of no use."""
        _log.warning("connecting to NATS anew: %s", why)
        self.restarts += 1
        if self.lane is not None:
            self.lane.retire()
        self._gone.set()

    async def move(self) -> None:
        """Go to another server of the pool without a gap: the new connection is in use before the old one is left.

        Stays where there is no other server, or none that answers; the server closes the connection then, in its time.
        """
        old, old_lane = self.client, self.lane
        if old is None or self._moving:
            return
        self._moving = True
        try:
            here = old.connected_url.netloc if old.connected_url is not None else ""
            others = [server.geturl() for server in old.servers if server.netloc != here]
            if not others:
                return
            client, lane, guard = await _within(self._settings.connect_timeout_s, self._dial(others))
        except Exception as error:
            _log.warning("staying with a NATS server that is going away: %s", explain(error))
            return
        finally:
            self._moving = False
        if old is not self.client:  # it was lost meanwhile, and replaced
            await self._close(client)
            return
        handles = self._owner.handles()
        if old_lane is not None:
            old_lane.on_lost = _nothing
        self.client, self.lane, self._guard = client, lane, guard
        try:
            # Not checked: what we sent ourselves would come back on both connections.
            await self._owner.attached(client, lane, check=False)
        except Exception as error:
            await self._close(old)
            await self.restart(f"moving to another server failed: {explain(error)}")
            return
        self._announce_up(client)
        # From here on both connections have every subscription; what is on its way on the old one is still delivered.
        # A node that heard of the old one's end before the new one's beginning would say that nobody listens.
        try:
            await asyncio.sleep(SPREAD_S)
            for handle in handles:
                await handle.unsubscribe()
            for _ in range(2):  # a PING may overtake what nats-py has still to write, not twice
                await old.flush(2)
        except Exception as error:
            _log.debug("leaving the old connection: %s", error)
        finally:
            await self._close(old)
        _log.info("moved to the NATS server at %s", client.connected_url.netloc if client.connected_url else "?")

    # -- the life of clients

    async def _supervise(self) -> None:
        pause = 0.0
        # What an earlier run may have left behind when it failed.
        self._owner.down()
        await self._discard()
        while not self._closing:
            if pause:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(1.0, pause * 2 or 0.05)
            self._gone.clear()
            try:
                await self._connect()
                assert self.client is not None
                await self._owner.attached(self.client, self.lane)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._note(error, self._guard)
                await self._discard()
                continue
            pause = 0.0
            self._announce_up(self.client)
            await self._gone.wait()
            self._owner.down()
            await self._discard()

    def _announce_up(self, client: Client) -> None:
        if client is self.client and client.is_connected:
            if self.last_error:
                _log.info("connected to NATS at %s", client.connected_url.netloc if client.connected_url else "?")
            self.last_error = ""
            self.failures.clear()
            self._owner.up()

    async def _connect(self) -> None:
        client, self.lane, guard = self._new()
        self.client, self._guard = client, guard
        await self._open(client, list(self._login.servers), guard)

    async def _dial(self, servers: list[str]) -> tuple[Client, FastTransport | None, Guard]:
        """A connection to one of ``servers``, not in use yet. Raises where none can be had."""
        client, lane, guard = self._new()
        try:
            await self._open(client, servers, guard)
        except BaseException:
            await self._close(client)
            raise
        return client, lane, guard

    async def _open(self, client: Client, servers: list[str], guard: Guard) -> None:
        backoff = Backoff()
        await client.connect(**self._options(client, servers, backoff, guard))
        backoff.connected(client.connected_url)

    def _new(self) -> tuple[Client, FastTransport | None, Guard]:
        """A client whose every connection is under a guard. Raises `Refusal` if it can have none."""
        require(Use.CONNECTION)
        client, lane, guard = Client(), None, Guard(self._settings, self._guard.name if self._guard is not None else "")
        if guard.websocket:
            client._transport = GuardedWebSocket(guard)
        elif self.plain_because:
            client._transport = GuardedTcp(guard)
        else:
            client._transport = lane = FastTransport(self._owner.down, guard)
        return client, lane, guard

    def _options(self, client: Client, servers: list[str], backoff: Backoff, guard: Guard) -> dict[str, Any]:
        settings = self._settings

        # An old client's callbacks must not speak for its successor.
        async def disconnected() -> None:
            if client is not self.client:
                return
            self._owner.down()
            if not self._closing and not self.last_error:
                complaint = self.lane.complaint[5:].decode(errors="replace").strip() if self.lane is not None else ""
                error = ServerSaid(complaint) if complaint else client.last_error
                self._note(error or ConnectionResetError("the connection was lost"), guard)

        async def reconnected() -> None:
            backoff.connected(client.connected_url)
            if client is self.client:
                await self._owner.attached(client, self.lane)  # what was subscribed while disconnected
                self._announce_up(client)

        async def closed() -> None:
            if client is self.client:
                self._gone.set()

        async def lame_duck() -> None:
            if client is self.client:  # not here: this is the client's own reading task
                self._tasks.append(asyncio.create_task(self._owner.lame_duck(), name="nats move"))

        async def failed(error: Exception) -> None:
            refused = forbidden_subject(error)
            if refused:
                _log.error("NATS permissions do not allow %s to %s", *refused)
                self._owner.refused(*refused)
            elif "permissions violation" in str(error).lower():  # one of a kind that fails no request of ours
                _log.error("NATS: %s", str(error).removeprefix("nats: "))
            elif client is not self.client:
                _log.debug("a NATS connection that is not in use: %s", error)
            elif self._note(error, guard).final:
                client.options["reconnect_time_wait"] = random.uniform(0.5, 1.5)  # it stays so for a while

        return {
            "servers": servers,
            "name": self._name,
            # For what nats-py asks itself (JetStream): replies come below our own inbox too.
            "inbox_prefix": self._inbox,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            # Only the first connect waits this long between attempts; afterwards `Backoff` decides.
            "reconnect_time_wait": random.uniform(0.1, 0.3),
            # An attempt ends before the one who waits for a connection does, so that its reason can be told.
            "connect_timeout": settings.connect_timeout_s * 0.8,
            "ping_interval": 1,
            "max_outstanding_pings": 2,
            # Nothing is kept for later while disconnected: its caller would be gone when it is delivered.
            "pending_size": 0,
            "error_cb": failed,
            "disconnected_cb": disconnected,
            "reconnected_cb": reconnected,
            "closed_cb": closed,
            "lame_duck_mode_cb": lame_duck,
            "reconnect_to_server_handler": backoff,
            # Of no use: our transports make one for each connection, of the files as they are then.
            "tls": _NO_CONTEXT,
            **self._login.options(client, guard),
        }

    async def _discard(self) -> None:
        client, self.client = self.client, None
        self.lane = None
        if client is not None:
            await self._close(client)

    @staticmethod
    async def _close(client: Client) -> None:
        try:
            async with asyncio.timeout(2):
                await client.close()
        except Exception as error:
            _log.debug("closing an old NATS client: %s", error)
        finally:
            transport = client._transport
            if isinstance(transport, FastTransport):
                transport.retire()
            elif isinstance(transport, GuardedTcp | GuardedWebSocket):
                await transport.retire()

    # -- what went wrong

    def _note(self, error: BaseException, guard: Guard | None) -> Reason:
        where = guard.where if guard is not None else ""
        reason = reason_of(error, self._login.described, where.partition(":")[0], self._owner.held_up())
        if self.last_error and isinstance(error, ConnectionResetError | BrokenPipeError) and self.failures.knows(where):
            return reason  # what the server said before it closed the connection is why
        new = self.failures.note(where, reason)
        self.last_error = f"NATS at {where}: {reason.what}" if where else reason.what
        if new:  # a server that is down is reported once, not at every attempt
            _log.warning("%s; trying again%s", self.last_error, f" ({reason.todo})" if reason.todo else "")
        return reason

    async def _watch_silence(self) -> None:
        last_bytes, looked, quiet = 0.0, monotonic(), 0.0
        while True:
            await asyncio.sleep(0.5)
            # The server's time, not the loop's, which a test may have paused; and what this process itself stood
            # still is not the server's silence.
            now, client, lane = monotonic(), self.client, self.lane
            if client is not None and client.is_connected and gave_up(client):
                await self.restart("nats-py's reader gave up on a message")
                continue
            quiet, looked = quiet + min(now - looked, 1.0), now
            if client is None or lane is None or not client.is_connected or lane.last_bytes != last_bytes:
                last_bytes, quiet = lane.last_bytes if lane is not None else 0.0, 0.0
            elif quiet > SILENCE_S:
                await self.restart(f"no byte from the server for {SILENCE_S:g} s")


class Backoff:
    """Which server next, and after how many seconds: at random, and with jitter, so that a restarted server is not
    met by all its clients in one instant. The server that was lost comes last; every server is tried once before
    pauses grow. nats-py's own counts are no use for it: they are kept from one outage to the next."""

    def __init__(self) -> None:
        self._tried: Counter[str] = Counter()

    def connected(self, url: ParseResult | None) -> None:
        """A connection is there: what failed before it counts no more."""
        self._tried = Counter([url.netloc] if url is not None else [])

    def __call__(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        tried = self._tried
        fewest = min(tried[server.uri.netloc] for server in servers)
        choice = random.choice([server for server in servers if tried[server.uri.netloc] == fewest])
        tried[choice.uri.netloc] += 1
        longest = min(0.5, 0.02 * 2 ** min(fewest, 8))
        return choice, random.uniform(0, longest)


def gave_up(client: Client) -> bool:
    """True if nothing reads the connection any more: nats-py's reader ends silently at a subject that is not UTF-8."""
    reader = client._reading_task
    return reader is not None and reader.done()


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. Raises TimeoutError when it was not done by then, and has ended."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        await _end([task])
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until they are done: a cancellation that arrives together with a connection's outcome is lost in
    Python 3.11's ``wait_for``, and nats-py would go on trying to connect."""
    alive = {task for task in tasks if not task.done()}
    while alive:
        for task in alive:
            task.cancel()
        _, alive = await asyncio.wait(alive, timeout=0.1)


def _nothing() -> None:
    """For a connection that nobody uses any more."""
