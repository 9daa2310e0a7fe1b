"""The direct lane: a proxied request that is one message each way, answered without a task, a scope or an ASGI call.

It stands where uvicorn has its ``RequestResponseCycle``. Decisions are those of the ASGI lane, by the same objects;
whatever has to wait (a full route, a bus that is being reached anew) or to stream goes over to that lane.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.body_memory import Body
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Head, lines_of
from gateway.request_checks import Behind
from gateway.request_lifecycle import RequestLifecycle
from mesh.client import Answer, Call, CallSpec
from mesh.errors import MeshError
from mesh.headers import Pairs

if TYPE_CHECKING:
    from gateway.http_connection import Connection
    from gateway.request_checks import Admitted


class _Silent:
    """uvicorn sets a cycle's event when its client goes; nobody waits for this one."""

    def set(self) -> None:
        """Nothing to do."""


class DirectRequest:
    """One request. ``more_body`` until all of it has come; ``held`` is the memory that its body takes."""

    __slots__ = (
        "_admitted",
        "_began",
        "_body",
        "_call",
        "_connection",
        "_core",
        "_exchange",
        "_head",
        "_path",
        "_query",
        "disconnected",
        "held",
        "keep_alive",
        "method",
        "more_body",
        "response_complete",
    )

    message_event = _Silent()
    is_full = False
    """Whether more of the body has come than should wait here: never, as it is less than one message."""
    sent = 0
    """How much of the response has been sent: it goes as a whole."""

    def __init__(
        self,
        core: RequestLifecycle,
        connection: Connection,
        method: str,
        path: bytes,
        query: bytes,
        head: Head,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.keep_alive = keep_alive
        self.more_body = True
        self.held: Body | None = None
        self.response_complete = False
        self.disconnected = False
        self._core = core
        self._connection = connection
        self._path = path
        self._query = query
        self._head = head
        self._body: bytes | bytearray = b""
        self._exchange: GatewayRequest | None = None
        self._admitted: Admitted | None = None
        self._call: Call | None = None
        self._began = 0.0

    def start(self) -> None:
        """Its turn has come."""
        core, connection = self._core, self._connection
        exchange = self._exchange = core.begin(
            self.method, self._path, self._query, self._head, connection.address, connection.scheme or "http"
        )
        try:
            admitted = self._admitted = core.admission.admit(exchange, len(core.exchanges))
        except Behind:
            if not self.more_body:
                self._wait(exchange)
            return
        except MeshError as error:
            self._refuse(exchange, error)
            return
        except Exception:
            self._crash(exchange)
            return
        if not self.more_body:
            self._send(exchange, admitted)

    def take(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body) + piece  # many small pieces take more room than what is in them

    def complete(self) -> None:
        """The whole request is here."""
        self.more_body = False
        exchange = self._exchange
        if exchange is None or self.response_complete:
            return
        if self._admitted is not None:
            self._send(exchange, self._admitted)
        else:
            self._wait(exchange)

    def _wait(self, exchange: GatewayRequest) -> None:
        """The table is behind, and may have its route in a moment."""
        later = partial(self._connection.forwarder.begin_later, exchange, bytes(self._body))
        self._connection.hand_over(self, later)

    def gone(self) -> None:
        """The client closed its connection."""
        self._abandon(499, "client_gone", "client")

    def broken(self, error: MeshError) -> None:
        """The rest of the request is unusable; who says so to the client has been told already."""
        self._abandon(error.status, error.reason, "gateway")

    def _abandon(self, status: int, reason: str, origin: str) -> None:
        call, self._call = self._call, None
        exchange = self._exchange
        if exchange is None or self.response_complete:
            return
        if call is not None:
            call.cancel()
            self._leave(exchange)
        entry = exchange.entry
        entry.status, entry.reason, entry.origin = status, reason, origin
        self._end(exchange)

    # -- the call

    def _send(self, exchange: GatewayRequest, admitted: Admitted) -> None:
        core, body, self._body = self._core, bytes(self._body), b""
        exchange.entry.bytes_in = len(body)
        if (
            not core.bus.connected
            or (body and len(body) > core.room(exchange, admitted.common))
            or not core.limits.try_enter(admitted.place)
        ):
            resume = partial(self._connection.forwarder.resume, exchange, admitted, body)
            self._connection.hand_over(self, resume)
            return
        self._began = perf_counter()
        try:
            spec = CallSpec(
                destination=admitted.destination,
                lines=admitted.common,
                deadline=core.bus.now() + admitted.timeout,
                policy=admitted.retries,
            )
            self._call = core.caller.start(spec, body, self._done)
        except MeshError as error:
            self._leave(exchange)
            self._refuse(exchange, error)
        except Exception:
            self._leave(exchange)
            self._crash(exchange)

    def _leave(self, exchange: GatewayRequest) -> None:
        assert self._admitted is not None
        self._core.limits.leave(self._admitted.place)
        exchange.upstream = perf_counter() - self._began

    def _done(self, outcome: Answer | MeshError) -> None:
        self._call = None
        exchange, core = self._exchange, self._core
        assert exchange is not None
        try:
            self._leave(exchange)
            if isinstance(outcome, MeshError):
                self._refuse(exchange, outcome)
                return
            if outcome.stream is not None:
                self._connection.hand_over(self, partial(self._connection.forwarder.relay, exchange, outcome))
                return
            entry = exchange.entry
            entry.instance, entry.attempts = outcome.instance, outcome.attempts
            status, lines, body = core.heads.render(outcome.reply, self.method, exchange.request_id)
            if status >= 500:
                entry.origin, entry.reason = "service", "service_error"
            self._respond(exchange, status, lines, body)
        except MeshError as error:
            self._refuse(exchange, error)
        except Exception:
            self._crash(exchange)

    # -- the response

    def _respond(self, exchange: GatewayRequest, status: int, lines: bytes, body: bytes) -> None:
        core, connection, entry = self._core, self._connection, exchange.entry
        if core.cors.origins:
            lines = core.cors.add_to_lines(lines, exchange.head.known.get(b"origin"))
        if core.draining:
            self.keep_alive = False
        entry.status, entry.bytes_out = status, len(body)
        connection.write(status, lines, body, close=not self.keep_alive)
        self._end(exchange)
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def _refuse(self, exchange: GatewayRequest, error: MeshError) -> None:
        self._respond_with(exchange, *self._core.refused(exchange, error))

    def _crash(self, exchange: GatewayRequest) -> None:
        self._respond_with(exchange, *self._core.failed(exchange))

    def _respond_with(self, exchange: GatewayRequest, status: int, out: Pairs, body: bytes) -> None:
        self._respond(exchange, status, lines_of([*out, (b"x-request-id", exchange.request_id)]), body)

    def _end(self, exchange: GatewayRequest) -> None:
        self.response_complete = True
        self._admitted = None
        self._core.finish(exchange)
