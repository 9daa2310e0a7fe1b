"""One request that is answered by an ASGI call: uvicorn's cycle, with one ``Date``, and responses that a client of
HTTP/1.0 can read."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Cycle(RequestResponseCycle):
    """Without a length, a response to HTTP/1.0 ends with its connection: there were no chunks then (RFC 9112
    section 6.1). uvicorn sends them all the same."""

    until_close = False

    async def send(self, message: Any) -> None:
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
