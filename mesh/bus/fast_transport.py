"""The fast transport ("hot lane"): a nats-py transport that takes the mesh's own messages out of the stream.

nats-py keeps what it is good at: connecting, authentication, TLS, pings, reconnecting, subscribing again, JetStream.
Its regex parser, its queues and its header decoding cost more than everything else on the path of a request, and they
lose repeated headers. So messages of registered subscriptions go from the socket to a callback in one step, and what
is sent goes through a queue that is written once in each turn of the event loop::

    socket -> received() -> FrameReader -> callbacks of the bus      MSG and HMSG of our subscriptions
                                        -> read() by nats-py         everything else: INFO, PING, -ERR
    the bus -> WriteQueue.send() -> flush() -> socket                what both send, in one order
    nats-py -> write() -> WriteQueue

The seam is nats-py's own abstract class ``nats.aio.transport.Transport``. `mesh.bus.nats_contract` lists and checks
the private names of nats-py that this needs, and after connecting the bus sends itself a message through the fast
transport, before anything relies on it (ADR 1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import ParseResult

from nats.aio.transport import Transport

from mesh.bus.connection_errors import ServerSaid
from mesh.bus.encryption_guard import JUDGED_S, Guard, drop, first_line
from mesh.bus.frames import FrameReader
from mesh.bus.write_queue import WriteQueue

NOTABLE_SILENCE_S: Final = 1.5
"""Seconds without a byte that are more than the pause between two pings: the server or this process was stopped."""
SILENCE_REMEMBERED_S: Final = 1.0
"""Seconds after a silence in which messages arrive that may have been sent before or during it."""
CLOSE_TIMEOUT_S: Final = 0.5
"""Seconds in which a connection is closed before it is dropped."""


class FastTransport(Transport):
    """The connections of one client to NATS servers, over TCP or TLS, one after another.

    on_lost: called at once when a connection breaks, so that calls in flight need not wait for nats-py.
    guard: sees what comes and goes until the server has let us in.
    """

    def __init__(self, on_lost: Callable[[], None], guard: Guard) -> None:
        self.guard = guard
        self.frames = FrameReader(self._pass_on)
        self.queue = WriteQueue()
        self.last_bytes = 0.0
        """When the last bytes came, on the event loop's clock."""
        self.silence = 0.0
        """Seconds of a notable silence that just ended; 0.0 usually."""
        self.server_error = ""
        """The text of the server's last ``-ERR`` line on this connection: nats-py does not say why it reconnects."""
        self.on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._protocol: _SocketProtocol | None = None
        self._unread: deque[bytes] = deque()  # bytes for nats-py's reader, which it has not read yet
        self._unread_ready = asyncio.Event()
        self._eof = True
        self._closed = asyncio.Event()
        self._lost_by: BaseException | None = None
        self._retired = False

    # -- from the socket

    def received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        now = self._loop.time()
        if now - self.last_bytes > NOTABLE_SILENCE_S:
            self.silence = now - self.last_bytes
            self._loop.call_later(SILENCE_REMEMBERED_S, self._forget_silence, self.silence)
        self.last_bytes = now
        self.frames.feed(data)
        queue = self.queue
        if queue.expects_replies:
            queue.expects_replies = False
            if not queue.is_scheduled:
                queue.is_scheduled = True
                self._loop.call_soon(queue.flush)

    def _forget_silence(self, silence: float) -> None:
        if self.silence == silence:
            self.silence = 0.0

    def _pass_on(self, data: bytes) -> None:
        if data.startswith(b"-ERR "):
            self.server_error = data[5:].decode(errors="replace").strip().strip("'")
        self._unread.append(data)
        self._unread_ready.set()

    def lost(self, protocol: _SocketProtocol, error: BaseException | None = None) -> None:
        """The connection of ``protocol`` broke; the end of an older connection changes nothing."""
        if protocol is not self._protocol:
            return
        self._eof = True
        self._lost_by = error
        self.queue.clear()
        self._unread_ready.set()
        self._closed.set()
        self.on_lost()

    # -- nats-py's Transport

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        if self._retired:
            raise ConnectionAbortedError("this connection has been given up")
        self.abort()  # the connection of a failed attempt: nats-py forgets it
        self.guard.begin(uri)
        protocol = self._start()
        host, port = uri.hostname or "", uri.port or 4222
        async with asyncio.timeout(connect_timeout):
            await self._loop.create_connection(lambda: protocol, host, port)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        if self.guard.encrypted:  # before INFO, which nats-py takes for the beginning
            return
        assert self._transport is not None, "connect comes first"
        host, context = self.guard.host(uri), self.guard.context()
        plain, protocol = self._transport, self._start()
        async with asyncio.timeout(connect_timeout):
            upgraded = await self._loop.start_tls(plain, protocol, context, server_hostname=host)
        self.guard.encrypted = True
        # start_tls need not call connection_made of the new protocol.
        if upgraded is not None:
            self._write_to(upgraded)
        if self.guard.judges:
            try:
                async with asyncio.timeout(JUDGED_S):
                    await self._closed.wait()
            except TimeoutError:
                return
            raise self._end()

    def _start(self) -> _SocketProtocol:
        protocol = self._protocol = _SocketProtocol(self)
        self.frames.reset()
        self._unread.clear()
        self._unread_ready.clear()
        self.queue.clear()
        self.server_error = ""
        self._lost_by = None
        self._eof = False
        self._closed.clear()
        self.last_bytes = self._loop.time()
        return protocol

    def _write_to(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.queue.attach(transport)

    def made(self, transport: asyncio.Transport) -> None:
        self._write_to(transport)
        if self._retired:
            transport.abort()

    def write(self, payload: bytes) -> None:
        self.guard.check_write()
        self.queue.send_bytes(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self.write(b"".join(payload))

    async def drain(self) -> None:
        await self.queue.drain()
        if self._eof:
            raise self._end()

    def _end(self) -> OSError:
        """The error that ended the connection: the server's words if there are any, else what broke it."""
        if self.server_error:
            return ServerSaid(self.server_error)
        if isinstance(self._lost_by, OSError):
            return self._lost_by
        return self.guard.ended()

    async def read(self, buffer_size: int) -> bytes:
        while not self._unread:
            if self._eof:
                return b""
            self._unread_ready.clear()
            await self._unread_ready.wait()
        data = b"".join(self._unread) if len(self._unread) > 1 else self._unread[0]
        self._unread.clear()
        return data

    async def readline(self) -> bytes:
        """Read a line before we are logged in, see `Guard.line`. Raises the error that ended the connection."""
        return await first_line(self, self._line)

    async def _line(self) -> bytes:
        while not self._unread:
            if self._eof:
                raise self._end()
            self._unread_ready.clear()
            await self._unread_ready.wait()
        return self.guard.line(self._unread.popleft())  # always a whole line: see FrameReader

    def at_eof(self) -> bool:
        return self._eof and not self._unread

    def close(self) -> None:
        self.queue.flush()
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        # To close waits until everything is written, and a frozen server never reads it.
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._closed.wait()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Drop the connection now, without what was not written yet."""
        drop(self._transport)

    def retire(self) -> None:
        """Drop the connection and make no other: nats-py may reconnect while its client is given up, and nothing would
        close a connection that it makes after `abort`."""
        self._retired = True
        self.abort()

    def __bool__(self) -> bool:
        return True  # tells the client to use this transport rather than make one


class _SocketProtocol(asyncio.Protocol):
    """The events of one connection, so that a late one of an old connection does not disturb the next."""

    def __init__(self, transport: FastTransport) -> None:
        self._fast_transport = transport
        self.data_received = transport.received  # type: ignore[method-assign]

    def connection_made(self, transport: Any) -> None:
        self._fast_transport.made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fast_transport.lost(self, exc)

    def pause_writing(self) -> None:
        self._fast_transport.queue.pause()

    def resume_writing(self) -> None:
        self._fast_transport.queue.resume()
