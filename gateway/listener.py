"""An HTTP server on an open socket: it starts, stops accepting, and ends, each when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn

from gateway.listening_sockets import BACKLOG
from mesh.tasks import vital

KEEP_ALIVE_S = 75
"""Idle seconds that a connection is kept; longer than the 60 s of usual load balancers, so that they close first."""
POLL_S = 0.02
"""How often it is looked whether connections have ended: uvicorn has no event for it."""
CHECK_S = 0.5
"""How late a deadline of a connection may be noticed, in seconds."""


def _is_news(record: logging.LogRecord) -> bool:
    """A stream that broke has no end, on purpose: uvicorn then closes the connection. The access log says why."""
    return "without completing response" not in record.getMessage()


logging.getLogger("uvicorn.error").addFilter(_is_news)
_log = logging.getLogger("mesh.gateway")


class Listener(uvicorn.Server):
    """A uvicorn server which leaves signals to its process. ``http`` and ``websockets`` make its connections.

    ``failed()`` is called if it fails after it has started: connections are not accepted any more then.
    """

    def __init__(
        self,
        app: Any,
        sockets: Sequence[socket.socket],
        grace_s: float,
        http: Any = None,
        websockets: Any = None,
        *,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=http or "httptools",
                ws=websockets or "none",
                ws_per_message_deflate=False,  # 16 KB of it are 16 MB in memory, for any client
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(grace_s)),
                backlog=BACKLOG,
            )
        )
        self.sockets = list(sockets)
        self.port = int(self.sockets[0].getsockname()[1])
        self._ending = asyncio.Event()
        self._failed = failed
        self._running: asyncio.Task[None] | None = None
        self._checking: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second whether it is over; each tenth tick renews the Date of responses.
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 10
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # As uvicorn's, whose pauses of a tenth of a second make two of them in every end.
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # idle connections are gone now
        connections, tasks = self.server_state.connections, self.server_state.tasks
        until = asyncio.get_running_loop().time() + (self.config.timeout_graceful_shutdown or 0)
        while (connections or tasks) and not self.force_exit:
            if asyncio.get_running_loop().time() >= until:
                _log.error("%d connections did not end in time, with %d requests", len(connections), len(tasks))
                for task in tasks:
                    task.cancel()
                return
            await asyncio.sleep(POLL_S)

    async def start(self) -> None:
        self._running = vital(self.serve(sockets=self.sockets), "listener", self._failed)
        while not self.started:
            if self._running.done():
                await self._running
                raise RuntimeError("the listener ended while it started")
            await asyncio.sleep(0)

        self._check()

    def _check(self) -> None:
        """Let every connection keep its deadlines: one timer for all of them."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._checking = loop.call_later(CHECK_S, self._check)
        for connection in list(self.server_state.connections):
            check = getattr(connection, "check", None)
            if check is not None:
                try:
                    check(now)
                except Exception:  # the others keep their deadlines
                    _log.exception("a connection's deadline could not be checked")

    def stop_accepting(self, *, for_all: bool) -> None:
        """Take no new connection; open ones go on. ``for_all``: nor does any other process that shares the socket."""
        if for_all:
            # Closing alone would leave clients waiting in a queue that the parent process keeps open.
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for server in self.servers:
            server.close()

    async def all_gone(self, timeout: float, hurry: asyncio.Event) -> None:
        """Return when every connection has ended, after ``timeout`` seconds, or when ``hurry`` is set."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self.server_state.connections and not hurry.is_set():
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(POLL_S)

    async def aclose(self) -> None:
        """Close the listener and idle connections, wait for requests (bounded)."""
        self.should_exit = True
        self._ending.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        if self._checking is not None:
            self._checking.cancel()
        for sock in self.sockets:
            sock.close()
