"""One HTTP connection: uvicorn's protocol, with the guards that it lacks, and the direct lane for proxied requests.

Requests are read by `gateway.request_reader`; chunked responses, upgrades, the set of connections and the end of the
server are uvicorn's. Added here, for both lanes: what a request must be beyond that (`gateway.framing`),
deadlines, bounds on what a client may have in memory, errors of framing as problem documents that never overtake the
answer to an earlier request, and pipelined requests that wait without growing.

What comes is read in slices, and only while it has a place (`_may_read`): as the rest of the request that is being
answered, or as the beginning of the next one. A connection that has done much at a stretch lets others go on first
(`gateway.fair_turns`). Everything that may change that ends in `_go_on`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.asgi_lane import AsgiLane
from gateway.asgi_response import AsgiResponse, Flow
from gateway.direct_lane import DirectRequest
from gateway.fair_turns import ANSWER, TURN, Turns
from gateway.framing import bad_request
from gateway.header_translation import Head, Pairs, lines_of, read_head
from gateway.listener import KEEP_ALIVE_S
from gateway.listening_sockets import has_closed
from gateway.problems import refuse
from gateway.request_lifecycle import RequestLifecycle
from gateway.request_reader import BODY, HEAD, LAST, LINGER, OVER, OngoingRequest, RequestReader, refusal_of
from gateway.slow_clients import OutgoingBuffer
from mesh.errors import MeshError
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


def public_protocol(
    lifecycle: RequestLifecycle, asgi_lane: AsgiLane, settings: GatewaySettings
) -> Callable[..., Connection]:
    """For uvicorn's ``http=``: what makes the connections of the public listener."""
    return partial(Connection, lifecycle, asgi_lane, settings, Turns(), DateLine())


class DateLine:
    """The line of the ``Date`` header, for all connections: uvicorn makes a new list of headers every second."""

    def __init__(self) -> None:
        self.headers: Pairs = []
        self.line = b""

    def renew(self, headers: Pairs) -> None:
        """Take the line out of uvicorn's headers."""
        self.headers, self.line = headers, lines_of(headers)


class Connection(RequestReader):
    """A client's connection. ``check`` must be called regularly: it keeps the deadlines."""

    cycle: Any  # the request that was begun last; uvicorn's name for it
    pipeline: Any  # requests that wait for the responses before theirs, and their ASGI applications, the last first

    def __init__(
        self,
        lifecycle: RequestLifecycle,
        asgi_lane: AsgiLane,
        settings: GatewaySettings,
        turns: Turns,
        date: DateLine,
        /,
        **uvicorn: Any,
    ) -> None:
        super().__init__(lifecycle, asgi_lane, settings, **uvicorn)
        self._turns = turns
        self._date = date
        self._head_s = settings.head_s or float("inf")
        self._body_s = settings.body_idle_s or float("inf")
        self._unread: bytes | memoryview = b""  # came, and waits to be parsed
        self._waits = False  # for its next turn

        # Responses
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
            if self._stage is not LINGER:
                self._unread = memoryview(b"".join((self._unread, data)) if self._unread else data)
                self._go_on()
        else:
            self._feed(data)
            if self._work >= TURN:
                self._go_on()

    def _feed(self, data: bytes | memoryview) -> None:
        if self._stage is LAST:  # what follows it is not read, however much that is
            self._stage, self._unread = OVER, b""
            self.flow.pause_reading()
        if self._stage is OVER or self._stage is LINGER:
            return
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(has_more=upgrade.args[0] < len(data) or bool(self._unread))
        except httptools.HttpParserError as error:
            self._refuse_later(refusal_of(error))
        else:
            if self._head_bytes > self._most and (self._stage is HEAD or self._stage is BODY):
                self._refuse_later(self._too_large())

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its half, or all: the connection stays for the responses to complete requests."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming is not self._current and self.pipeline:
            _release(incoming)
            self.pipeline.popleft()  # it will never be complete
            incoming = None
        last = self.pipeline[0][0] if self.pipeline else self._current
        if incoming is not None or last is None:
            return False
        last.keep_alive = False
        self._stage, self._has_closed, self._since = OVER, True, self.loop.time()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        current, self._current = self._current, None
        self._stage, self._unread, self._last, self._incoming = LINGER, b"", None, None
        self._waits = False
        for request in (current, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            _release(request)
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

    # -- one request after the other

    def _enqueue(self, request: OngoingRequest, app: Any) -> None:
        self.cycle = self._incoming = request
        free = self._current is None and not self.pipeline
        if free and self._work < TURN and not self.transport.is_closing():
            self._begin(request, app)
        else:
            self.pipeline.appendleft((request, app))
            self.flow.pause_reading()

    def _begin(self, request: OngoingRequest, app: Any) -> None:
        """It is this request's turn, unless its client does not even read the responses to earlier ones."""
        if self.flow.write_paused:
            self.pipeline.append((request, app))
            self.flow.pause_reading()
            return
        self._current = request
        if isinstance(request, DirectRequest):
            request.start()
            if self._current is None:
                self._work += ANSWER
        else:
            self._start_asgi_task(request, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        current, self._current = self._current, None
        if current is not None and current.share is not None:
            current.share.release()
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline or self._unread or self._last is not None or self.flow.read_paused:
            self._go_on()

    def _may_read(self) -> bool:
        """True if the client's next bytes may be read: they belong to the current request, or to one that is next."""
        if self._stage is LINGER:
            return True
        if self._stage is OVER or self.pipeline or self._waits:
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

    # -- responses of the direct lane

    def write(self, status: int, lines: bytes, body: bytes, *, close: bool) -> None:
        """A whole response; ``lines`` are its headers, each ending in CRLF. ``close`` tells the client that it is the
        last on this connection."""
        large = len(body) > 65_536  # not worth a copy
        date = self._date
        if date.headers is not self.server_state.default_headers:
            date.renew(self.server_state.default_headers)
        # Names are lower-case, and a response has one date.
        own_date = b"" if b"\r\ndate: " in lines or lines.startswith(b"date: ") else date.line
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], own_date, lines, end, b"" if large else body)))
        if large:
            self.transport.write(body)

    def hand_over(self, direct: DirectRequest, run: Callable[..., Any]) -> None:
        """Go on with a request of the direct lane as an ASGI call: ``run(receive, send)``. Its body is read."""
        request = self._cycle(self._scope(direct.method, "1.1", []), False, direct.keep_alive)
        request.more_body = False
        request.message_event.set()
        request.share = direct.share
        if self.cycle is direct:
            self.cycle = request
        self._current = request

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await run(receive, send)

        self._start_asgi_task(request, app)

    def _upgrade(self, *, has_more: bool) -> None:
        """The client wants to speak something else from here on. ``has_more``: it has begun to."""
        self._stage, self._unread, self._incoming = OVER, b"", None
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

    # -- refused framing

    def _refuse_later(self, error: MeshError) -> None:
        """Answer with an error and close: after the answers to requests that came before."""
        incoming, self._incoming = self._incoming, None
        # Its request id and origin count, if the headers with them came.
        head = read_head(self.headers if self._stage is HEAD or self._stage is BODY else [])
        self._stage, self._unread = OVER, b""
        if incoming is not None:
            # It is this request that is broken.
            _release(incoming)
            if incoming.share is not None and incoming.share.passed_on:
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
            self._refuse(error, head)
        else:
            self._last = partial(self._refuse, error, head)
            self.flow.pause_reading()

    def _refuse(self, error: MeshError, head: Head) -> None:
        self._stage = LINGER
        responses = self._lifecycle.responses
        request = self._lifecycle.begin("-", b"", b"", head, self.address, self.scheme or "http")
        response = responses.lines_of(request, error)
        responses.finish(request)
        self.write(response.status, response.lines, response.body, close=True)
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
        that is not used. ``now`` is a moment of the event loop's clock."""
        if self._outgoing.stalls(self.transport, now):
            self.transport.abort()
        elif not self.transport.is_closing():
            self._check(now, now - self._since)

    def _check(self, now: float, waited: float) -> None:
        current, stage = self._current, self._stage
        if stage is LINGER:
            if waited > LINGER_S:
                self.transport.close()
        elif self._has_closed or self.flow.read_paused:
            self._check_unread(now)
        elif stage is HEAD:
            if waited > self._head_s:
                self._refuse_later(refuse(408, "request_timeout", f"the headers took longer than {self._head_s:g} s"))
        elif current is None:
            if waited > KEEP_ALIVE_S:
                self.transport.close()
        elif (
            current is self._incoming
            and waited > self._body_s + 1  # a body that is read as a stream has its own, earlier deadline
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


def _release(request: OngoingRequest | None) -> None:
    """Give back the memory of a request's body."""
    if request is not None and request.share is not None:
        request.share.release()
