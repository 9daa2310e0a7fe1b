"""One HTTP request to an ASGI application (ASGI 3, HTTP connection scope)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from mesh.adapters.asgi_scope import Scope, http_scope
from mesh.adapters.route_filter import RouteFilter
from mesh.errors import MeshError
from mesh.service import Context, Request, Response, StreamingResponse

Message = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

FIRST_PIECE_S = 0.02
"""Seconds that a response's headers wait for its first piece; then they are sent alone."""
ABANDONED_S = 5.0
"""Seconds that an application may go on after it was told that its client has gone."""
CLIENT = "mesh.client"
"""An extension of the scope (ASGI 3): ``has_left()`` is True, in any thread, after the client has gone."""

_log = logging.getLogger("mesh.adapter")


class AsgiHttpRequest:
    """``receive`` and ``send`` of one request, and the response that the application makes with them."""

    def __init__(self, request: Request, context: Context) -> None:
        self.gone = context.cancelled
        """Set when the client has gone, or has the whole response."""
        self._request = request
        self._pieces: AsyncIterator[bytes] | None = request.pieces() if request.pieces is not None else None
        self._body_read = False
        self._status = 0
        self._pairs: list[tuple[bytes, bytes]] = []
        self._channel: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._streaming = False
        self._complete = False
        self._whole = False
        """True if the response is complete; the application may still send an empty end."""
        self._failed = False
        self._loop = asyncio.get_running_loop()
        self._response: asyncio.Future[Response] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._dropping_since = 0.0

    def has_left(self) -> bool:
        """True if the client went away before it had the whole response."""
        return self.gone.is_set() and not self._complete and not self._whole

    async def response(self) -> Response:
        """The response, whole or as a stream. Raises what the application raises before that."""
        return await self._response

    def ended(self, error: BaseException | None) -> None:
        """Tell that the application has returned, or raised ``error``."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._response.done():
            if self._status and error is None:
                self._finish()
            elif isinstance(error, MeshError):
                self._response.set_exception(error)
            else:
                text = "Internal Server Error"
                self._response.set_result(Response(text, 500))
        elif self._streaming and not self._complete:
            self._break_off()

    # -- ASGI's two callables

    async def receive(self) -> Message:
        """The body, in pieces if it is large; then `http.disconnect` when the client has gone."""
        if not self._body_read and self._pieces is not None:
            piece = await anext(self._pieces, None)
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            self._body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._body_read:
            self._body_read = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a piece of the response; waits while the client reads slowly.

        After the client has gone, pieces are dropped. An application that still sends after `ABANDONED_S` gets an
        OSError (ASGI 2.4 raises it at once, which applications of older versions do not expect).
        """
        kind = message["type"]
        if kind == "http.response.start":
            if self._status:
                raise RuntimeError("the response has been started already")
            self._status = message["status"]
            self._pairs = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            self._timer = self._loop.call_later(FIRST_PIECE_S, self._begin)
            return
        if kind != "http.response.body":
            raise RuntimeError(f"an application that answers over HTTP cannot send {kind!r}")
        if not self._status or self._complete:
            raise RuntimeError("http.response.body before http.response.start, or after the last one")
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        if self.gone.is_set():
            await self._drop(more)
            return
        if not self._streaming and (not more or self._is_all(body)):
            self._finish(body)
            self._complete = not more
            return
        if self._response.done() and not self._streaming:  # more than its content-length, or an empty end
            self._complete = not more
            return
        self._begin()
        if body:
            await self._offer(body)
        if not more:
            self._complete = True
            await self._offer(None)

    async def _drop(self, more: bool) -> None:
        """Drop a piece for a client that has gone; the handler need not wait for the rest."""
        self._complete = not more
        self._finish()
        now = self._loop.time()
        self._dropping_since = self._dropping_since or now
        if more and now - self._dropping_since > ABANDONED_S:
            raise OSError("the client has gone")
        await asyncio.sleep(0)  # an application that sends without end must not block the event loop

    # -- towards the mesh

    def _is_all(self, body: bytes) -> bool:
        """True if the first piece is the whole body by its content-length: then the response need not be a stream."""
        if not body or self._response.done():
            return False
        return any(name == b"content-length" and value == b"%d" % len(body) for name, value in self._pairs)

    def _finish(self, body: bytes = b"") -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._response.done():
            self._whole = not self.gone.is_set()
            self._response.set_result(self._shaped(Response(None, self._status), body))

    def _begin(self) -> None:
        """Make the response a stream."""
        if self._timer is not None:
            self._timer.cancel()
        if self.gone.is_set():
            self._finish()
        elif not self._streaming and not self._response.done():
            self._streaming = True
            self._response.set_result(self._shaped(StreamingResponse(self._content(), self._status), b""))

    def _shaped(self, response: Response, body: bytes) -> Response:
        response.pairs, response.body = self._pairs, body
        return response

    async def _offer(self, piece: bytes | None) -> None:
        """Hand a piece to the stream; returns early when the client goes."""
        if self.gone.is_set():
            return
        put = asyncio.ensure_future(self._channel.put(piece))
        left = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait((put, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()
            left.cancel()

    def _break_off(self) -> None:
        """End a response that the application did not finish."""
        self._failed = True
        self._close()

    def _close(self) -> None:
        """End the stream without waiting; drops the last piece."""
        if self._channel.full():
            self._channel.get_nowait()
        self._channel.put_nowait(None)

    async def _content(self) -> AsyncIterator[bytes]:
        left = asyncio.ensure_future(self.gone.wait())
        left.add_done_callback(lambda _: self._close())
        try:
            while (piece := await self._channel.get()) is not None:
                yield piece
            if self._failed:
                raise RuntimeError("the application failed in mid-response")
        finally:
            left.cancel()
            self.gone.set()


class AsgiHttpEndpoint:
    """A handler of the mesh that calls an ASGI application."""

    def __init__(
        self, app: App, root_path: str, state: dict[str, Any], tasks: set[asyncio.Task[None]], route_filter: RouteFilter
    ) -> None:
        self._app = app
        self._entrance = route_filter
        self._root_path = root_path
        self._state = state
        self._tasks = tasks

    async def __call__(self, request: Request, ctx: Context, body: AsyncIterator[bytes]) -> Response:
        """The application's response. It runs in a task of its own, because background work outlives the response."""
        self._entrance.check(request)
        asgi = AsgiHttpRequest(request, ctx)
        scope = http_scope(request, self._root_path, self._state)
        scope["extensions"] = {CLIENT: {"has_left": asgi.has_left}}
        task = asyncio.create_task(self._run(asgi, scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            response = await asgi.response()
        except asyncio.CancelledError:
            asgi.gone.set()
            asyncio.get_running_loop().call_later(ABANDONED_S, task.cancel)
            raise
        if not isinstance(response, StreamingResponse):
            asgi.gone.set()
        return response

    async def _run(self, asgi: AsgiHttpRequest, scope: Scope) -> None:
        try:
            await self._app(scope, asgi.receive, asgi.send)
        except Exception as error:
            if not asgi.gone.is_set() and not isinstance(error, MeshError):
                _log.exception("the application failed at %s %s", scope["method"], scope["path"])
            asgi.ended(error)
        except asyncio.CancelledError as error:
            asgi.ended(error)
            raise
        else:
            asgi.ended(None)
