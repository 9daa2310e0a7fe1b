"""The bridge as a service: the routes that it announces, and the health of the HTTP server behind it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from mesh.adapters.application import Adapted, declare_routes
from mesh.adapters.route_discovery import AnnouncedRoute, below
from mesh.adapters.timeouts import Timeouts
from mesh.bridge.child_process import ChildProcess
from mesh.bridge.proxy import Proxy
from mesh.bridge.routes import parse_routes, routes_of_openapi
from mesh.errors import DeclarationError, Unavailable
from mesh.routes import BadTemplate, mount
from mesh.service import Service

START_S = 30.0
"""Seconds that the HTTP server may take to accept its first connection."""
CHECK_S = 2.0
"""Seconds that a check of its health may take."""

_HOW = "say it with --route 'GET /path', --openapi FILE, or --prefix /path for everything below"

_log = logging.getLogger("mesh.bridge")


class Bridge:
    """Stands in the mesh for an HTTP server; `open` finds out what it serves, and gives the service to run.

    to: the server's address, such as ``http://127.0.0.1:5000``
    name: the service's name
    version: the service's version
    description: one line about the service
    routes: flags such as ``GET /jokes/{id}``
    openapi: an OpenAPI document, as a file or as a path of the server; ``/openapi.json`` is tried if there are neither
        routes nor a prefix
    prefix: a path; everything below it is announced
    health: a page of the server that says if it is ready; without one, a server that accepts connections is
    timeout: as in `mesh.adapters.adapt`
    encoded_slashes: as in `mesh.adapters.adapt`
    command: a command that starts the server

    Raises `DeclarationError`.
    """

    def __init__(
        self,
        to: str,
        *,
        name: str,
        version: str = "0.0.1",
        description: str = "",
        routes: Sequence[str] = (),
        openapi: str = "",
        prefix: str = "",
        health: str = "",
        timeout: Timeouts = None,
        encoded_slashes: bool = False,
        command: Sequence[str] = (),
    ) -> None:
        parts = urlsplit(to)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise DeclarationError(f"--to {to!r} is not the address of an HTTP server, such as http://127.0.0.1:5000")
        if health and not health.startswith("/"):
            raise DeclarationError(f"--health {health!r} is not a path, such as /health")
        self._address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        try:
            mount(prefix, "/")
        except BadTemplate as error:
            raise DeclarationError(f"--prefix {prefix!r}: {error}") from error
        self._given = parse_routes(routes) + (below(prefix, "all") if prefix else [])
        self._openapi = openapi
        if openapi and not openapi.startswith("/"):
            self._given += _of_file(openapi)
            self._openapi = ""
        self._health = health
        self._timeout = timeout
        self._encoded_slashes = encoded_slashes
        self._proxy = Proxy(to)
        self.child = ChildProcess(command) if command else None
        self._service = Service(name, version=version, description=description)

    async def open(self) -> Service:
        """Start the server if there is a command, wait for it, and declare what it serves.

        Raises `DeclarationError` with what to do if that cannot be found out, OSError for a command that cannot run.
        """
        await self._proxy.open()
        try:
            if self.child is not None:
                await self.child.start()
            await self._wait_for_server()
            found = [*self._given, *await self._described_routes()]
            adapted = Adapted(self._service, self._proxy)
            declare_routes(adapted, found, timeout=self._timeout, encoded_slashes=self._encoded_slashes)
        except BaseException:
            await self.aclose()
            raise
        self._service.readiness("upstream", timeout=CHECK_S, every=2.0)(self._is_healthy)
        return self._service

    async def aclose(self) -> None:
        """Close the connections and end the child process, after the last request."""
        await self._proxy.aclose()
        if self.child is not None:
            await self.child.stop()

    # -- the server

    async def _wait_for_server(self) -> None:
        where = "{}:{}".format(*self._address)
        if await self._accepts():
            return
        _log.info("waiting for %s to accept connections, for %g s at most", where, START_S)
        try:
            async with asyncio.timeout(START_S):
                while not await self._accepts():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise DeclarationError(f"nothing accepts connections at {where}; is --to right, and does it run?") from None

    async def _accepts(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_S):
                _, writer = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _is_healthy(self) -> bool:
        if not self._health:
            return await self._accepts()
        try:
            status = await self._proxy.status(self._health, CHECK_S)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{self._health}: {str(error) or type(error).__name__}") from error
        if status >= 400:
            raise Unavailable(f"{self._health} answers {status}")
        return True

    async def _described_routes(self) -> list[AnnouncedRoute]:
        if self._given and not self._openapi:
            return []
        path = self._openapi or "/openapi.json"
        try:
            async with asyncio.timeout(10), self._proxy.session.get(self._proxy.url(path)) as answer:
                document = await answer.read() if answer.status == 200 else b""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DeclarationError(f"{path} could not be read: {str(error) or type(error).__name__}") from error
        if not document:
            raise DeclarationError(f"there is no {path} that says what is served; {_HOW}")
        return _documented(document, path)


def _of_file(name: str) -> list[AnnouncedRoute]:
    try:
        document = Path(name).read_bytes()
    except OSError as error:
        raise DeclarationError(f"--openapi {name!r} cannot be read: {error.strerror or error}") from error
    return _documented(document, f"--openapi {name!r}")


def _documented(document: bytes, where: str) -> list[AnnouncedRoute]:
    try:
        read = json.loads(document)
    except ValueError as error:
        raise DeclarationError(f"{where} is no JSON that says what is served ({error}); {_HOW}") from error
    try:
        return routes_of_openapi(read)
    except DeclarationError as error:
        raise DeclarationError(f"{where}: {error}; {_HOW}") from error
