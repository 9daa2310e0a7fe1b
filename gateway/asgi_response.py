"""One request that is answered by an ASGI call: uvicorn's cycle, with one ``Date``, and responses that a client of
HTTP/1.0 can read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.body_memory import Body
from gateway.body_streams import ClientGone
from mesh.errors import MeshError


class Flow(FlowControl):
    """Reading goes on only where its connection says so: uvicorn's cycles resume it whatever else waits to be read."""

    def __init__(self, transport: Any, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._go_on = go_on

    def resume_reading(self) -> None:
        self._go_on()

    def read(self, goes_on: bool) -> bool:
        """Read, or do not; whether that begins reading anew."""
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
    """Without a length, a response to HTTP/1.0 ends with its connection: there were no chunks then (RFC 9112
    section 6.1). uvicorn sends them all the same.

    ``held`` is the memory that its body takes, ``sent`` the number of messages of its response, ``refusal`` the error
    of a request that its client broke.
    """

    refusal: MeshError | None = None
    until_close = False
    held: Body | None = None
    sent = 0

    @property
    def is_full(self) -> bool:
        """Whether more of the body has come than should wait here."""
        return len(self.body) > HIGH_WATER_LIMIT

    def take(self, piece: bytes) -> None:
        """A piece of the body."""
        self.waiting_for_100_continue = False  # it does not wait for us (RFC 9110 section 10.1.1)
        self.body += piece
        if self.is_full:
            self.flow.pause_reading()
        self.message_event.set()

    def complete(self) -> None:
        """The whole request is here."""
        self.waiting_for_100_continue = False
        if not self.response_complete:
            self.more_body = False
            self.message_event.set()

    def broken(self, error: MeshError) -> None:
        """The rest of the request is unusable; who says so to the client has been told already."""
        self.refusal = error
        self.waiting_for_100_continue = False
        self.disconnected = True
        self.message_event.set()

    async def receive(self) -> Any:
        message = await super().receive()
        if self.refusal is not None:
            return {**message, "refusal": self.refusal}
        return message

    async def send(self, message: Any) -> None:
        """Send a message of the response. Raises `ClientGone` if its first one finds no client; uvicorn says nothing
        then, and fails at the next message."""
        self.sent += 1
        if not self.response_started:
            if b"date" in dict(message["headers"]):
                self.default_headers = []  # its own is one
            if self.scope["http_version"] == "1.0" and not any(n == b"content-length" for n, _ in message["headers"]):
                self.until_close = True
                self.chunked_encoding = False
            await super().send(message)
            if not self.response_started:
                raise ClientGone(self.refusal)
        elif self.until_close and not self.response_complete:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._write(message.get("body", b""), last=not message.get("more_body", False))
        else:
            await super().send(message)

    async def send_500_response(self) -> None:
        with suppress(ClientGone):
            await super().send_500_response()

    def _write(self, body: bytes, *, last: bool) -> None:
        if body and self.scope["method"] != "HEAD":
            self.transport.write(body)
        if last:
            self.response_complete = True
            self.message_event.set()
            self.transport.close()
            self.on_response()


def _nothing() -> None:
    """Nobody reads any more."""
