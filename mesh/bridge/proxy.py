"""An ASGI application that passes everything on to an HTTP server beside it, and its answers back, in pieces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from yarl import URL

from mesh import headers
from mesh.adapters.asgi_http import Message
from mesh.adapters.asgi_scope import Scope
from mesh.bridge.send_once import send_once, tracing
from mesh.defaults import WEBSOCKET_MESSAGE
from mesh.errors import BadReply, Executed, MeshError, Unavailable

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONNECT_S = 2.0
MAX_HEADERS = 1000
MAX_FIELD = 64 * 1024
"""Bytes of the longest header of an answer; more, and more than `MAX_HEADERS` of them, is a 502."""
_WEBSOCKET = ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol")

_log = logging.getLogger("mesh.bridge")


class Proxy:
    """``connections`` to ``base`` are kept alive and shared by all requests; 0 means as many as it takes."""

    def __init__(self, base: str, connections: int = 0) -> None:
        self._base = base.rstrip("/")
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool of connections; nothing is connected yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            middlewares=(send_once,),
            trace_configs=[tracing()],
            max_headers=MAX_HEADERS,
            max_field_size=MAX_FIELD,
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def status(self, path: str, timeout: float) -> int:
        """The status of a page of the other side. Raises OSError and `aiohttp.ClientError`."""
        async with asyncio.timeout(timeout), self.session.get(self.url(path)) as answer:
            return answer.status

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "open comes first"
        return self._session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    # -- requests

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]}
        has_body = bool(names & {b"content-length", b"transfer-encoding"})
        read = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            more = True
            while more:
                message = await receive()
                more = bool(message.get("more_body"))
                if message["body"]:
                    yield message["body"]
            read.set()

        if not has_body:
            await receive()  # an empty body: what comes after it is that the client goes
            read.set()
        answering = asyncio.ensure_future(self._answer(scope, body() if has_body else None, send))
        leaving = asyncio.ensure_future(self._left(read, receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    @staticmethod
    async def _left(read: asyncio.Event, receive: Receive) -> None:
        """Return when the client is gone; before its body is read, reading it tells."""
        await read.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, scope: Scope, body: AsyncIterator[bytes] | None, send: Send) -> None:
        started = False
        try:
            async with self.session.request(
                scope["method"],
                self._url(scope),
                headers=self._headers(scope),
                data=body,
                allow_redirects=False,
            ) as answer:
                pairs = [(n.lower(), v) for n, v in answer.raw_headers if headers.crosses(n.lower())]
                started = True
                await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
                async for piece in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _away(scope, error, "no") from error
        except (aiohttp.ClientError, OSError) as error:
            if started:
                raise  # the body breaks off, and does not look whole
            if isinstance(error, aiohttp.ClientResponseError):
                raise _unusable(scope, error) from error
            raise _away(scope, error, "unknown") from error

    # -- WebSockets

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        wanted = [(n, v) for n, v in self._headers(scope) if n.lower() not in _WEBSOCKET]
        try:
            other = await self.session.ws_connect(
                self._url(scope),
                headers=wanted,
                protocols=scope["subprotocols"],
                max_msg_size=WEBSOCKET_MESSAGE,
                autoclose=False,
            )
        except aiohttp.WSServerHandshakeError as error:
            await send({"type": "websocket.http.response.start", "status": error.status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _away(scope, error, "no") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _away(scope, error, "unknown") from error
        try:
            await send({"type": "websocket.accept", "subprotocol": other.protocol})
            up = asyncio.ensure_future(self._up(receive, other))
            down = asyncio.ensure_future(self._down(other, send))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        finally:
            await other.close()

    @staticmethod
    async def _up(receive: Receive, other: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code") or 1000
                await other.close(code=1001 if code in (1005, 1006) else code, message=message["reason"].encode())
                return
            if message.get("text") is not None:
                await other.send_str(message["text"])
            else:
                await other.send_bytes(message["bytes"])

    @staticmethod
    async def _down(other: aiohttp.ClientWebSocketResponse, send: Send) -> None:
        while True:
            message = await other.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await send({"type": "websocket.send", "text": message.data})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await send({"type": "websocket.send", "bytes": message.data})
            else:
                closed = message.type is aiohttp.WSMsgType.CLOSE
                code, reason = (message.data, message.extra) if closed else (1011, "the service broke off")
                await send({"type": "websocket.close", "code": code or 1000, "reason": reason or ""})
                return

    # -- both

    def url(self, target: str) -> URL:
        """The address of a target there, exactly as it is written. Raises ValueError where it is not a path."""
        if not target.startswith("/"):
            raise ValueError(f"{target!r} does not begin with '/': it could name another host")
        return URL(self._base + target, encoded=True)

    def _url(self, scope: Scope) -> URL:
        query = scope["query_string"].decode("latin-1")
        return self.url(scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""))

    @staticmethod
    def _headers(scope: Scope) -> list[tuple[str, str]]:
        """What the other side gets: whose request it is, as it would hear it from any proxy."""
        given = [(n, v) for n, v in scope["headers"] if n != b"transfer-encoding" and not headers.tells_of_client(n)]
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in given]
        if scope["client"] is not None:
            pairs.append(("x-forwarded-for", scope["client"][0]))
        secure = scope["scheme"] in ("https", "wss")
        pairs.append(("x-forwarded-proto", "https" if secure else "http"))
        host = headers.find(given, b"host")
        if host is not None:
            pairs.append(("x-forwarded-host", host.decode("latin-1")))
        return pairs


def _away(scope: Scope, error: Exception, executed: Executed) -> MeshError:
    """What the client is told of a service that cannot be asked: no address of it, nor what it sent. The log has it."""
    _log.warning("%s: no answer: %s", scope["path"], _words(error))
    return Unavailable("the service behind the bridge does not answer", executed=executed)


def _unusable(scope: Scope, error: aiohttp.ClientResponseError) -> MeshError:
    _log.error("%s: not an answer that can be passed on: %s", scope["path"], _words(error))
    return BadReply("the service behind the bridge gave an unusable answer")


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
