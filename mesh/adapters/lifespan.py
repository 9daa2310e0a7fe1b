"""An ASGI application's lifespan: it starts before the instance announces itself, and stops after the last request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mesh.adapters.asgi_http import App, Message
from mesh.adapters.asgi_scope import SPEC
from mesh.errors import DeclarationError

_log = logging.getLogger("mesh.adapter")


class Lifespan:
    """Starts and stops an application. ``state`` is its lifespan state, of which every request gets a copy."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application; one without a lifespan is ready at once.

        Raises `DeclarationError` with the application's own words if it fails to start.
        """
        scope = {"type": "lifespan", "asgi": {**SPEC, "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.create_task(self._run(scope))
        message = await self._ask("startup")
        if message is not None and message["type"] == "lifespan.startup.failed":
            raise DeclarationError(f"the application did not start: {message.get('message') or 'it says no more'}")

    async def stop(self) -> None:
        """Tell the application to end, and wait for it."""
        if self._task is None or self._task.done():
            return
        message = await self._ask("shutdown")
        if message is not None and message["type"] == "lifespan.shutdown.failed":
            _log.error("the application failed while it stopped: %s", message.get("message", ""))
        await asyncio.wait((self._task,), timeout=5)
        self._task.cancel()

    async def _ask(self, what: str) -> Message | None:
        """Send an event and wait for the application's message; None if the application ends without one."""
        assert self._task is not None
        self._events.put_nowait({"type": f"lifespan.{what}"})
        message = asyncio.ensure_future(self._messages.get())
        await asyncio.wait((message, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            message.cancel()
            return None
        return message.result()

    async def _run(self, scope: dict[str, Any]) -> None:
        async def send(message: Message) -> None:
            self._messages.put_nowait(message)

        try:
            await self._app(scope, self._events.get, send)
        except Exception as error:
            # Applications without a lifespan raise here; the ASGI specification says to go on.
            _log.debug("no lifespan: %r", error)
