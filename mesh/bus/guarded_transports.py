"""nats-py's own transports under a guard: TCP for plain nats-py, and WebSocket.

Both are made before the client connects, and used again for every reconnect, so that no connection is without its
guard.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport, WebSocketTransport

from mesh.bus.connection_errors import Failure, Refusal
from mesh.bus.encryption_guard import JUDGED_S, Guard, drop, first_line
from mesh.bus.nats_contract import Use, require


class GuardedTcp(TcpTransport):
    """TCP or TLS, read and written by nats-py."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        require(Use.PLAIN_TCP)
        self.guard = guard
        self._logged_in = False  # nats-py's task reads the connection
        self._retired = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.abort()  # the connection of a failed attempt: nats-py forgets it
        self.guard.begin(uri)
        self._logged_in = False
        await super().connect(uri, buffer_size, connect_timeout)
        if self._retired:
            self.abort()
            raise ConnectionAbortedError("this connection has been given up")

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        if self.guard.encrypted:  # before INFO, which nats-py takes for the beginning
            return
        await super().connect_tls(self.guard.host(uri), self.guard.context(), buffer_size, connect_timeout)
        self.guard.encrypted = True
        if self.guard.judges:
            await asyncio.sleep(JUDGED_S)  # if the server says something meanwhile, `drain` raises it

    def write(self, payload: bytes) -> None:
        self.guard.check_write()
        super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        self.guard.check_write()
        super().writelines(payload)  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        try:
            await super().drain()  # type: ignore[no-untyped-call]
        except ConnectionError:
            self._last_words()
            raise

    def _last_words(self) -> None:
        """Raise what the server said before it closed the connection: asyncio's reader gives only the error then."""
        if self._logged_in or self._io_reader is None:
            return
        for line in bytes(self._io_reader._buffer).splitlines():  # type: ignore[attr-defined]
            if line.startswith(b"-ERR"):
                self.guard.line(line)

    async def read(self, buffer_size: int) -> bytes:
        self._logged_in = True
        return bytes(await super().read(buffer_size))

    async def readline(self) -> bytes:
        return await first_line(self, self._line)

    async def _line(self) -> bytes:
        try:
            line = await super().readline()  # type: ignore[no-untyped-call]
        except ConnectionError:
            self._last_words()
            raise
        return self.guard.line(line)

    def abort(self) -> None:
        """Drop the connection now."""
        if self._io_writer is not None:
            drop(self._io_writer.transport)

    async def retire(self) -> None:
        """Drop the connection and make no other."""
        self._retired = True
        self.abort()

    def __bool__(self) -> bool:
        return True  # tells the client to use this transport rather than make one


class GuardedWebSocket(WebSocketTransport):
    """WebSocket, with ``wss://`` encrypted; needs aiohttp."""

    def __init__(self, guard: Guard) -> None:
        """Raises `Refusal` without aiohttp, or if nats-py lacks a name of the contract."""
        require(Use.WEBSOCKET)
        try:
            super().__init__()
        except ImportError:
            reason = Failure("ws:// and wss:// need aiohttp", "pip install 'nats-http-mesh[websocket]'")
            raise Refusal(reason) from None
        self.guard = guard
        self._retired = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        await self._dial(uri, buffer_size, connect_timeout)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        if not isinstance(uri, str):  # a bare name asks to encrypt a connection, and wss:// is encrypted already
            await self._dial(uri, buffer_size, connect_timeout)

    async def _dial(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        import aiohttp

        guard = self.guard
        uri = uri._replace(scheme=guard.scheme(uri))
        guard.begin(uri)
        await self._close_session()
        if self._retired:
            raise ConnectionAbortedError("this connection has been given up")
        self._client = aiohttp.ClientSession()
        self._pending = asyncio.Queue()  # an earlier attempt may have left something in the last one
        self._ws = None
        try:
            async with asyncio.timeout(connect_timeout):
                if uri.scheme == "wss":
                    await super().connect_tls(uri, guard.context(), buffer_size, connect_timeout)
                    guard.encrypted = True
                else:
                    await super().connect(uri, buffer_size, connect_timeout)
        except aiohttp.ClientConnectorCertificateError as error:
            raise error.certificate_error from None
        except aiohttp.ClientSSLError as error:
            raise error.os_error from None
        except aiohttp.WSServerHandshakeError as error:
            what = f"it answers {error.status} where a WebSocket of NATS was expected"
            raise Refusal(Failure(what, "look at NATS_URL and at the server's websocket block")) from None
        except aiohttp.ClientConnectorError as error:
            raise error.os_error from None
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from None

    def write(self, payload: bytes) -> None:
        self.guard.check_write()
        super().write(payload)  # type: ignore[no-untyped-call]

    async def readline(self) -> bytes:
        return self.guard.line(await super().readline())  # type: ignore[no-untyped-call]

    async def read(self, buffer_size: int) -> bytes:
        return bytes(await super().readline())  # type: ignore[no-untyped-call]

    async def retire(self) -> None:
        """Drop the connection and make no other."""
        self._retired = True
        await self._close_session()

    async def _close_session(self) -> None:
        """Close aiohttp's session: nats-py does so with a connection, but not after an attempt that failed."""
        if self._client is not None and not self._client.closed:
            await self._client.close()

    def __bool__(self) -> bool:
        return True
