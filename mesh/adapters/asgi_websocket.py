"""One WebSocket to an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from mesh.adapters.asgi_http import ABANDONED_S, App, Message
from mesh.adapters.asgi_scope import websocket_scope
from mesh.adapters.path_guard import PathGuard
from mesh.service import Context, Request, Response, WebSocket, WebSocketClosed

VANISHED = 1006
"""Close code of a connection that ended without a close frame (RFC 6455 section 7.1.5)."""

_log = logging.getLogger("mesh.adapter")


class WebSocketCall:
    """``receive`` and ``send`` of one WebSocket."""

    def __init__(self, ws: WebSocket) -> None:
        self.refusal: Response | None = None
        """What the handshake is answered with, where it is not accepted."""
        self._ws = ws
        self._connected = False
        self._vanished = asyncio.Event()
        self._closed: WebSocketClosed | None = None

    def vanish(self) -> None:
        """The client is gone without a word."""
        self._vanished.set()

    @property
    def client_left(self) -> bool:
        """Whether the client closed the connection, or is gone."""
        return self._closed is not None or self._vanished.is_set()

    async def receive(self) -> Message:
        """`websocket.connect`, then messages, at last `websocket.disconnect`."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._closed is None and not self._vanished.is_set():
            if not self._ws.accepted:
                await self._vanished.wait()
            else:
                try:
                    return await self._message()
                except WebSocketClosed as closed:
                    self._closed = closed
        code, reason = (self._closed.code, self._closed.reason) if self._closed is not None else (VANISHED, "")
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _message(self) -> Message:
        message = asyncio.ensure_future(self._ws.receive())
        gone = asyncio.ensure_future(self._vanished.wait())
        try:
            await asyncio.wait((message, gone), return_when=asyncio.FIRST_COMPLETED)
            if not message.done():
                raise WebSocketClosed(VANISHED)
            found = message.result()
        finally:
            message.cancel()
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketClosed):
                await message
        if isinstance(found, str):
            return {"type": "websocket.receive", "text": found}
        return {"type": "websocket.receive", "bytes": found}

    async def send(self, message: Message) -> None:
        """What the application does with the connection; after it closed it, nothing happens.

        Raises OSError when the client has left (ASGI 2.4): who only sends would go on for ever.
        """
        kind, ws = message["type"], self._ws
        if self.client_left and kind != "websocket.close":
            raise OSError("the client has left")
        if self.client_left or ws.closed:
            return
        try:
            if kind == "websocket.accept":
                pairs = message.get("headers", ())
                given = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in pairs]
                await ws.accept(message.get("subprotocol") or "", given)
            elif kind == "websocket.send":
                text = message.get("text")
                await ws.send(bytes(message["bytes"]) if text is None else text)
            elif kind == "websocket.close":
                if ws.accepted:
                    await ws.close(message.get("code") or 1000, message.get("reason") or "")
                elif self.refusal is None:
                    self.refusal = Response(None, 403)
            elif kind == "websocket.http.response.start":
                self.refusal = Response(None, message["status"])
                self.refusal.pairs = [(bytes(n).lower(), bytes(v)) for n, v in message.get("headers", ())]
            elif kind == "websocket.http.response.body":
                assert self.refusal is not None
                self.refusal.body += bytes(message.get("body", b""))
            else:
                raise RuntimeError(f"an application cannot send {kind!r} over a WebSocket")
        except WebSocketClosed as closed:
            self._closed = closed
            raise OSError("the client has left") from closed


class WebSocketEndpoint:
    """A WebSocket handler of the mesh that calls an ASGI application."""

    def __init__(self, app: App, root_path: str, state: dict[str, Any], entrance: PathGuard) -> None:
        self._app = app
        self._entrance = entrance
        self._root_path = root_path
        self._state = state

    async def __call__(self, ws: WebSocket, request: Request, ctx: Context) -> Response | None:
        """Runs as long as the application does; when the client vanishes, it is told before it is cancelled."""
        self._entrance.check(request, websocket=True)
        exchange = WebSocketCall(ws)
        scope = websocket_scope(request, self._root_path, self._state)
        app = asyncio.ensure_future(self._app(scope, exchange.receive, exchange.send))
        # Before it is accepted, a client that leaves breaks no stream: only the context knows.
        left = asyncio.ensure_future(ctx.cancelled.wait())
        try:
            await asyncio.wait((app, left), return_when=asyncio.FIRST_COMPLETED)
            if not app.done():
                await self._abandon(exchange, app)
                return None
        except asyncio.CancelledError:
            await self._abandon(exchange, app)
            raise
        finally:
            left.cancel()
        error = app.exception()
        if error is not None and ws.accepted:
            if not exchange.client_left:
                _log.error("the application failed at %s", scope["path"], exc_info=error)
                await ws.close(1011, "the service failed")
            return None
        if error is not None:
            raise error
        return exchange.refusal

    @staticmethod
    async def _abandon(exchange: WebSocketCall, app: asyncio.Future[None]) -> None:
        """Tell the application that its client is gone; what it does then may take `ABANDONED_S`."""
        exchange.vanish()
        await asyncio.wait((app,), timeout=ABANDONED_S)
        if not app.done():
            app.cancel()
        elif not app.cancelled() and app.exception() is not None:
            _log.debug("the application ended with its client: %r", app.exception())
