"""The gateway as a process: its parts, its two listeners, its order of starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

from gateway import health, operator_plane
from gateway.access_log import AccessLog
from gateway.asgi_lane import AsgiLane
from gateway.conflict_notices import ConflictNotices
from gateway.http_connection import public_protocol
from gateway.listener import Listener
from gateway.listening_sockets import listen
from gateway.request_lifecycle import RequestLifecycle
from gateway.request_metrics import RequestMetrics
from gateway.websocket_connection import websocket_protocol
from mesh.announcer import Announcer, Load
from mesh.bus import Bus
from mesh.client import Caller
from mesh.foreign import ForeignWatch
from mesh.live_routes import LiveRoutes
from mesh.settings import BusSettings, GatewaySettings
from mesh.streams import Streams
from mesh.subjects import new_id
from mesh.tasks import keep
from mesh.version import VERSION
from mesh.watcher import SYNC_MARGIN_S, Watcher

_log = logging.getLogger("mesh.gateway")


class Gateway:
    """The whole gateway; ``async with`` starts and drains it. ``port`` and ``ops_port`` are the real ones.

    ``sockets``: listening ones that another process owns too, for clients, the last for the operator's plane. Then
    this is one of several gateways behind them: it begins to accept when it knows the live instances, and not before.
    """

    def __init__(
        self,
        bus: BusSettings,
        settings: GatewaySettings,
        *,
        sockets: Sequence[socket.socket] = (),
        text_log: bool | None = None,
        sync_margin_s: float = SYNC_MARGIN_S,
    ) -> None:
        self.id = new_id()
        self.settings = settings
        self.bus = Bus(bus, service="gateway", instance=self.id)
        self.watcher = Watcher(self.bus, window_ms=settings.window_ms, margin_s=sync_margin_s)
        self.conflicts = ConflictNotices(self.bus)
        self.live_routes = LiveRoutes(
            self.watcher, owners=settings.owners, reserved=health.RESERVED, on_conflicts=self.conflicts.changed
        )
        self.streams = Streams(self.bus)
        self.caller = Caller(self.bus, self.watcher, self.streams)
        self.foreign = ForeignWatch(self.bus, self.watcher, settings.foreign_s)
        self.metrics = RequestMetrics()
        self.stop_requested = asyncio.Event()
        self.failed = False
        """True if the stop was asked for because a listener failed: then the process ends with an exit code."""
        started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        facts = {"name": "gateway", "id": self.id, "version": VERSION, "started": started}
        self.health = health.Health(self.bus, self.watcher, self.live_routes, facts)
        text = sys.stderr.isatty() if text_log is None else text_log
        self.access = AccessLog(enabled=settings.access_log, text=text)
        self.lifecycle = RequestLifecycle(
            self.bus,
            self.watcher,
            self.live_routes,
            self.caller,
            settings,
            own=self.health.answer,
            metrics=self.metrics,
            access=self.access,
        )
        self.asgi_lane = AsgiLane(self.lifecycle)
        self.announcer = Announcer(
            self.bus,
            version=VERSION,
            description="HTTP gateway",
            load=lambda: Load(self.lifecycle.inflight, settings.max_inflight),
        )
        names = (settings.ops_host.lower(), *settings.ops_hosts)
        self._ops_app = operator_plane.build(
            bus=self.bus,
            watcher=self.watcher,
            live_routes=self.live_routes,
            caller=self.caller,
            health=self.health,
            metrics=self.metrics,
            facts=facts,
            names=names,
        )
        self._sockets = list(sockets)
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
        if not self._sockets:
            self._sockets.append(listen(settings.host, settings.port))
            try:
                self._sockets.append(listen(settings.ops_host, settings.ops_port))
            except OSError:
                self._sockets[0].close()
                raise
        self.bus.open()
        self.watcher.on_change(self.conflicts.joined)
        await self.watcher.start()
        self.foreign.start()
        subjects = self.bus.subjects
        for subject in (subjects.control("drain", "gateway"), subjects.control("drain", "gateway", self.id)):
            self._control.append(await self.bus.subscribe(subject, self._asked_to_drain))
        await self.announcer.start("starting")
        self._tasks = [
            keep(self._become_ready, "readiness"),
            keep(self._expire, "route memory"),
        ]

    async def listen(self) -> None:
        """Begin to accept connections."""
        public = public_protocol(self.lifecycle, self.asgi_lane, self.settings)
        self.metrics.connections = lambda: len(self._listeners[0].server_state.connections)
        *clients, operator = self._sockets
        websockets = websocket_protocol(self.lifecycle.body_memory)
        grace_s, failed = self.settings.drain_s, self._listener_failed
        self._listeners = [
            Listener(self.asgi_lane, clients, grace_s, http=public, websockets=websockets, failed=failed),
            Listener(self._ops_app, [operator], grace_s, failed=failed),
        ]
        for listener in self._listeners:
            await listener.start()
        _log.info("gateway %s listens on %s:%d", self.id, self.settings.host, self.port)
        _log.info("the operator's plane is at http://%s:%d", self.settings.ops_host, self.ops_port)

    async def drain(self, hurry: asyncio.Event | None = None, *, replaced: bool = False) -> None:
        """Readiness fails first, connections are told to close, then the listener closes and requests end.

        ``replaced``: another gateway accepts on the same socket already, so this one stops accepting at once, and every
        connection is kept until a response has told its client to open another, as long as ``drain_s`` allows.
        ``hurry`` (a second Ctrl-C) ends the waits early.
        """
        hurry = hurry or asyncio.Event()
        self.health.draining = self.lifecycle.responses.draining = True
        for task in self._tasks:
            task.cancel()
        if self.bus.connected:
            self.announcer.declare("draining")
        if not replaced:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.linger_ms / 1000):
                    await hurry.wait()
        for listener in self._listeners:
            listener.stop_accepting(for_all=not replaced)
        self.asgi_lane.close_websockets()
        if replaced and self._listeners:
            await self._listeners[0].all_gone(self.settings.drain_s, hurry)
        for listener in self._listeners:
            listener.force_exit = hurry.is_set()
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))
        for sock in self._sockets:
            sock.close()
        await self.streams.aclose()
        await self.announcer.aclose()
        await self.foreign.aclose()
        await self.watcher.aclose()
        self.asgi_lane.aclose()
        self.lifecycle.aclose()
        if self.bus.connected:
            with contextlib.suppress(Exception):
                await self.bus.flush(2)
        await self.bus.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        try:
            await self.listen()
        except BaseException:
            await self.drain()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    # -- parts

    def _asked_to_drain(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        self.stop_requested.set()

    def _listener_failed(self) -> None:
        self.failed = True
        self.stop_requested.set()

    async def _become_ready(self) -> None:
        await self.watcher.synchronised.wait()
        self.live_routes.update_now()
        self.announcer.declare("ready")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.live_routes.expire()
