"""A whole mesh in the process of the test."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from mesh.bus import Bus
from mesh.embedded import NatsServer
from mesh.service import Service, ServiceInstance
from mesh.settings import BusSettings, GatewaySettings, ServiceSettings

if TYPE_CHECKING:
    import httpx

    from gateway.server import Gateway

SYNC_MARGIN_S: Final = 0.02
"""Seconds that the gateway waits for late announcements: all instances are in this process, so they come at once."""
FROZEN_S: Final = 600
"""Seconds for which NATS keeps the connection of a process that stands still, as at a breakpoint."""
QUICK: Final = {"heartbeat_ms": 250, "linger_ms": 20, "drain_s": 5.0}
"""Service settings that keep tests short. All others are those of production."""


@cache
def _certificates() -> ssl.SSLContext:
    """The certificates that HTTP clients trust, read once: reading them takes as long as starting all the rest."""
    import httpx

    return httpx.create_ssl_context()


class Mesh:
    """NATS, a gateway and instances of services, for as long as the context lasts.

    services: one instance of each is started
    nats_url: a NATS server that runs already; without it, one is started
    prefix: first token of the subjects
    gateway, settings, bus: settings of the gateway, the services and the connections by name, as
        ``gateway={"timeout_ms": 500}``

    ``http`` is an `httpx.AsyncClient` of the gateway.
    """

    def __init__(
        self,
        *services: Service,
        nats_url: str = "",
        prefix: str = "mesh",
        gateway: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        bus: dict[str, Any] | None = None,
    ) -> None:
        self.nats: NatsServer | None = None
        self.bus_settings = BusSettings(servers=(nats_url,) if nats_url else ("",), prefix=prefix, **(bus or {}))
        self.service_settings = replace(ServiceSettings(), **{**QUICK, **(settings or {})})
        defaults: dict[str, Any] = {
            "port": 0,
            "ops_port": 0,
            "window_ms": 0,
            "access_log": False,
            "drain_s": 2.0,
            "linger_ms": 0,
        }
        if lane := os.environ.get("MESH_HTTP_LANE"):  # so that a whole test suite can run on either lane
            defaults["http_lane"] = lane
        self.gateway_settings = replace(GatewaySettings(), **{**defaults, **(gateway or {})})
        self.gateway: Gateway
        self.http: httpx.AsyncClient
        self.instances: list[ServiceInstance] = []
        self._services = services

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def ops_url(self) -> str:
        """The address of the operator's plane."""
        return f"http://127.0.0.1:{self.gateway.ops_port}"

    async def __aenter__(self) -> Self:
        import httpx

        from gateway.server import Gateway

        if not self.bus_settings.servers[0]:
            self.nats = NatsServer(ping_max=FROZEN_S)
            await self.nats.start()
            self.bus_settings = replace(self.bus_settings, servers=(self.nats.url,))
        try:
            self.gateway = Gateway(self.bus_settings, self.gateway_settings, sync_margin_s=SYNC_MARGIN_S)
            await self.gateway.start()
            await self.gateway.listen()
            self.http = httpx.AsyncClient(base_url=self.url, timeout=10, verify=_certificates())
            await self.gateway.bus.wait_connected(5)
            async with asyncio.timeout(10):
                await self.gateway.watcher.synchronised.wait()
            for service in self._services:
                await self.start(service)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "http"):
            await self.http.aclose()
        for instance in reversed(self.instances):
            await instance.drain()
        if hasattr(self, "gateway"):
            await self.gateway.drain()
        if self.nats is not None:
            await self.nats.aclose()

    async def start(self, service: Service, **settings: Any) -> ServiceInstance:
        """Start one more instance, and return when the gateway knows that it is ready.

        settings: service settings by name
        """
        instance = ServiceInstance(service, self.bus_settings, replace(self.service_settings, **settings))
        await instance.start()
        self.instances.append(instance)

        def is_ready() -> bool:
            known = self.gateway.watcher.registry.get(service.name, instance.id)
            return known is not None and known.state == "ready"

        await self.until(is_ready)
        return instance

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Return when ``condition()`` is true. It is called after every change of the gateway's registry.

        Raises TimeoutError after ``timeout`` seconds.
        """
        changed = asyncio.Event()
        end = self.gateway.watcher.on_change(lambda changes: changed.set())
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await changed.wait()
                    changed.clear()
        finally:
            end()

    def ops(self) -> httpx.AsyncClient:
        """An HTTP client of the operator's plane. Use it with ``async with``."""
        import httpx

        return httpx.AsyncClient(base_url=self.ops_url, verify=_certificates())

    def client(self, service: str = "client") -> Bus:
        """A bus of another process on the same NATS. Use it with ``async with``."""
        return Bus(self.bus_settings, service=service)
