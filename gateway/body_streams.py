"""Bodies in pieces between an HTTP client and a stream on the bus, each as fast as the slower of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mesh.client import StreamingCall
from mesh.errors import StreamBroken, TooLarge
from mesh.streams import Stream, frames

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client closed its connection before there was an answer."""


class TooLong(StreamBroken):
    """A stream took longer than the gateway allows."""

    reason = "stream_timeout"


def join_pieces(body: bytes | bytearray, piece: bytes) -> bytes | bytearray:
    """``body`` with one more piece. Kept apart, many small pieces would take more memory than what is in them."""
    if not body:
        return piece
    if not isinstance(body, bytearray):
        body = bytearray(body)
    body += piece
    return body


async def read_body(receive: Receive, limit: int) -> tuple[bytes, bool]:
    """A request's body up to ``limit`` bytes and a piece, and whether that is all of it.

    Raises `ClientGone`.
    """
    body: bytes | bytearray = b""
    while True:
        # `receive` is also what makes uvicorn send 100 Continue: not before route and limits have passed.
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body = join_pieces(body, message.get("body", b""))
        if not message.get("more_body"):
            return bytes(body), True
        if len(body) > limit:
            return bytes(body), False


class Upload:
    """Moves a request's body from the client to the service, in a task of its own.

    ``begun`` has been read already, and ``limit`` bytes may come in all (0: any number). ``gone`` is called with the
    size of each piece that does not wait here any more.
    """

    def __init__(
        self,
        receive: Receive,
        begun: bytes,
        stream: Stream,
        *,
        idle_s: float,
        limit: int,
        gone: Callable[[int], None] | None,
    ) -> None:
        self.size = 0
        self._receive = receive
        self._begun = begun
        self._gone = gone
        self._stream = stream
        self._idle_s = idle_s or None
        self._limit = limit
        self._task = asyncio.create_task(self._move(), name="upload")

    @property
    def done(self) -> bool:
        """True if the whole body has gone."""
        return self._task.done() and not self._task.cancelled() and self._task.exception() is None

    @property
    def client_gone(self) -> bool:
        """True if the client went away before its body had gone."""
        return self._task.done() and not self._task.cancelled() and isinstance(self._task.exception(), ClientGone)

    def then(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when it has ended in whatever way."""
        self._task.add_done_callback(lambda _: callback())

    async def until_answered(self, conversation: StreamingCall) -> None:
        """Return when the body has gone, or, earlier, when there is an answer.

        Raises `ClientGone`, `TooLong` if the client sends nothing for too long, or what broke the stream.
        """
        answer = asyncio.ensure_future(conversation.when_answered())
        try:
            await asyncio.wait([self._task, answer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            answer.cancel()
        if self._task.done() and not conversation.answered:
            self._task.result()

    async def end(self) -> None:
        """Stop, wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _move(self) -> None:
        begun, self._begun = self._begun, b""
        if begun:
            await self._write(begun)
            del begun
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await self._receive()
            except TimeoutError:
                error = TooLong(f"the client sent nothing of the body for {self._idle_s:g} s")
                error.status, error.title = 408, "Request timeout"
                raise error from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            await self._write(message.get("body", b""))
            if not message.get("more_body"):
                self._stream.end()
                return

    async def _write(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._limit and self.size > self._limit:
            raise TooLarge(f"the body has more than {self._limit} bytes", executed="unknown")  # its handler reads
        await self._stream.write(piece)
        if self._gone is not None:
            self._gone(len(piece))


async def send_stream(stream: Stream, send: Send, *, idle_s: float, total_s: float) -> int:
    """Give the client what comes on ``stream``, and the end; the bytes that it was.

    Raises what broke the stream, `TooLong` after ``idle_s`` seconds without a piece or ``total_s`` in all (0: never).
    The response then has no end: uvicorn closes the connection, and the client sees that it is cut off.
    """
    size = 0
    try:
        async with asyncio.timeout(total_s or None):
            while True:
                async with asyncio.timeout(idle_s or None):
                    frame = await stream.read()
                if frame is None:
                    break
                if frame.kind != frames.DATA:
                    raise StreamBroken(f"a {frame.kind.decode()} frame in a body")
                size += len(frame.payload)
                await send({"type": "http.response.body", "body": frame.payload, "more_body": True})
    except TimeoutError:
        raise TooLong("the service sent nothing for too long, or the whole took too long") from None
    await send({"type": "http.response.body", "body": b""})
    return size
