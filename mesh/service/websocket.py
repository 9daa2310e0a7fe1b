"""A WebSocket as a handler sees it (RFC 6455); its client is connected to a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar, overload

from mesh import codec
from mesh.bus import Bus
from mesh.defaults import WEBSOCKET_MESSAGE
from mesh.errors import MeshError
from mesh.headers import crosses, encode
from mesh.service.http_messages import Headers, Request, decode_json, header_pairs
from mesh.streams import Stream, frames
from mesh.streams.close_codes import INTERNAL, NO_STATUS, NORMAL, TOO_BIG, close_payload, is_sendable, read_close

T = TypeVar("T")


def _is_applications(name: bytes) -> bool:
    return crosses(name) and not name.startswith(b"sec-websocket-")


class WebSocketClosed(Exception):
    """The connection is closed.

    code: the close code: the client's, or the service's if the service closed the connection
    reason: the text that came with it
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with {code} {reason}".strip())
        self.code = code
        self.reason = reason


class WebSocket:
    """One connection, given to a handler of `Service.websocket`.

    ::

        @service.websocket("/echo")
        async def echo(ws: WebSocket) -> None:
            async for message in ws:
                await ws.send(message)

    The first use accepts the connection; an error before that is an HTTP response. The connection is closed with 1000
    when the handler returns, with 1011 when it fails, and with 1012 when its instance stops.
    """

    def __init__(self, bus: Bus, request: Request, reply: bytes, stream: Stream) -> None:
        self.request = request
        """The handshake: its path, headers and cookies."""
        self.subprotocol = ""
        """The subprotocol that `accept` chose; empty for none."""
        self.accepted = False
        """True after `accept`, also if the connection was closed since."""
        self.stream = stream
        self._bus = bus
        self._reply = reply
        self._closed: WebSocketClosed | None = None
        self._sending = asyncio.Lock()

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, its favourite first."""
        offered = ",".join(self.request.header_values("sec-websocket-protocol"))
        return [name.strip() for name in offered.split(",") if name.strip()]

    @property
    def closed(self) -> bool:
        """True after the connection was closed."""
        return self._closed is not None

    async def accept(self, subprotocol: str = "", headers: Headers | None = None) -> None:
        """Accept the connection.

        subprotocol: one of `subprotocols`; empty for none
        headers: headers of the response to the handshake, such as cookies; those of HTTP and WebSocket themselves are
            the gateway's, and are left out

        Raises ValueError for another subprotocol and for headers that HTTP does not allow, RuntimeError for a
        connection that was accepted before.
        """
        if self.accepted:
            raise RuntimeError("the connection has been accepted already")
        if subprotocol and subprotocol not in self.subprotocols:
            raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}, but {self.subprotocols}")
        pairs = [
            (b"Mesh-Status", b"101"),
            (b"Mesh-Stream", self.stream.own),
            (b"Mesh-Credit", b"%d" % self.stream.window),
        ]
        if subprotocol:
            pairs.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        block = encode([*pairs, *(pair for pair in header_pairs(headers) if _is_applications(pair[0]))])
        self.accepted = True
        self.subprotocol = subprotocol
        self._bus.reply(self._reply, b"", block)

    async def receive(self) -> str | bytes:
        """The next message: text or bytes. Raises `WebSocketClosed` after the last one."""
        await self._ready()
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                frame = await self.stream.read()
            except MeshError as error:
                raise self._end(INTERNAL, error.detail) from error
            if frame is None:
                raise self._end(NO_STATUS, "")
            if frame.kind == frames.CLOSE:
                close = read_close(frame.payload)
                self.stream.end(frames.CLOSE, frame.payload)
                raise self._end(close.code, close.reason)
            parts.append(frame.payload)
            size += len(frame.payload)
            if size > WEBSOCKET_MESSAGE:
                await self.close(TOO_BIG, f"a message has more than {WEBSOCKET_MESSAGE} bytes")
                raise self._closed or WebSocketClosed(TOO_BIG)
            if not frame.kind.endswith(frames.MORE):
                whole = b"".join(parts) if len(parts) > 1 else parts[0]
                return whole.decode() if frame.kind == frames.TEXT else whole

    @overload
    async def receive_json(self, type: type[T]) -> T: ...

    @overload
    async def receive_json(self, type: Any = ...) -> Any: ...

    async def receive_json(self, type: Any = Any) -> Any:
        """The next message as JSON of a type.

        type: a type as a handler's parameters have it

        Raises `Invalid` for JSON of another shape, `BadRequest` for a message that is no JSON, and `WebSocketClosed`
        after the last message. The connection goes on if the handler catches the first two.
        """
        message = await self.receive()
        return decode_json(codec.decoder(type), message.encode() if isinstance(message, str) else message)

    async def send(self, message: Any) -> None:
        """Send a message; waits while the client reads slowly. Several tasks may send.

        message: text, bytes, or any other value, which is sent as JSON text

        Raises `WebSocketClosed`.
        """
        await self._ready()
        if isinstance(message, bytes | bytearray | memoryview):
            payload, kind = bytes(message), frames.BINARY
        elif isinstance(message, str):
            payload, kind = message.encode(), frames.TEXT
        else:
            payload, kind = codec.encode(message), frames.TEXT
        try:
            async with self._sending:
                await self.stream.write(payload, kind)
        except MeshError as error:
            raise self._end(INTERNAL, error.detail) from error

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the connection; nothing may be sent afterwards. May be called twice.

        code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455 section 7.4.2)
        reason: text of at most 123 bytes; the rest is cut off

        Raises ValueError for a code that may not be sent.
        """
        if not is_sendable(code):
            raise ValueError(f"close code {code} may not be sent")
        if self._closed is None:
            if not self.accepted:
                await self.accept()
            self.stream.end(frames.CLOSE, close_payload(code, reason))
            self._end(code, reason)

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[str | bytes]:
        try:
            while True:
                yield await self.receive()
        except WebSocketClosed:
            return

    # -- for the dispatcher

    def shut(self, code: int, reason: str = "") -> None:
        """Close the connection if it is open, and stop reading; a handler that waits for a message gets an error."""
        if self.accepted:
            self.stream.end(frames.CLOSE, close_payload(code, reason))
            self._end(code, reason)
            self.stream.end_reading()

    async def _ready(self) -> None:
        if self._closed is not None:
            raise self._closed
        if not self.accepted:
            await self.accept()

    def _end(self, code: int, reason: str) -> WebSocketClosed:
        if self._closed is None:
            self._closed = WebSocketClosed(code, reason)
        return self._closed
