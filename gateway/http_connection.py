"""One HTTP connection: uvicorn's protocol, with the guards that it lacks, and the direct lane for proxied requests.

Framing (what is one request, where it ends) is llhttp's; chunked responses, upgrades, the set of connections and the
end of the server are uvicorn's. Added here, for both lanes: what a request must be beyond that (`gateway.framing`),
deadlines, bounds on what a client may have in memory, errors of framing as problem documents that never overtake the
answer to an earlier request, and pipelined requests that wait without growing.

What comes is read in slices, and only while it has a place (`_may_read`): as the rest of the request that is being
answered, or as the beginning of the next one. A connection that has done much at a stretch lets others go on first
(`gateway.fair_turns`). Everything that may change that ends in `_go_on`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.asgi_lane import AsgiLane
from gateway.asgi_response import AsgiResponse, Flow
from gateway.direct_lane import DirectRequest
from gateway.fair_turns import ANSWER, HEADERS, RESTED_S, TURN, Turns
from gateway.framing import bad_request, check_handshake, check_head, check_trailer, length_of, read_target
from gateway.header_translation import Head, lines_of, read_head
from gateway.health import OWN
from gateway.listener import KEEP_ALIVE_S
from gateway.listening_sockets import has_closed
from gateway.problems import refuse
from gateway.request_lifecycle import RequestLifecycle
from gateway.slow_clients import OutgoingBuffer
from mesh.errors import MeshError
from mesh.headers import Pairs
from mesh.settings import GatewaySettings

LINGER_S = 2.0
"""Seconds for which a client that was refused may go on sending."""
HALF_CLOSED_S = 0.5
"""Seconds that a client which has closed its half waits for its answer to begin, or to go on: it may have gone."""
SLICE = 2 * 1024
"""Bytes that are read at once: up to 75 requests, or 340 pieces of a body, a millisecond of work. Requests that wait
take more memory than their bytes, too: no more are read than that."""
BODY_SLICE = 16 * 1024
"""The same within a body of known length: they are one piece."""
REMEMBERED = 2048
"""Bytes of headers that are remembered for a connection."""

_NOT_DIRECT = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
_OWN = tuple(own.encode() for own in OWN)
_log = logging.getLogger("mesh.gateway")


def public_protocol(
    core: RequestLifecycle, forwarder: AsgiLane, settings: GatewaySettings
) -> Callable[..., Connection]:
    """For uvicorn's ``http=``: what makes the connections of the public listener."""
    return partial(Connection, core, forwarder, settings, Turns())


class Stage(Enum):
    """What comes next from the client."""

    BETWEEN = "the first byte of a request"
    HEAD = "the rest of its request line or headers"
    BODY = "the rest of its body, chunks and trailers"
    LAST = "nothing that counts: the request that came is the last one"
    OVER = "nothing that is read; answers are still due"
    LINGER = "nothing that is looked at; everything is answered"


_BETWEEN, _HEAD, _BODY, _LAST, _OVER, _LINGER = Stage  # members of an enum take long to find


class Connection(HttpToolsProtocol):
    """A client's connection. ``check`` must be called now and then: it is where deadlines are kept."""

    cycle: Any  # the request that was begun last: a `AsgiResponse` or a `DirectRequest`
    flow: Flow

    def __init__(
        self, core: RequestLifecycle, forwarder: AsgiLane, settings: GatewaySettings, turns: Turns, /, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._core = core
        self._turns = turns
        self.forwarder = forwarder
        self._direct = settings.http_lane == "direct"
        self._head_s = settings.head_s or float("inf")
        self._body_s = settings.body_idle_s or float("inf")
        # Headers that are not complete cannot be judged by their number; nothing sensible is longer than this.
        self._most = settings.max_header_bytes + settings.max_target + 4096
        self._max_target = settings.max_target
        self.address = ""

        # What comes
        self._stage = _BETWEEN
        self._unread: bytes | memoryview = b""  # came, and has no place yet
        self._left = 0  # of a body of known length
        self._work = 0  # done at a stretch, see `gateway.fair_turns`
        self._waits = False  # for its next turn
        self._head_bytes = 0  # of the head, or since the last piece of the body: chunk sizes and trailers
        self._incoming: Any = None  # the request whose body is coming; it may still wait for its turn
        self._is_handshake = False
        self._known: tuple[Pairs, Head] | None = None  # headers that came before, and what they come to
        self._since = self.loop.time()  # when something came that counts, or was answered

        # What is answered
        self._current: Any = None  # the request that is being answered
        self._last: Callable[[], None] | None = None  # to do when everything is answered: a refusal, or an upgrade
        self._going_on = False
        self._has_closed = False  # the client has closed its half
        self._progress: object = None  # what the client had been sent when it was last looked at
        self._outgoing = OutgoingBuffer()

    # -- from the socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self._go_on)
        self.address = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        if self._unread or self._waits or len(data) > SLICE:
            if self._stage is not _LINGER:
                self._unread = memoryview(b"".join((self._unread, data)) if self._unread else data)
                self._go_on()
        else:
            self._feed(data)
            if self._work >= TURN:
                self._go_on()

    def _feed(self, data: bytes | memoryview) -> None:
        if self._stage is _LAST:  # nobody reads what follows it, however much that is
            self._stage, self._unread = _OVER, b""
            self.flow.pause_reading()
        if self._stage is _OVER or self._stage is _LINGER:
            return
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(has_more=upgrade.args[0] < len(data) or bool(self._unread))
        except httptools.HttpParserError as error:
            self._refuse_later(_refusal(error))
        else:
            if self._head_bytes > self._most and (self._stage is _HEAD or self._stage is _BODY):
                self._refuse_later(self._too_large())

    def _too_large(self) -> MeshError:
        if self._stage is _BODY:
            return refuse(431, "headers_too_large", f"trailers or chunk sizes of more than {self._most} bytes")
        if len(self.url) > self._max_target:
            return refuse(414, "target_too_long", f"the target is longer than {self._max_target} bytes")
        return refuse(431, "headers_too_large", f"headers of more than {self._most} bytes")

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its half, or all: the connection stays for the answers to requests that are whole."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming is not self._current and self.pipeline:
            _release(incoming)
            self.pipeline.popleft()  # it will never be whole
            incoming = None
        last = self.pipeline[0][0] if self.pipeline else self._current
        if incoming is not None or last is None:
            return False
        last.keep_alive = False
        self._stage, self._has_closed, self._since = _OVER, True, self.loop.time()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        current, self._current = self._current, None
        self._stage, self._unread, self._last, self._incoming = _LINGER, b"", None, None
        self._waits = False
        for cycle in (current, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            _release(cycle)
        self.pipeline.clear()
        if isinstance(current, DirectRequest):
            current.gone()
        elif current is not None and current is not self.cycle and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        if isinstance(self.cycle, DirectRequest):
            self.cycle = None
        self.flow.end()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    # -- from the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._stage = _HEAD
        self._head_bytes = 0
        now = self.loop.time()
        if now - self._since > RESTED_S:
            self._work = 0
        self._since = now

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is _HEAD:
            self.headers.append((name, value))
        else:
            check_trailer(name)  # and it is dropped

    def on_headers_complete(self) -> None:
        self._stage = _BODY
        self._head_bytes = 0
        self._is_handshake = False
        self._left = 0
        known, url = self._known, self.url
        if known is not None and known[0] == self.headers:
            head = known[1]
        else:
            head = read_head(self.headers)
            check_head(head, self.headers, self.parser.get_http_version())
            self._work += len(self.headers) // HEADERS
            self._known = (self.headers, head) if head.hosts == 1 and head.size <= REMEMBERED else None
        if url[:1] == b"/" and url.find(b"#") < 0:
            path, _, query = url.partition(b"?")
        else:
            path, query, host = read_target(url, head.known.get(b"host"))
            if host is not None and not head.hosts:  # HTTP/1.0
                self.headers.append((b"host", host))
                head = read_head(self.headers)
        if b"content-length" in head.known:
            self._left = length_of(head.known[b"content-length"]) or 0
        if not self._direct or not self._begin_direct(head, path, query):
            self._begin_asgi(head, path, query)

    def _begin_direct(self, head: Head, path: bytes, query: bytes) -> bool:
        """Begin a request on the direct lane, where it is one for it: a proxied one, of at most one message."""
        known, parser = head.known, self.parser
        if known.keys() & _NOT_DIRECT or path[:1] != b"/" or parser.should_upgrade():  # CONNECT has no such header
            return False
        keep_alive = parser.should_keep_alive()
        if (b"connection" in known or not keep_alive) and parser.get_http_version() != "1.1":
            return False
        if self._left >= self._core.bus.max_payload:
            return False
        method = parser.get_method().decode("ascii")
        if method == "OPTIONS" or path.startswith(_OWN) or (path.find(b"%") >= 0 and self._core.is_own(_text(path))):
            return False  # what the gateway answers itself
        self._append(DirectRequest(self._core, self, method, path, query, head, keep_alive), None)
        return True

    def _begin_asgi(self, head: Head, path: bytes, query: bytes) -> None:
        """Begin a request whose answer is an ASGI call, or a WebSocket's."""
        parser = self.parser
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        if version not in ("1.0", "1.1"):
            raise bad_request(f"HTTP/{version} is not spoken here")
        self.headers = [(name.lower(), value) for name, value in self.headers]
        scope = self._scope(method, version, self.headers)
        self.scope = scope  # type: ignore[assignment]
        if parser.should_upgrade() and self._should_upgrade():
            if version != "1.1" or method != "GET":  # RFC 6455 section 4.2.1
                raise bad_request("the handshake of a WebSocket is a GET of HTTP/1.1")
            check_handshake(self.headers)
            self.url = b"%b?%b" % (path, query) if query else path
            self._is_handshake = True
            return
        scope["path"], scope["raw_path"], scope["query_string"], scope["head"] = _text(path), path, query, head
        # HTTP/1.0 knows no interim response (RFC 9110 section 10.1.1). What follows an upgrade is not read as HTTP.
        expects = version == "1.1" and head.known.get(b"expect", b"").lower() == b"100-continue"
        keep_alive = version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
        cycle = self._cycle(scope, expects, keep_alive)
        if b"content-length" in head.known or b"transfer-encoding" in head.known:
            cycle.held = scope["held"] = self._core.bodies.body(self._refuse_later, self._left)
        self._append(cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._since = self.loop.time()
        self._head_bytes = 0
        self._left -= len(body)
        self._work += 1
        cycle = self._incoming
        if cycle is None or cycle.response_complete:
            return
        if cycle.held is None:
            cycle.held = self._core.bodies.body(self._refuse_later, max(0, self._left + len(body)))
        cycle.held.take(len(body))
        cycle.take(body)

    def on_message_complete(self) -> None:
        self._stage = _BETWEEN
        self._left = 0
        cycle, self._incoming = self._incoming, None
        if cycle is not None:
            if not (cycle.keep_alive and self.parser.should_keep_alive()):
                # The parser drops what follows without a word: the connection must not outlive the answer.
                self._stage, cycle.keep_alive = _LAST, False
                if cycle.response_complete:
                    self.transport.close()
            if cycle.held is not None:
                cycle.held.settle()
            cycle.complete()

    # -- one request after the other

    def _append(self, cycle: Any, app: Any) -> None:
        self.cycle = self._incoming = cycle
        free = self._current is None and not self.pipeline
        if free and self._work < TURN and not self.transport.is_closing():
            self._begin(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))
            self.flow.pause_reading()

    def _begin(self, cycle: Any, app: Any) -> None:
        """It is this request's turn, unless its client does not even read the answers to earlier ones."""
        if self.flow.write_paused:
            self.pipeline.append((cycle, app))
            self.flow.pause_reading()
            return
        self._current = cycle
        if isinstance(cycle, DirectRequest):
            cycle.start()
            if self._current is None:
                self._work += ANSWER
        else:
            self._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        current, self._current = self._current, None
        if current is not None and current.held is not None:
            current.held.release()
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline or self._unread or self._last is not None or self.flow.read_paused:
            self._go_on()

    def _may_read(self) -> bool:
        """Whether what the client sends next has a place."""
        if self._stage is _LINGER:
            return True
        if self._stage is _OVER or self.pipeline or self._waits:
            return False
        current = self._current
        return not self.flow.write_paused if current is None else not current.is_full

    def _go_on(self) -> None:
        """Answer what waits and read what has come, as far as both can go now, and for a turn at most.

        In a loop, as many may have come in one piece, and each may be refused at once.
        """
        if self._going_on:
            return
        self._going_on = True
        try:
            while not self.transport.is_closing() and not self._waits:
                if self._work >= TURN:
                    self._waits = True
                    self._turns.wait(self._next_turn)
                    break
                free = self._current is None and not self.flow.write_paused
                if free and self.pipeline:
                    self._since = self.loop.time()
                    self._begin(*self.pipeline.pop())
                elif self._unread and self._may_read():
                    size = min(max(SLICE, self._left), BODY_SLICE)
                    piece, self._unread = self._unread[:size], self._unread[size:]
                    self._feed(piece)
                elif free and self._last is not None:
                    last, self._last = self._last, None
                    last()
                    return
                else:
                    break
        finally:
            self._going_on = False
        if not self.transport.is_closing() and self.flow.read(self._may_read()):
            self._since = self.loop.time()

    def _next_turn(self) -> None:
        if self._waits:
            self._waits, self._work = False, 0
            self._go_on()

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

    def hand_over(self, direct: DirectRequest, run: Callable[..., Any]) -> None:
        """Go on with a request of the direct lane as an ASGI call: ``run(receive, send)``. Its body is read."""
        cycle = self._cycle(self._scope(direct.method, "1.1", []), False, direct.keep_alive)
        cycle.more_body = False
        cycle.message_event.set()
        cycle.held = direct.held
        if self.cycle is direct:
            self.cycle = cycle
        self._current = cycle

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await run(receive, send)

        self._start_asgi_task(cycle, app)

    def _cycle(self, scope: dict[str, Any], expects: bool, keep_alive: bool) -> AsgiResponse:
        return AsgiResponse(
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

    def _upgrade(self, *, has_more: bool) -> None:
        """The client wants to speak something else from here on. ``has_more``: it has begun to."""
        self._stage, self._unread, self._incoming = _OVER, b"", None
        if not self._is_handshake:
            # Another protocol than WebSocket is not spoken here: the request is answered as it is, and the last one.
            if self.cycle is not None and self.cycle.response_complete:
                self.transport.close()
        elif has_more:  # RFC 6455 section 4.1: it must wait for the answer
            self._refuse_later(bad_request("nothing may follow the handshake of a WebSocket before its answer"))
        elif self._current is None and not self.pipeline and not self.flow.write_paused:
            self.handle_websocket_upgrade()
        else:  # answers come in the order of requests
            self._last = self.handle_websocket_upgrade
            self.flow.pause_reading()

    # -- what is no request

    def _refuse_later(self, error: MeshError) -> None:
        """Answer with an error and close: after the answers to requests that came before."""
        incoming, self._incoming = self._incoming, None
        self._stage, self._unread = _OVER, b""
        if incoming is not None:
            # It is this request that is broken.
            _release(incoming)
            if incoming.held is not None and incoming.held.passed_on:
                error.executed = "unknown"
            if incoming.response_complete or (isinstance(incoming, AsgiResponse) and incoming.response_started):
                self.transport.close()  # it has its answer, or a part of it
                return
            if incoming is self._current:
                self._current = None
                incoming.broken(error)
            else:
                self.pipeline.popleft()
        if self._current is None and not self.pipeline:
            self._refuse(error)
        else:
            self._last = partial(self._refuse, error)
            self.flow.pause_reading()

    def _refuse(self, error: MeshError) -> None:
        self._stage = _LINGER
        exchange = self._core.begin("-", b"", b"", read_head([]), self.address, self.scheme or "http")
        status, out, body = self._core.refused(exchange, error)
        exchange.entry.status, exchange.entry.bytes_out = status, len(body)
        self._core.finish(exchange)
        self.write(status, lines_of([*out, (b"x-request-id", exchange.request_id)]), body, close=True)
        if self.transport.can_write_eof() and not self._has_closed:
            # Closed with something unread, a connection is reset, and the client might never see why: read on a while.
            self._since = self.loop.time()
            self.transport.write_eof()
            self.flow.read(True)
        else:
            self.transport.close()

    # -- deadlines

    def check(self, now: float) -> None:
        """Keep the deadlines: of headers, of a body, of a client that does not read or has gone, and of a connection
        that nobody uses. ``now`` is a moment of the event loop's clock."""
        if self._outgoing.stalls(self.transport, now):
            self.transport.abort()
        elif not self.transport.is_closing():
            self._check(now, now - self._since)

    def _check(self, now: float, waited: float) -> None:
        current, stage = self._current, self._stage
        if stage is _LINGER:
            if waited > LINGER_S:
                self.transport.close()
        elif self._has_closed or self.flow.read_paused:
            self._check_unread(now)
        elif stage is _HEAD:
            if waited > self._head_s:
                self._refuse_later(refuse(408, "request_timeout", f"the headers took longer than {self._head_s:g} s"))
        elif current is None:
            if waited > KEEP_ALIVE_S:
                self.transport.close()
        elif (
            current is self._incoming
            and waited > self._body_s + 1  # where the body is read as a stream, that has noticed it before
            and not (isinstance(current, AsgiResponse) and current.response_started)
        ):
            self._refuse_later(refuse(408, "request_timeout", f"nothing of the body came for {self._body_s:g} s"))

    def _check_unread(self, now: float) -> None:
        """A client that is not read may have gone unnoticed. While it takes something of its answers it is there."""
        if self._waits:
            self._since = now
            return
        if not self._has_closed:
            socket = self.transport.get_extra_info("socket")
            if socket is None or not has_closed(socket.fileno()):
                return
            self._has_closed, self._since = True, now
        current = self._current
        progress = (current, current.sent if current is not None else 0)
        if progress != self._progress or self.transport.get_write_buffer_size():
            self._progress, self._since = progress, now
        elif now - self._since > (self._body_s if current is not None and current is self._incoming else HALF_CLOSED_S):
            self.transport.abort()  # the rest of a body may be there still, for a service that is slow to take it


def _text(path: bytes) -> str:
    """A path as the ASGI lane knows it."""
    return unquote(path.decode("latin-1"))


def _release(cycle: Any) -> None:
    """Give back the memory of a request's body."""
    if cycle is not None and cycle.held is not None:
        cycle.held.release()


_date_of: Any = None
_date = b""


def _refusal(error: httptools.HttpParserError) -> MeshError:
    """What the parser, or one of our callbacks, says about what came."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return bad_request(f"this is not HTTP/1.1: {str(error)[:200] or type(error).__name__}")
    cause = error.__context__
    if isinstance(cause, MeshError):
        return cause
    _log.error("reading a request failed", exc_info=cause)
    return refuse(500, "internal", "the gateway failed to read the request")
