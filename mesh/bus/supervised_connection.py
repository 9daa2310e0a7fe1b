"""One supervised connection to NATS: it comes back whatever happens to it.

nats-py reconnects after an ordinary loss and subscribes again. Everything else is added here: a pause with jitter
before each attempt (`mesh.bus.backoff`), a new client when the old one was closed for good (most -ERR lines of a server
do that), a new one when the server has gone silent or nats-py has stopped to read, the move to another server when this
one announces its end, and the choice between the fast transport and plain nats-py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar

from nats.aio.client import Client

from mesh.bus.backoff import Backoff
from mesh.bus.connect_failures import ConnectFailures
from mesh.bus.connection_errors import Failure, ServerSaid, failure_of
from mesh.bus.encryption_guard import Guard
from mesh.bus.fast_transport import FastTransport
from mesh.bus.guarded_transports import GuardedTcp, GuardedWebSocket
from mesh.bus.login import Login
from mesh.bus.nats_contract import Use, check_contract, require
from mesh.bus.nats_errors import explain, forbidden_subject
from mesh.bus.requests import Requests
from mesh.bus.subscriptions import Subscriptions
from mesh.bus.transport_check import check_transport
from mesh.bus.without_aiohttp import provide_aiohttp
from mesh.errors import BusUnavailable
from mesh.settings import BusSettings
from mesh.tasks import keep

SERVER_TIMEOUT_S: Final = 4.0
"""Seconds without a byte after which the connection is replaced: the server's pings and ours come each second."""

INTEREST_SPREAD_S: Final = 0.25
"""Seconds that a cluster is given to learn of a subscription. No server says when the others know it."""

_NO_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_log = logging.getLogger("mesh.bus")
T = TypeVar("T")


class _GuardedClient(NamedTuple):
    """A client of nats-py with the transport that it was given. ``fast_transport``: None on plain nats-py."""

    client: Client
    fast_transport: FastTransport | None
    guard: Guard


class SupervisedConnection:
    """Keeps one client of nats-py connected until `aclose`."""

    def __init__(
        self,
        settings: BusSettings,
        *,
        name: str,
        inbox: str,
        requests: Requests,
        subscriptions: Subscriptions,
        on_client: Callable[[Client, FastTransport | None], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_refused: Callable[[str, str], None],
        loop_blocked_by: Callable[[], str],
    ) -> None:
        """
        name: shown by the server for this connection.
        inbox: the prefix of the reply subjects of what nats-py itself asks (JetStream).
        requests: with which the fast transport is checked.
        subscriptions: put on each client before it is used.
        on_client: called with a client that is connected, before its subscriptions are in place.
        on_up: called when they are, at every (re)connection.
        on_down: called when the connection is lost, more than once for one loss perhaps.
        on_refused: called with ``publish`` or ``subscription`` and the subject that the server does not permit.
        loop_blocked_by: says what has blocked the event loop of late; empty if that is not known.
        """
        self.client: Client | None = None
        self.fast_transport: FastTransport | None = None
        self.last_error = ""
        self.plain_because = self._choose_plain(settings)
        """Why the fast transport is not used; empty if it is."""
        self.restarts = 0
        self._login = Login(settings)
        self.failures = ConnectFailures(self._login.servers)
        self._settings = settings
        self._name = name
        self._inbox = inbox
        self._requests = requests
        self._subscriptions = subscriptions
        self._on_client = on_client
        self._on_up = on_up
        self._on_down = on_down
        self._on_refused = on_refused
        self._loop_blocked_by = loop_blocked_by
        self._closing = False
        self._moving = False
        self._guard: Guard | None = None
        self._gone = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def _choose_plain(settings: BusSettings) -> str:
        if settings.servers[0].startswith(("ws://", "wss://")):
            provide_aiohttp()
            return "NATS is reached over WebSocket"
        if settings.lane == "plain":
            return "MESH_LANE is plain"
        why = check_contract(Use.FAST_TRANSPORT)
        if why:
            _log.error("%s: using plain nats-py", why)
        return why

    @property
    def has_others(self) -> bool:
        """True if another server is known: configured, or named by the one that was connected."""
        return self.client is not None and len(self.client.servers) > 1

    @property
    def server_info(self) -> dict[str, Any]:
        """The INFO of the server; empty before it came."""
        return self._guard.info if self._guard is not None else {}

    def start(self) -> None:
        """Begin to connect in the background."""
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
        """Replace the client, whose connection is open but of no use. ``why`` goes to the log."""
        _log.warning("connecting to NATS again: %s", why)
        self.restarts += 1
        if self.fast_transport is not None:
            self.fast_transport.retire()
        self._gone.set()

    async def move(self) -> None:
        """Move to another server of the pool without a gap: the new connection is used before the old one is closed.

        Stays if there is no other server, or none that can be reached: then this server closes the connection itself.
        """
        old, old_transport = self.client, self.fast_transport
        if old is None or self._moving:
            return
        self._moving = True
        try:
            here = old.connected_url.netloc if old.connected_url is not None else ""
            others = [server.geturl() for server in old.servers if server.netloc != here]
            if not others:
                return
            new = await _within(self._settings.connect_timeout_s, self._dial(others))
        except Exception as error:
            _log.warning("staying with a NATS server that is going away: %s", explain(error))
            return
        finally:
            self._moving = False
        if old is not self.client:  # meanwhile it was lost and replaced
            await self._close(new.client)
            return
        handles = self._subscriptions.handles()
        if old_transport is not None:
            old_transport.on_lost = _nothing
        client = new.client
        self.client, self.fast_transport, self._guard = new
        try:
            # Not checked: a message that we send ourselves would come back on both connections.
            await self._attach(client, new.fast_transport, check=False)
        except Exception as error:
            await self._close(old)
            await self.restart(f"moving to another server failed: {explain(error)}")
            return
        self._announce_up(client)
        # Now both connections have every subscription, and what is on its way on the old one is still delivered. A node
        # of the cluster that learnt of the old one's end before the new one's beginning would say that nobody listens.
        try:
            await asyncio.sleep(INTEREST_SPREAD_S)
            for handle in handles:
                await handle.unsubscribe()
            for _ in range(2):  # a PING may overtake what nats-py has still to write, not twice
                await old.flush(2)
        except Exception as error:
            _log.debug("leaving the old connection: %s", error)
        finally:
            await self._close(old)
        _log.info("moved to the NATS server at %s", client.connected_url.netloc if client.connected_url else "?")

    # -- clients, one after the other

    async def _supervise(self) -> None:
        pause = 0.0
        # An earlier run that failed may have left these behind.
        self._on_down()
        await self._discard()
        while not self._closing:
            if pause:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(1.0, pause * 2 or 0.05)
            self._gone.clear()
            try:
                await self._connect()
                assert self.client is not None
                await self._attach(self.client, self.fast_transport)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._note(error, self._guard)
                await self._discard()
                continue
            pause = 0.0
            self._announce_up(self.client)
            await self._gone.wait()
            self._on_down()
            await self._discard()

    async def _attach(self, client: Client, fast_transport: FastTransport | None, *, check: bool = True) -> None:
        """Use a client that is connected: put the subscriptions on it, and check the fast transport of a new one.

        Raises what the client has to be replaced for.
        """
        is_new = client is not self._subscriptions.client
        self._on_client(client, fast_transport)
        await self._subscriptions.attach(client, fast_transport)
        if fast_transport is not None and is_new and check:
            why = await check_transport(self._requests, client, fast_transport)
            if why:
                self.plain_because = why
                _log.error("the hot lane does not work here (%s): using plain nats-py", why)
                raise BusUnavailable(why)

    async def _leave_lame_duck(self) -> None:
        """The server says that it will close this connection soon."""
        _log.info("the NATS server is going away: moving to another one")
        await self.move()

    def _announce_up(self, client: Client) -> None:
        if client is self.client and client.is_connected:
            if self.last_error:
                _log.info("connected to NATS at %s", client.connected_url.netloc if client.connected_url else "?")
            self.last_error = ""
            self.failures.clear()
            self._on_up()

    async def _connect(self) -> None:
        self.client, self.fast_transport, self._guard = new = self._new()
        await self._open(new, list(self._login.servers))

    async def _dial(self, servers: list[str]) -> _GuardedClient:
        """Connect to one of ``servers``, without use of the connection yet. Raises if none can be reached."""
        new = self._new()
        try:
            await self._open(new, servers)
        except BaseException:
            await self._close(new.client)
            raise
        return new

    async def _open(self, new: _GuardedClient, servers: list[str]) -> None:
        backoff = Backoff()
        await new.client.connect(**self._options(new.client, servers, backoff, new.guard))
        backoff.connected(new.client.connected_url)

    def _new(self) -> _GuardedClient:
        """Make a client whose every connection is under a guard. Raises `Refusal` if it cannot have one."""
        require(Use.CONNECTION)
        client, fast_transport = Client(), None
        guard = Guard(self._settings, self._guard.name if self._guard is not None else "")
        if guard.websocket:
            client._transport = GuardedWebSocket(guard)
        elif self.plain_because:
            client._transport = GuardedTcp(guard)
        else:
            client._transport = fast_transport = FastTransport(self._on_down, guard)
        return _GuardedClient(client, fast_transport, guard)

    def _options(self, client: Client, servers: list[str], backoff: Backoff, guard: Guard) -> dict[str, Any]:
        settings = self._settings

        # An old client's callbacks must not speak for its successor.
        async def disconnected() -> None:
            if client is not self.client:
                return
            self._on_down()
            if not self._closing and not self.last_error:
                said = self.fast_transport.server_error if self.fast_transport is not None else ""
                error = ServerSaid(said) if said else client.last_error
                self._note(error or ConnectionResetError("the connection was lost"), guard)

        async def reconnected() -> None:
            backoff.connected(client.connected_url)
            if client is self.client:
                await self._attach(client, self.fast_transport)  # what was subscribed while disconnected
                self._announce_up(client)

        async def closed() -> None:
            if client is self.client:
                self._gone.set()

        async def lame_duck() -> None:
            if client is self.client:  # not here: this is the client's own reading task
                self._tasks.append(asyncio.create_task(self._leave_lame_duck(), name="nats move"))

        async def failed(error: Exception) -> None:
            refused = forbidden_subject(error)
            if refused:
                _log.error("NATS permissions do not allow %s to %s", *refused)
                self._on_refused(*refused)
            elif "permissions violation" in str(error).lower():  # of another kind: no request of ours fails by it
                _log.error("NATS: %s", str(error).removeprefix("nats: "))
            elif client is not self.client:
                _log.debug("a NATS connection that is not in use: %s", error)
            elif self._note(error, guard).final:
                client.options["reconnect_time_wait"] = random.uniform(0.5, 1.5)  # the reason stays for a while

        return {
            "servers": servers,
            "name": self._name,
            # For what nats-py asks itself (JetStream): replies come below our own inbox too.
            "inbox_prefix": self._inbox,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            # Only the first connect waits this long between attempts; afterwards `Backoff` decides.
            "reconnect_time_wait": random.uniform(0.1, 0.3),
            # An attempt ends before those who wait for a connection do, so that they can be told its reason.
            "connect_timeout": settings.connect_timeout_s * 0.8,
            "ping_interval": 1,
            "max_outstanding_pings": 2,
            # Nothing is kept for later while disconnected: its caller would be gone by the time it is delivered.
            "pending_size": 0,
            "error_cb": failed,
            "disconnected_cb": disconnected,
            "reconnected_cb": reconnected,
            "closed_cb": closed,
            "lame_duck_mode_cb": lame_duck,
            "reconnect_to_server_handler": backoff,
            # Not used: our transports make a context for each connection, from the files as they are then.
            "tls": _NO_CONTEXT,
            **self._login.options(client, guard),
        }

    async def _discard(self) -> None:
        client, self.client = self.client, None
        self.fast_transport = None
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

    def _note(self, error: BaseException, guard: Guard | None) -> Failure:
        where = guard.where if guard is not None else ""
        reason = failure_of(error, self._login.described, where.partition(":")[0], self._loop_blocked_by())
        if self.last_error and isinstance(error, ConnectionResetError | BrokenPipeError) and self.failures.knows(where):
            return reason  # the server said why before it closed the connection
        new = self.failures.note(where, reason)
        self.last_error = f"NATS at {where}: {reason.what}" if where else reason.what
        if new:  # a server that is down is reported once, not at every attempt
            _log.warning("%s; trying again%s", self.last_error, f" ({reason.todo})" if reason.todo else "")
        return reason

    async def _watch_silence(self) -> None:
        last_bytes, looked, quiet = 0.0, monotonic(), 0.0
        while True:
            await asyncio.sleep(0.5)
            # Not the loop's clock, which a test may have paused. A time in which this process itself was stopped does
            # not count as the server's silence.
            now, client, fast = monotonic(), self.client, self.fast_transport
            if client is not None and client.is_connected and gave_up(client):
                await self.restart("nats-py's reader gave up on a message")
                continue
            quiet, looked = quiet + min(now - looked, 1.0), now
            if client is None or fast is None or not client.is_connected or fast.last_bytes != last_bytes:
                last_bytes, quiet = fast.last_bytes if fast is not None else 0.0, 0.0
            elif quiet > SERVER_TIMEOUT_S:
                await self.restart(f"no byte from the server for {SERVER_TIMEOUT_S:g} s")


def gave_up(client: Client) -> bool:
    """True if nothing reads the connection any more: nats-py's reader ends silently at a subject that is not UTF-8."""
    reader = client._reading_task
    return reader is not None and reader.done()


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``. Raises TimeoutError if it is late; it has ended by then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        await _end([task])
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are done: Python 3.11's ``wait_for`` loses a cancellation that arrives together with the
    outcome of a connection, and nats-py would go on to connect."""
    alive = {task for task in tasks if not task.done()}
    while alive:
        for task in alive:
            task.cancel()
        _, alive = await asyncio.wait(alive, timeout=0.1)


def _nothing() -> None:
    """The ``on_lost`` of a connection that is not used any more."""
