"""One WebSocket to an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from mesh.adapters.asgi_http import ABANDONED_S, App, Message
from mesh.adapters.asgi_scope import websocket_scope
from mesh.adapters.route_filter import RouteFilter
from mesh.service import Context, Request, Response, WebSocket, WebSocketClosed

VANISHED = 1006
"""Close code of a connection that ended without a close frame (RFC 6455 section 7.1.5)."""

_log = logging.getLogger("mesh.adapter")


class AsgiWebSocket:
    """``receive`` and ``send`` of one WebSocket."""

    def __init__(self, ws: WebSocket) -> None:
        self.refusal: Response | None = None
        """The response to a handshake that the application did not accept."""
        self._ws = ws
        self._connected = False
        self._vanished = asyncio.Event()
        self._closed: WebSocketClosed | None = None

    def vanish(self) -> None:
        """Tell that the client has gone without a close frame."""
        self._vanished.set()

    @property
    def client_left(self) -> bool:
        """True if the client closed the connection, or has gone."""
        return self._closed is not None or self._vanished.is_set()

    async def receive(self) -> Message:
        """`websocket.connect`, then the messages, then `websocket.disconnect`."""
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
        """Take an event of the application; events after its close are dropped.

        Raises OSError if the client has left (ASGI 2.4): an application that only sends would never end.
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


class AsgiWebSocketEndpoint:
    """A WebSocket handler of the mesh that calls an ASGI application."""

    def __init__(self, app: App, root_path: str, state: dict[str, Any], route_filter: RouteFilter) -> None:
        self._app = app
        self._entrance = route_filter
        self._root_path = root_path
        self._state = state

    async def __call__(self, ws: WebSocket, request: Request, ctx: Context) -> Response | None:
        """Run until the application returns; if the client vanishes, the application is told before it is cancelled."""
        self._entrance.check(request, websocket=True)
        asgi = AsgiWebSocket(ws)
        scope = websocket_scope(request, self._root_path, self._state)
        app = asyncio.ensure_future(self._app(scope, asgi.receive, asgi.send))
        # Before the connection is accepted there is no stream that a client could break: only the context knows.
        left = asyncio.ensure_future(ctx.cancelled.wait())
        try:
            await asyncio.wait((app, left), return_when=asyncio.FIRST_COMPLETED)
            if not app.done():
                await self._abandon(asgi, app)
                return None
        except asyncio.CancelledError:
            await self._abandon(asgi, app)
            raise
        finally:
            left.cancel()
        error = app.exception()
        if error is not None and ws.accepted:
            if not asgi.client_left:
                _log.error("the application failed at %s", scope["path"], exc_info=error)
                await ws.close(1011, "the service failed")
            return None
        if error is not None:
            raise error
        return asgi.refusal

    @staticmethod
    async def _abandon(asgi: AsgiWebSocket, app: asyncio.Future[None]) -> None:
        """Tell the application that its client has gone; it may go on for `ABANDONED_S`."""
        asgi.vanish()
        await asyncio.wait((app,), timeout=ABANDONED_S)
        if not app.done():
            app.cancel()
        elif not app.cancelled() and app.exception() is not None:
            _log.debug("the application ended with its client: %r", app.exception())
