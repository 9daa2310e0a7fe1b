"""The connection of a bus: opening and closing it, waiting for it, and what is known about it."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

from nats.aio.client import Client

from mesh.bus.connection_wait import ConnectionWait
from mesh.bus.fast_transport import FastTransport
from mesh.bus.kept_replies import KeptReplies
from mesh.bus.pending import Pending
from mesh.bus.requests import Requests
from mesh.bus.subscriptions import Subscriptions
from mesh.bus.supervised_connection import SupervisedConnection
from mesh.bus.write_queue import WriteQueue
from mesh.errors import BusUnavailable
from mesh.settings import BusSettings
from mesh.subjects import Subjects, new_id

OFFLINE = "not connected to NATS"

_log = logging.getLogger("mesh.bus")


class BusConnection(ABC):
    """What `Bus` is besides messages: the life of its connection. For an idle process::

    open()              connects in the background; callers wait in `wait_connected`
    _is_up()            subscriptions are in place: `connected` is True, `on_connection` callbacks get True
    _is_down()          the connection is lost: requests in flight fail, callbacks get False
    _is_up()            there is another one: `connections` is 2
    aclose()            the end; `closed` is True
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
        self.requests = Requests(self._inbox, self.send_unbundled)
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

        The log says why: the reason names servers, files and settings.
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
            "late_replies": self.requests.late if self._opened else 0,
            "ignored_replies": self.requests.ignored if self._opened else 0,
            "pending_requests": len(self.requests) if self._opened else 0,
        }

    def jetstream_client(self) -> Client:
        """nats-py's client, for JetStream inside ``mesh.bus`` only. Raises `BusUnavailable` while disconnected."""
        if self._client is None or not self.connected:
            raise BusUnavailable(OFFLINE)
        return self._client

    # -- for the subclass

    @abstractmethod
    def begin_sending(self) -> None:
        """Called with each connection, before the `on_connection` callbacks."""

    @abstractmethod
    def send_unbundled(self, bundled: list[Pending]) -> None:
        """Send the requests of a refused bundle again, each by itself."""

    @abstractmethod
    def refused(self, verb: str, subject: str) -> None:
        """The server does not permit to ``publish`` to that subject, or a ``subscription`` to it."""

    # -- callbacks of the supervised connection

    def _use_client(self, client: Client, fast_transport: FastTransport | None) -> None:
        self._client, self._fast_transport = client, fast_transport
        self._queue = fast_transport.queue if fast_transport is not None else None

    def _is_up(self) -> None:
        assert self._client is not None
        self._max_payload = self._client.max_payload
        self._own_ping_came()
        if not self.connected:
            self.connections += 1
        self.connected = True
        self._wait.connected()
        self.begin_sending()
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

    def _own_ping_came(self) -> None:
        self._last_own_ping = self.now()

    def _tell(self, connected: bool) -> None:
        for callback in list(self._connection_callbacks):
            try:
                callback(connected)
            except Exception:
                _log.exception("a connection callback failed")
