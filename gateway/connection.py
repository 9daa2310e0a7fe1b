"""One HTTP connection: uvicorn's protocol, with the guards that it lacks, and the direct lane for proxied requests.

Framing (what is one request, where it ends) is llhttp's and uvicorn's; so are upgrades, chunked responses, the set of
connections and the end of the server. Added here, for both lanes: deadlines for headers and bodies, a bound on what
headers may take before they are complete, errors of framing as problem documents that never overtake the answer to an
earlier request, and pipelined requests that wait without growing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.core import Core
from gateway.cycle import Cycle
from gateway.direct import Direct
from gateway.forward import Forwarder
from gateway.headers import Head, Pairs, lines_of, read_head
from gateway.health import OWN
from gateway.listener import KEEP_ALIVE_S
from gateway.problems import refuse
from gateway.repeated import Repeated, remember
from mesh.config import GatewaySettings

LINGER_S = 2.0
"""Seconds for which a client that was refused may go on sending."""

_NOT_DIRECT = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
_OWN = tuple(own.encode() for own in OWN)


def public_protocol(core: Core, forwarder: Forwarder, settings: GatewaySettings) -> Callable[..., Connection]:
    """For uvicorn's ``http=``: what makes the connections of the public listener."""
    return partial(Connection, core, forwarder, settings)


class Malformed(Exception):
    """What the parser lets through and is no request all the same."""


class Connection(HttpToolsProtocol):
    """A client's connection. ``check`` must be called now and then: it is where deadlines are kept."""

    cycle: Any  # the request that was begun last: uvicorn's cycle, or a `Direct`

    def __init__(self, core: Core, forwarder: Forwarder, settings: GatewaySettings, /, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._core = core
        self.forwarder = forwarder
        self._direct = settings.http_lane == "direct"
        self._head_s = settings.head_s or float("inf")
        self._body_s = settings.body_idle_s or float("inf")
        # Headers that are not complete cannot be judged by their number; nothing sensible is longer than this.
        self._most = settings.max_header_bytes + settings.max_target + 4096
        self._max_target = settings.max_target
        self._current: Any = None  # the request that is being answered
        self._advancing = False
        self._in_head = False
        self._between = True  # nothing has come of the next request
        self._begun: Head | None = None  # headers of the request that what came last began on the direct lane
        self._repeated: Repeated | None = None
        self._head_bytes = 0
        self._deaf = False  # nothing that comes is read any more
        self._refusal: tuple[int, str, str] | None = None
        self._since = self.loop.time()
        self.address = ""

    # -- from the socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._in_head:
            self._head_bytes += len(data)
        between = self._between
        if between and self._repeated is not None and self._again(self._repeated, data):
            return
        self._begun = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
            # Another protocol than WebSocket is not spoken here: the request is answered as it is, and the last one.
            self._deaf = True
            if self.cycle is not None:
                self.cycle.keep_alive = False
            return
        except httptools.HttpParserError as error:
            self._refuse_later(400, "bad_request", f"this is not HTTP/1.1: {_reason(error)}")
            return
        if self._in_head and self._head_bytes > self._most:
            if len(self.url) > self._max_target:
                self._refuse_later(414, "target_too_long", f"the target is longer than {self._max_target} bytes")
            else:
                self._refuse_later(431, "headers_too_large", f"headers of more than {self._most} bytes")
        if between:
            self._repeated = remember(data, self._begun) if self._begun is not None else None

    def _again(self, repeated: Repeated, data: bytes) -> bool:
        """Begin the request in ``data`` without the parser, where it is one with the same headers as before."""
        request = repeated.read(data)
        if request is None or self._is_for_gateway(request[0], request[1]):
            return False
        method, path, query, body = request
        direct = Direct(self._core, self, method, path, query, repeated.head, True)
        direct.more_body = False
        if body:
            direct.pieces.append(body)
        self._append(direct, None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        current, self._current = self._current, None
        self.pipeline.clear()
        if isinstance(current, Direct):
            current.gone()
        elif current is not None and current is not self.cycle and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        if isinstance(self.cycle, Direct):
            self.cycle = None
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    # -- from the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = True
        self._between = False
        self._head_bytes = 0
        self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        head = read_head(self.headers)
        if head.hosts != 1 and (head.hosts > 1 or self.parser.get_http_version() != "1.0"):
            raise Malformed(f"a request names one host, and this one names {head.hosts}")
        if not self._direct or not self._begin_direct(head):
            self._begin_asgi(head)

    def _begin_direct(self, head: Head) -> bool:
        """Begin a request on the direct lane, where it is one for it: a proxied one, of at most one message."""
        known, url, parser = head.known, self.url, self.parser
        if known.keys() & _NOT_DIRECT or url[:1] != b"/" or b"#" in url:
            return False
        keep_alive = parser.should_keep_alive()
        if (b"connection" in known or not keep_alive) and parser.get_http_version() != "1.1":
            return False
        length = known.get(b"content-length")
        if length is not None and int(length) >= self._core.bus.max_payload:
            return False
        path, _, query = url.partition(b"?")
        method = parser.get_method().decode("ascii")
        if self._is_for_gateway(method, path):
            return False
        self._begun = head if keep_alive else None
        self._append(Direct(self._core, self, method, path, query, head, keep_alive), None)
        return True

    def _is_for_gateway(self, method: str, path: bytes) -> bool:
        """Whether the gateway answers itself."""
        return method == "OPTIONS" or path.startswith(_OWN) or (path.find(b"%") >= 0 and self._core.is_own(_text(path)))

    def _begin_asgi(self, head: Head) -> None:
        """Begin a request whose answer is an ASGI call, or a WebSocket's."""
        parser = self.parser
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Malformed(f"HTTP/{version} is not spoken here")
        self.headers = [(name.lower(), value) for name, value in self.headers]
        scope = self._scope(parser.get_method().decode("ascii"), version, self.headers)
        self.scope = scope  # type: ignore[assignment]
        if parser.should_upgrade() and self._should_upgrade():
            return
        try:
            parsed = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            raise Malformed("its target is no URL") from None
        path = parsed.path or b""
        scope["path"], scope["raw_path"], scope["query_string"] = _text(path), path, parsed.query or b""
        expects = head.known.get(b"expect", b"").lower() == b"100-continue"
        self._append(self._cycle(scope, expects, version == "1.1" and parser.should_keep_alive()), self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._since = self.loop.time()
        if isinstance(cycle, Direct):
            if not cycle.response_complete:
                cycle.pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        cycle = self.cycle
        if isinstance(cycle, Direct):
            cycle.complete()
        else:
            super().on_message_complete()

    # -- one request after the other

    def _append(self, cycle: Any, app: Any) -> None:
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._begin(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def _begin(self, cycle: Any, app: Any) -> None:
        """It is this request's turn, unless its client does not even read the answers to earlier ones."""
        if self.flow.write_paused:
            self.flow.pause_reading()
            self.pipeline.append((cycle, app))
            return
        self._current = cycle
        if isinstance(cycle, Direct):
            cycle.start()
        else:
            self._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._current = None
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline or self._refusal is not None or self.flow.read_paused:
            self._advance()

    def _advance(self) -> None:
        """Answer what waits: in a loop, as thousands may have come in one piece, and each may be refused at once."""
        if self._advancing or self._current is not None:
            return
        self._advancing = True
        try:
            while self.pipeline and self._current is None and not self.flow.write_paused:
                if self.transport.is_closing():
                    return
                self._begin(*self.pipeline.pop())
        finally:
            self._advancing = False
        if self._current is None and not self.pipeline:
            if self._refusal is not None:
                self._refuse(*self._refusal)
            else:
                self.flow.resume_reading()

    # -- answers of the direct lane

    def write(self, status: int, lines: bytes, body: bytes, *, close: bool) -> None:
        """A whole response; ``lines`` are its headers, each ending in CRLF. ``close`` tells the client that it is the
        last on this connection."""
        large = len(body) > 65_536  # not worth a copy
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], self._date(lines), lines, end, b"" if large else body)))
        if large:
            self.transport.write(body)

    def _date(self, lines: bytes) -> bytes:
        """The line of ``Date``; empty where ``lines``, whose names are lower-case, have it already."""
        if b"\r\ndate: " in lines or lines.startswith(b"date: "):
            return b""
        global _date_of, _date
        given = self.server_state.default_headers
        if given is not _date_of:  # uvicorn makes a new one every second
            _date_of, _date = given, lines_of(given)
        return _date

    def hand_over(self, direct: Direct, run: Callable[..., Any]) -> None:
        """Go on with a request of the direct lane as an ASGI call: ``run(receive, send)``. Its body is read."""
        cycle = self._cycle(self._scope(direct.method, "1.1", []), False, direct.keep_alive)
        cycle.more_body = False
        cycle.message_event.set()
        if self.cycle is direct:
            self.cycle = cycle
        self._current = cycle

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await run(receive, send)

        self._start_asgi_task(cycle, app)

    def _cycle(self, scope: dict[str, Any], expects: bool, keep_alive: bool) -> Cycle:
        return Cycle(
            scope=scope,  # type: ignore[arg-type]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _scope(self, method: str, version: str, pairs: Pairs) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": method,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": pairs,
            "state": self.app_state.copy(),
        }

    # -- what is no request

    def _refuse_later(self, status: int, reason: str, detail: str) -> None:
        """Answer with an error and close: after the answers to requests that came before."""
        current = self._current
        if current is not None and current is self.cycle and current.more_body:
            # It is this request that is broken.
            if isinstance(current, Direct):
                current.broken(status, reason)
            elif current.response_started:
                self.transport.close()
                return
            else:
                current.disconnected = True
                current.message_event.set()
            self._current = None
            self._refuse(status, reason, detail)
        elif current is not None or self.pipeline:
            self._refusal, self._deaf = (status, reason, detail), True
            self.flow.pause_reading()
        else:
            self._refuse(status, reason, detail)

    def _refuse(self, status: int, reason: str, detail: str) -> None:
        self._deaf = True
        exchange = self._core.begin("-", b"", b"", read_head([]), self.address, self.scheme or "http")
        status, out, body = self._core.refused(exchange, refuse(status, reason, detail))
        exchange.entry.status, exchange.entry.bytes_out = status, len(body)
        self._core.finish(exchange)
        self.write(status, lines_of([*out, (b"x-request-id", exchange.request_id)]), body, close=True)
        if self.transport.can_write_eof():
            # Closed with something unread, a connection is reset, and the client might never see why: read on a while.
            self._since = self.loop.time()
            self.transport.write_eof()
        else:
            self.transport.close()

    def check(self, now: float) -> None:
        """Keep the deadlines: of headers, of a body, and of a connection that nobody uses."""
        if self.transport.is_closing():
            return
        waited, current = now - self._since, self._current
        if self._deaf:
            if waited > LINGER_S and current is None:
                self.transport.close()
        elif self._in_head:
            if waited > self._head_s:
                self._refuse_later(408, "request_timeout", f"the headers took longer than {self._head_s:g} s")
        elif current is None:
            if waited > KEEP_ALIVE_S:
                self.transport.close()
        elif (
            current.more_body
            and current is self.cycle
            and not self.flow.read_paused
            and waited > self._body_s + 1  # where the body is read as a stream, that has noticed it before
            and not (isinstance(current, Cycle) and current.response_started)
        ):
            self._refuse_later(408, "request_timeout", f"nothing of the body came for {self._body_s:g} s")


def _text(path: bytes) -> str:
    """A path as the ASGI lane knows it."""
    return unquote(path.decode("latin-1"))


_date_of: Any = None
_date = b""


def _reason(error: httptools.HttpParserError) -> str:
    """What llhttp says, or what went wrong in one of our callbacks."""
    cause = error.__context__
    text = str(cause if isinstance(error, httptools.HttpParserCallbackError) and cause is not None else error)
    return text[:200] or type(error).__name__
