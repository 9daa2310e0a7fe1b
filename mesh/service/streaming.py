"""Bodies in pieces: responses that a handler yields, and request bodies that it reads with ``async for``."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec

from mesh import codec
from mesh.bus import Bus
from mesh.errors import StreamBroken, TooLarge
from mesh.service.context import Context
from mesh.service.http_messages import Response
from mesh.streams import Stream, frames

BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"


class Event(msgspec.Struct, frozen=True):
    """One server-sent event (HTML standard, section 9.2).

    data: text, or a value that is sent as JSON
    event: its type; empty for none
    id: its id, which a client sends when it connects again; empty for none
    retry: milliseconds after which a client connects again; None for the client's default
    """

    data: Any = ""
    event: str = ""
    id: str = ""
    retry: int | None = None

    def encode(self) -> bytes:
        """The event as it is sent: lines, and an empty line at the end."""
        text = self.data if isinstance(self.data, str) else codec.encode(self.data).decode()
        lines = [f"{name}: {_one_line(value)}\n" for name, value in (("event", self.event), ("id", self.id)) if value]
        if self.retry is not None:
            lines.append(f"retry: {self.retry}\n")
        lines += [f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        return "".join([*lines, "\n"]).encode()


def _one_line(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ").replace("\0", " ")


class StreamingResponse(Response):
    """A response whose body comes from an asynchronous iterator, piece by piece, as fast as the client reads.

    content: yields bytes or text; it is closed when the client goes
    status: as in `Response`
    headers: as in `Response`
    content_type: the type of the body
    """

    __slots__ = ("cleanup", "content")

    def __init__(
        self,
        content: AsyncIterable[bytes | str],
        status: int = 200,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
        content_type: str = BYTES,
    ) -> None:
        super().__init__(None, status, headers, content_type)
        self.content = content
        self.cleanup: AsyncExitStack | None = None
        """The dependencies of the request, torn down after the stream."""

    async def aclose(self) -> None:
        """Close the iterator and tear down the dependencies of the request."""
        close: Callable[[], Awaitable[None]] | None = getattr(self.content, "aclose", None)
        try:
            if close is not None:
                await close()
        finally:
            if self.cleanup is not None:
                await self.cleanup.aclose()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body's pieces, none of them empty."""
        async for piece in self.content:
            if piece:
                yield piece.encode() if isinstance(piece, str) else bytes(piece)


def item_type(annotation: Any) -> Any:
    """The type of the items of an asynchronous generator, by its return annotation; Any without one."""
    arguments = typing.get_args(annotation)
    return arguments[0] if arguments else Any


def streamed(
    items: AsyncIterable[Any], kind: Any, encode: Callable[[Any], bytes], status: int, accept: str
) -> StreamingResponse:
    """The response for what a handler yields.

    Bytes and text are sent as they are, `Event` as server-sent events; other values as server-sent events if the client
    asks for them, else as lines of JSON.

    items: what the handler yields
    kind: the type of the items
    encode: makes JSON of one item
    status: the status of the response
    accept: the Accept header of the request
    """
    if kind is bytes:
        return StreamingResponse(items, status, content_type=BYTES)
    wants_events = EVENTS in accept
    if kind is Event or wants_events:
        no_cache = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(_each(items, partial(_as_event, encode)), status, no_cache, EVENTS)
    if kind is str:
        return StreamingResponse(items, status, content_type=TEXT)
    return StreamingResponse(_each(items, partial(_as_line, encode)), status, content_type=LINES)


async def _each(items: AsyncIterable[Any], show: Callable[[Any], bytes]) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            yield show(item)
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _as_event(encode: Callable[[Any], bytes], item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, Event):
        return item.encode()
    return Event(item if isinstance(item, str) else encode(item).decode()).encode()


def _as_line(encode: Callable[[Any], bytes], item: Any) -> bytes:
    return item if isinstance(item, bytes) else encode(item) + b"\n"


class IncomingBody:
    """A request's body that follows its message as a stream; the caller sends nothing of it before `pieces` reads."""

    def __init__(self, bus: Bus, reply: bytes, stream: Stream, context: Context) -> None:
        self.stream = stream
        self._context = context
        self._timeout = context.remaining
        self._bus = bus
        self._reply = reply
        self._accepted = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body's pieces in order. Raises `StreamBroken` if the stream ends before the body does."""
        if self._accepted:
            raise RuntimeError("the body has been read")
        self._accepted = True
        accept = b"NATS/1.0\r\nMesh-Stream: %b\r\nMesh-Credit: %d\r\n\r\n" % (self.stream.own, self.stream.window)
        self._bus.publish(self._reply, b"", accept, self.stream.own)
        while (frame := await self.stream.read()) is not None:
            if frame.kind != frames.DATA:
                raise StreamBroken(f"a {frame.kind.decode()} frame in a body")
            # The deadline is for the handler, not for a slow client: it starts again with every piece.
            self._context.deadline = asyncio.get_running_loop().time() + self._timeout
            yield frame.payload

    async def gather(self, limit: int) -> bytes:
        """The whole body. Raises `TooLarge` as soon as it has more than ``limit`` bytes."""
        parts: list[bytes] = []
        size = 0
        async for part in self.pieces():
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes; this handler takes it as a whole")
            parts.append(part)
        return b"".join(parts)
