"""An ASGI application that sends every request to an HTTP server, and streams the response back."""

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
"""Bytes of the longest header of a response. A longer one is a 502, and so are more than `MAX_HEADERS` of them."""
_WEBSOCKET = ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol")

_log = logging.getLogger("mesh.bridge")


class Proxy:
    """A pool of connections to one server, shared by all requests.

    base: the server's address
    connections: the most connections at a time; 0 for as many as are needed
    """

    def __init__(self, base: str, connections: int = 0) -> None:
        self._base = base.rstrip("/")
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool; nothing is connected yet."""
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
        """The status of a GET request. Raises OSError, TimeoutError and `aiohttp.ClientError`."""
        async with asyncio.timeout(timeout), self.session.get(self.url(path)) as response:
            return response.status

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool, after `open`."""
        assert self._session is not None, "open comes first"
        return self._session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
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
            await receive()  # the empty body; the next event is that the client has gone
            read.set()
        response = asyncio.ensure_future(self._pass_on(scope, body() if has_body else None, send))
        client_gone = asyncio.ensure_future(self._client_gone(read, receive))
        try:
            await asyncio.wait((response, client_gone), return_when=asyncio.FIRST_COMPLETED)
            if response.done():
                response.result()
        finally:
            response.cancel()
            client_gone.cancel()
            await asyncio.gather(response, client_gone, return_exceptions=True)

    @staticmethod
    async def _client_gone(read: asyncio.Event, receive: Receive) -> None:
        """Return when the client has gone; until its body is read, reading the body notices that."""
        await read.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _pass_on(self, scope: Scope, body: AsyncIterator[bytes] | None, send: Send) -> None:
        started = False
        try:
            async with self.session.request(
                scope["method"],
                self._url(scope),
                headers=self._headers(scope),
                data=body,
                allow_redirects=False,
            ) as response:
                pairs = [(n.lower(), v) for n, v in response.raw_headers if headers.crosses(n.lower())]
                started = True
                await send({"type": "http.response.start", "status": response.status, "headers": pairs})
                async for piece in response.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _unreachable(scope, error, "no") from error
        except (aiohttp.ClientError, OSError) as error:
            if started:
                raise  # the body breaks off, so that the client sees that it is not complete
            if isinstance(error, aiohttp.ClientResponseError):
                raise _unusable(scope, error) from error
            raise _unreachable(scope, error, "unknown") from error

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
            raise _unreachable(scope, error, "no") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(scope, error, "unknown") from error
        try:
            await send({"type": "websocket.accept", "subprotocol": other.protocol})
            up = asyncio.ensure_future(self._from_client(receive, other))
            down = asyncio.ensure_future(self._from_server(other, send))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        finally:
            await other.close()

    @staticmethod
    async def _from_client(receive: Receive, other: aiohttp.ClientWebSocketResponse) -> None:
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
    async def _from_server(other: aiohttp.ClientWebSocketResponse, send: Send) -> None:
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
        """The URL of a target on the server, exactly as it is written. Raises ValueError for one that is not a path."""
        if not target.startswith("/"):
            raise ValueError(f"{target!r} does not begin with '/': it could name another host")
        return URL(self._base + target, encoded=True)

    def _url(self, scope: Scope) -> URL:
        query = scope["query_string"].decode("latin-1")
        return self.url(scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""))

    @staticmethod
    def _headers(scope: Scope) -> list[tuple[str, str]]:
        """The headers for the server: those of the client, and the X-Forwarded headers that a proxy adds."""
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


def _unreachable(scope: Scope, error: Exception, executed: Executed) -> MeshError:
    """The error for a server that does not respond; only the log has its address and the reason."""
    _log.warning("%s: no response: %s", scope["path"], _reason(error))
    return Unavailable("the service behind the bridge does not answer", executed=executed)


def _unusable(scope: Scope, error: aiohttp.ClientResponseError) -> MeshError:
    """The error for a response that is no valid HTTP, or is beyond the limits."""
    _log.error("%s: not a response that can be passed on: %s", scope["path"], _reason(error))
    return BadReply("the service behind the bridge gave an unusable answer")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
