"""The response of an ASGI call: uvicorn's ``RequestResponseCycle``, with one ``Date``, and readable for HTTP/1.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.body_memory import BodyShare
from mesh.errors import MeshError


class Flow(FlowControl):
    """Flow control that asks the connection before reading goes on: uvicorn resumes it whatever else is to be read."""

    def __init__(self, transport: Any, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._go_on = go_on

    def resume_reading(self) -> None:
        self._go_on()

    def read(self, goes_on: bool) -> bool:
        """Read if ``goes_on``, else pause. True if reading was paused and goes on now."""
        if not goes_on:
            self.pause_reading()
        elif self.read_paused:
            super().resume_reading()
            return True
        return False

    def end(self) -> None:
        """The connection is gone."""
        self._go_on = _nothing


class AsgiResponse(RequestResponseCycle):
    """A response without a length to HTTP/1.0 ends with its connection, as chunks are not known there (RFC 9112
    section 6.1). uvicorn would send chunks.

    ``share`` is the memory that its body takes, ``sent`` the number of messages of its response.
    """

    until_close = False
    share: BodyShare | None = None
    sent = 0

    @property
    def is_full(self) -> bool:
        """True if more of the body has come than should wait here."""
        return len(self.body) > HIGH_WATER_LIMIT

    def take(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self.body += piece
        if self.is_full:
            self.flow.pause_reading()
        self.message_event.set()

    def complete(self) -> None:
        """The body is complete."""
        if not self.response_complete:
            self.more_body = False
            self.message_event.set()

    def broken(self, error: MeshError) -> None:
        """The rest of the request is unusable; the connection answers the client."""
        self.disconnected = True
        self.message_event.set()

    async def send(self, message: Any) -> None:
        self.sent += 1
        if not self.response_started:
            if b"date" in dict(message["headers"]):
                self.default_headers = []  # its own is one
            if self.scope["http_version"] == "1.0" and not any(n == b"content-length" for n, _ in message["headers"]):
                self.until_close = True
                self.chunked_encoding = False
            await super().send(message)
        elif self.until_close and not self.response_complete:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._write(message.get("body", b""), last=not message.get("more_body", False))
        else:
            await super().send(message)

    def _write(self, body: bytes, *, last: bool) -> None:
        if body and self.scope["method"] != "HEAD":
            self.transport.write(body)
        if last:
            self.response_complete = True
            self.message_event.set()
            self.transport.close()
            self.on_response()


def _nothing() -> None:
    """Called in place of a connection that has ended."""
