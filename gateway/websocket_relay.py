"""A WebSocket between a client and a stream on the bus: messages, pings answered here, close codes both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, NamedTuple

from gateway.body_memory import BodyShare
from gateway.body_streams import Receive, Send
from gateway.header_translation import Pairs, crossing
from gateway.problems import public_detail
from mesh import headers
from mesh.bus import Reply
from mesh.client import StreamingCall
from mesh.defaults import WEBSOCKET_MESSAGE
from mesh.errors import BadReply, MeshError
from mesh.streams import frames
from mesh.streams.close_codes import (
    GOING_AWAY,
    INTERNAL,
    NORMAL,
    RESTART,
    TOO_BIG,
    TRY_AGAIN_LATER,
    close_payload,
    is_sendable,
    read_close,
)

FAREWELL_S = 1.0
"""How long the service has to answer the client's close."""


class Accepted(NamedTuple):
    """A service accepts a handshake: with that subprotocol, and these headers for the client."""

    subprotocol: str | None
    headers: Pairs


class WebSocketRelay:
    """One connection, from the handshake on. `close` it whatever happens; ``total_s`` 0 lets it last.

    ``subprotocols`` are those that the client offers; ``share`` counts the memory of messages for it.
    """

    def __init__(
        self,
        conversation: StreamingCall,
        receive: Receive,
        send: Send,
        *,
        subprotocols: Collection[str],
        total_s: float,
        share: BodyShare,
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._conversation = conversation
        self._stream = conversation.stream
        self._receive = receive
        self._send = send
        self._subprotocols = subprotocols
        self._share = share
        share.keep()  # a message of the service makes no room for others
        self._total_s = total_s
        self._leaving = asyncio.Event()

    def go_away(self) -> None:
        """End it: this gateway is stopping."""
        self._leaving.set()

    def close(self) -> None:
        self._share.release()
        self._conversation.close()

    async def handshake(self, timeout: float) -> Accepted | Reply:
        """The service's answer to the handshake: an acceptance, or the reply that refuses it.

        Raises `BadReply` if the service chose a subprotocol that the client does not offer: the client would have
        to fail the connection (RFC 6455 section 4.1).
        """
        reply = await self._conversation.head(timeout)
        pairs = headers.decode(reply.block)
        if headers.find(pairs, headers.STATUS) != b"101":
            return reply
        chosen = (headers.find(pairs, b"sec-websocket-protocol") or b"").decode("latin-1")
        if chosen and chosen not in self._subprotocols:
            raise BadReply(f"the service chose the subprotocol {chosen[:80]!r}, which the client does not offer")
        # uvicorn dates the handshake itself.
        crossed = [(n, v) for n, v in crossing(pairs) if not n.startswith(b"sec-websocket-") and n != b"date"]
        return Accepted(chosen or None, crossed)

    async def run(self) -> str:
        """Carry messages until one side closes. The reason for the log, empty if a side closed it."""
        up = asyncio.create_task(self._up(), name="websocket up")
        down = asyncio.create_task(self._down(), name="websocket down")
        leaving = asyncio.create_task(self._leaving.wait(), name="websocket leaving")
        tasks = (up, down, leaving)
        try:
            await asyncio.wait(tasks, timeout=self._total_s or None, return_when=asyncio.FIRST_COMPLETED)
            if down.done():
                return down.result()
            if up.done():
                up.result()
                await asyncio.wait([down], timeout=FAREWELL_S)
                return ""
            code = GOING_AWAY if leaving.done() else NORMAL
            await self._bye(code, "the gateway is stopping" if leaving.done() else "the connection lasted long enough")
            return "draining" if leaving.done() else "stream_timeout"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def fail(self) -> None:
        """Close it after an unexpected exception."""
        await self._close(INTERNAL, "the gateway failed")

    async def _bye(self, code: int, reason: str) -> None:
        self._stream.end(frames.CLOSE, close_payload(GOING_AWAY, reason))
        self._stream.end_reading()
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _up(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code")
                payload = close_payload(code if isinstance(code, int) else 1005, message.get("reason") or "")
                self._stream.end(frames.CLOSE, payload)
                return
            text = message.get("text")
            data: bytes = message["bytes"] if text is None else text.encode()
            self.bytes_in += len(data)
            try:
                await self._stream.write(data, frames.BINARY if text is None else frames.TEXT)
            except MeshError:
                return  # the other direction sees the same, and says it

    async def _down(self) -> str:
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                frame = await self._stream.read()
            except MeshError as error:
                code = RESTART if error.reason in ("stopped", "instance_lost") else INTERNAL
                await self._close(code, public_detail(error))
                return error.reason
            if frame is None:
                await self._close(INTERNAL, "the service ended the connection without a word")
                return "stream_broken"
            if frame.kind == frames.CLOSE:
                close = read_close(frame.payload)
                self._stream.end(frames.CLOSE, frame.payload)
                await self._close(close.code if is_sendable(close.code) else NORMAL, close.reason)
                return ""
            size += len(frame.payload)
            try:
                self._share.take(len(frame.payload))
            except MeshError as error:
                self._stream.end(frames.CLOSE, close_payload(TRY_AGAIN_LATER))
                await self._close(TRY_AGAIN_LATER, error.detail)
                return error.reason
            if size > WEBSOCKET_MESSAGE:
                self._stream.end(frames.CLOSE, close_payload(TOO_BIG))
                await self._close(INTERNAL, f"a message of the service has more than {WEBSOCKET_MESSAGE} bytes")
                return "too_large"
            parts.append(frame.payload)
            if frame.kind.endswith(frames.MORE):
                continue
            whole = b"".join(parts) if len(parts) > 1 else parts[0]
            self.bytes_out += size
            parts, size = [], 0
            message: dict[str, Any] = {"type": "websocket.send"}
            if frame.kind == frames.TEXT:
                message["text"] = whole.decode(errors="replace")
            else:
                message["bytes"] = whole
            await self._send(message)
            self._share.give(len(whole))

    async def _close(self, code: int, reason: str) -> None:
        await self._send(
            {"type": "websocket.close", "code": code, "reason": read_close(close_payload(code, reason)).reason}
        )
