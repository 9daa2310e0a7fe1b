"""The direct lane: a proxied request that is one message each way, answered without a task, a scope or an ASGI call.

A `DirectRequest` takes the part that uvicorn gives its ``RequestResponseCycle``. It decides nothing: checks, limits and
responses are those of the ASGI lane, made by the same objects. A request that has to wait (a full route, a bus that is
reconnecting) or to stream is handed over to that lane.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from gateway.asgi_lane import AsgiLane
from gateway.body_memory import BodyShare
from gateway.body_streams import join_pieces
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Head, Rendered
from gateway.request_checks import RouteCall, TableBehind
from gateway.request_lifecycle import RequestLifecycle
from gateway.responses import Outcome
from mesh.client import Answer, Call, CallSpec
from mesh.errors import MeshError


class ClientConnection(Protocol):
    """The connection that a direct request came on."""

    address: str
    scheme: Any
    transport: Any
    asgi_lane: AsgiLane

    def write(self, status: int, lines: bytes, body: bytes, *, close: bool) -> None:
        """Write a whole response."""

    def hand_over(self, direct: DirectRequest, run: Callable[..., Any]) -> None:
        """Go on with a request as an ASGI call."""

    def on_response_complete(self) -> None:
        """The response has been written."""


class State(Enum):
    """How far a direct request has come."""

    QUEUED = "earlier requests of its connection are answered first"
    CHECKED = "it may be published when its body is complete"
    UNMATCHED = "its route may be in a moment; it is handed over when its body is complete"
    PUBLISHED = "its reply is due"
    ENDED = "it is answered, abandoned or handed over"


_QUEUED, _CHECKED, _UNMATCHED, _PUBLISHED, _ENDED = State  # members of an enum take long to find


class DirectRequest:
    """One request on the direct lane.

    ``more_body`` is true until its body is complete, ``share`` is the memory that the body takes, and ``keep_alive``
    says that its connection stays open after the response.
    """

    __slots__ = (
        "_began",
        "_body",
        "_call",
        "_connection",
        "_head",
        "_lifecycle",
        "_path",
        "_query",
        "_request",
        "_route_call",
        "_state",
        "keep_alive",
        "method",
        "more_body",
        "share",
    )

    is_full = False
    """True if more of the body has come than should wait here: never, as it is less than one message."""
    sent = 0
    """The parts of the response that have been sent: it is sent as a whole."""

    def __init__(
        self,
        lifecycle: RequestLifecycle,
        connection: ClientConnection,
        method: str,
        path: bytes,
        query: bytes,
        head: Head,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.keep_alive = keep_alive
        self.more_body = True
        self.share: BodyShare | None = None
        self._lifecycle = lifecycle
        self._connection = connection
        self._path = path
        self._query = query
        self._head = head
        self._state = _QUEUED
        self._body: bytes | bytearray = b""
        self._request: GatewayRequest
        self._route_call: RouteCall
        self._call: Call | None = None
        self._began = 0.0

    @property
    def response_complete(self) -> bool:
        """True if nothing is left to do for it. uvicorn asks for this when it shuts down."""
        return self._state is _ENDED

    def start(self) -> None:
        """Earlier requests of the connection are answered: check this one, and publish it if its body is complete."""
        lifecycle, connection = self._lifecycle, self._connection
        request = self._request = lifecycle.begin(
            self.method, self._path, self._query, self._head, connection.address, connection.scheme or "http"
        )
        try:
            checked = lifecycle.checks.run(request)
        except TableBehind:
            self._state = _UNMATCHED
        except Exception as error:
            self._respond(error)
            return
        else:
            if isinstance(checked, Rendered):
                self._respond(checked)
                return
            self._state, self._route_call = _CHECKED, checked
        if not self.more_body:
            self.complete()

    def take(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._body = join_pieces(self._body, piece)

    def complete(self) -> None:
        """The body is complete: publish the request, if its turn has come and it has not been answered."""
        self.more_body = False
        if self._state is _UNMATCHED:
            self._hand_over(self._connection.asgi_lane.begin_later, self._request, bytes(self._body))
        if self._state is not _CHECKED:
            return
        lifecycle, request, route_call = self._lifecycle, self._request, self._route_call
        body, self._body = bytes(self._body), b""
        request.record.bytes_in = len(body)
        if (
            not lifecycle.bus.connected
            or (body and len(body) > lifecycle.largest_body(request, route_call))
            or not lifecycle.limits.try_enter(route_call.limit_key)
        ):
            self._hand_over(self._connection.asgi_lane.resume, request, route_call, body)
            return
        self._state = _PUBLISHED
        self._began = perf_counter()
        try:
            spec = CallSpec(
                destination=route_call.destination,
                lines=route_call.head,
                deadline=lifecycle.bus.now() + route_call.timeout,
                policy=route_call.retries,
            )
            self._call = lifecycle.caller.start(spec, body, self._done)
        except Exception as error:
            self._done(error)

    def gone(self) -> None:
        """The client closed its connection."""
        self._abandon(499, "client_gone", "client")

    def broken(self, error: MeshError) -> None:
        """The rest of the request is unusable; the connection answers the client."""
        self._abandon(error.status, error.reason, "gateway")

    def _abandon(self, status: int, reason: str, origin: str) -> None:
        state, self._state = self._state, _ENDED
        if state is _QUEUED or state is _ENDED:
            return
        request, responses = self._request, self._lifecycle.responses
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            self._lifecycle.limits.leave(self._route_call.limit_key)
            request.upstream = perf_counter() - self._began
        responses.unanswered(request, status, reason, origin)
        responses.finish(request)

    def _done(self, outcome: Answer | Exception) -> None:
        """The call has ended."""
        self._call = None
        self._lifecycle.limits.leave(self._route_call.limit_key)
        self._request.upstream = perf_counter() - self._began
        if isinstance(outcome, Answer) and outcome.stream is not None:
            self._hand_over(self._connection.asgi_lane.relay, self._request, outcome)
        else:
            self._respond(outcome)

    # -- the end

    def _hand_over(self, run: Callable[..., Any], *arguments: Any) -> None:
        self._state = _ENDED
        self._connection.hand_over(self, partial(run, *arguments))

    def _respond(self, outcome: Outcome) -> None:
        connection, responses, request = self._connection, self._lifecycle.responses, self._request
        response = responses.lines_of(request, outcome)
        if response.close:
            self.keep_alive = False
        connection.write(response.status, response.lines, response.body, close=not self.keep_alive)
        self._state = _ENDED
        responses.finish(request)
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()
