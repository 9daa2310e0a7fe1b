"""The gateway as a process: its parts, its two listeners, its order of starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self

import uvicorn

from gateway import health, ops
from gateway.access import AccessLog
from gateway.forward import Forwarder, Scope
from gateway.metrics import RequestMetrics
from mesh.announcer import Announcer, Load
from mesh.bus import Bus
from mesh.client import Caller
from mesh.config import BusSettings, GatewaySettings
from mesh.directory import Directory
from mesh.subjects import new_id
from mesh.version import VERSION
from mesh.watcher import SYNC_MARGIN_S, Watcher

KEEP_ALIVE_S = 75
"""Idle seconds that a connection is kept; longer than the 60 s of usual load balancers, so that they close first."""

_log = logging.getLogger("mesh.gateway")


class Listener(uvicorn.Server):
    """A uvicorn server on an open socket, which leaves signals to its process."""

    def __init__(self, app: Any, sock: socket.socket, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(grace_s)),
                backlog=2048,
            )
        )
        self.socket = sock
        self._running: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    async def start(self) -> None:
        self._running = asyncio.create_task(self.serve(sockets=[self.socket]), name="listener")
        while not self.started:
            if self._running.done():
                await self._running
                raise RuntimeError("the listener ended while it started")
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Close the listener and idle connections, wait for requests (bounded)."""
        self.should_exit = True
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        self.socket.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError with the address in its text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


class Gateway:
    """The whole gateway; ``async with`` starts and drains it. ``port`` and ``ops_port`` are the real ones."""

    def __init__(
        self,
        bus: BusSettings,
        settings: GatewaySettings,
        *,
        text_log: bool | None = None,
        sync_margin_s: float = SYNC_MARGIN_S,
    ) -> None:
        self.id = new_id()
        self.settings = settings
        self.bus = Bus(bus, service="gateway", instance=self.id)
        self.watcher = Watcher(self.bus, window_ms=settings.window_ms, margin_s=sync_margin_s)
        self.directory = Directory(self.watcher, owners=settings.owners, reserved=health.RESERVED)
        self.caller = Caller(self.bus, self.watcher)
        self.metrics = RequestMetrics()
        self.stop_requested = asyncio.Event()
        started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        facts = {"name": "gateway", "id": self.id, "version": VERSION, "started": started}
        self.health = health.Health(self.bus, self.watcher, self.directory, facts)
        text = sys.stderr.isatty() if text_log is None else text_log
        self.access = AccessLog(enabled=settings.access_log, text=text)
        self.forwarder = Forwarder(
            self.bus,
            self.watcher,
            self.directory,
            self.caller,
            settings,
            own=self._own,
            is_own=health.is_own,
            metrics=self.metrics,
            access=self.access,
        )
        self.announcer = Announcer(
            self.bus,
            version=VERSION,
            description="HTTP gateway",
            load=lambda: Load(self.forwarder.inflight, settings.max_inflight),
        )
        self._ops_app = ops.build(self.bus, self.watcher, self.directory, self.health, self.metrics, facts)
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._control: list[Any] = []

    @property
    def port(self) -> int:
        return self._listeners[0].port

    @property
    def ops_port(self) -> int:
        return self._listeners[1].port

    async def start(self) -> None:
        """Open the listeners and begin to watch. Without NATS the gateway is up too, and answers 503."""
        settings = self.settings
        sockets = [listen(settings.host, settings.port)]
        try:
            sockets.append(listen(settings.ops_host, settings.ops_port))
        except OSError:
            sockets[0].close()
            raise
        self.bus.open()
        await self.watcher.start()
        subjects = self.bus.subjects
        for subject in (subjects.control("drain", "gateway"), subjects.control("drain", "gateway", self.id)):
            self._control.append(await self.bus.subscribe(subject, self._asked_to_drain))
        for app, sock in zip((self.forwarder, self._ops_app), sockets, strict=True):
            listener = Listener(app, sock, settings.drain_s)
            self._listeners.append(listener)
            await listener.start()
        await self.announcer.start("starting")
        self._tasks = [
            asyncio.create_task(self._become_ready(), name="readiness"),
            asyncio.create_task(self._expire(), name="route memory"),
        ]
        _log.info("gateway %s listens on %s:%d", self.id, settings.host, self.port)

    async def drain(self) -> None:
        """Readiness fails first, connections are told to close, then the listener closes and requests end."""
        self.health.draining = self.forwarder.draining = True
        if self.bus.connected:
            self.announcer.declare("draining")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))
        await self.announcer.aclose()
        await self.watcher.aclose()
        self.forwarder.aclose()
        if self.bus.connected:
            with contextlib.suppress(Exception):
                await self.bus.flush(2)
        await self.bus.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    # -- parts

    def _own(self, scope: Scope) -> tuple[int, Any]:
        return self.health.answer(scope["path"], scope["query_string"], self.forwarder.shows_routes(scope))

    def _asked_to_drain(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        self.stop_requested.set()

    async def _become_ready(self) -> None:
        await self.watcher.synchronised.wait()
        self.announcer.declare("ready")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.directory.expire()
