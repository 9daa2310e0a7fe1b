"""The end of every gateway request: its outcome as one HTTP response, one line of the access log and one count.

An outcome is the reply of a service, an error, or a document of the gateway's own. On every lane, for handshakes of
WebSockets and for requests that could not even be read, `Responses` turns it into status, headers and body, adds what
every response has, and says whether the connection closes. The lanes write what they get, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import MutableSet
from time import perf_counter

from msgspec import Struct

from gateway.access_log import AccessLog
from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import NO_BODY, Pairs, Rendered, ResponseHeads, lines_of, response
from gateway.known_headers import ORIGIN
from gateway.problems import public_detail, render
from gateway.request_metrics import UNMATCHED, RequestMetrics
from mesh.client import Answer
from mesh.errors import MeshError
from mesh.streams import Stream

Outcome = Answer | Rendered | Exception
"""A service's reply, the gateway's own response, or an error. One that is no `MeshError` was not expected."""

_CLOSING = frozenset({408})
"""Statuses whose response is the last one on its connection (RFC 9110 section 15.5.9)."""

_log = logging.getLogger("mesh.gateway")


class Response(Struct, frozen=True, eq=False):
    """A response to write. ``close``: tell the client that it is the last one on its connection, and close that."""

    status: int
    headers: Pairs
    body: bytes
    close: bool
    stream: Stream | None = None
    """The rest of the body, if it is larger than one message or has no end yet."""

    def with_lines(self) -> ResponseLines:
        """The same with its headers as lines."""
        return ResponseLines(self.status, lines_of(self.headers), self.body, self.close)


class ResponseLines(Struct, frozen=True, eq=False):
    """A whole response to write, with its headers as lines that end in CRLF each."""

    status: int
    lines: bytes
    body: bytes
    close: bool


class Responses:
    """Makes the responses of one gateway. ``draining``: each of them is the last one on its connection.

    Args:
        cors: which origins may read responses.
        metrics: counts requests as they end.
        access: the access log.
        requests: the requests in flight; `finish` takes them out.
    """

    def __init__(
        self, cors: Cors, metrics: RequestMetrics, access: AccessLog, requests: MutableSet[GatewayRequest]
    ) -> None:
        self.draining = False
        self._cors = cors
        self._metrics = metrics
        self._access = access
        self._requests = requests
        self._heads = ResponseHeads()
        self._logged_detail = ""

    # -- outcomes

    def of(self, request: GatewayRequest, outcome: Outcome) -> Response:
        """The response for an outcome; the access record is filled in.

        A reply that cannot be passed on becomes an error, and its stream is not in the response then. The caller
        closes it.
        """
        rendered: Outcome = outcome
        stream = None
        if isinstance(outcome, Answer):
            rendered = self._translate(request, outcome)
            if isinstance(rendered, Rendered) and request.method != "HEAD" and rendered.status not in NO_BODY:
                stream = outcome.stream
        if isinstance(rendered, MeshError):
            rendered = self._render_error(request, rendered)
        elif isinstance(rendered, Exception):
            rendered = self._render_crash(request, rendered)
        assert isinstance(rendered, Rendered)
        status, headers, body = rendered
        headers.append((b"x-request-id", request.request_id))
        if self._cors.origins:
            self._cors.add_to(headers, request.head.known.get(ORIGIN))
        record = request.record
        record.status, record.bytes_out = status, len(body)
        return Response(status, headers, body, self.draining or status in _CLOSING, stream)

    def lines_of(self, request: GatewayRequest, outcome: Outcome) -> ResponseLines:
        """`of` for a response that is one message, with its headers as lines. Most replies take this short cut."""
        if not isinstance(outcome, Answer) or request.method == "OPTIONS":
            return self.of(request, outcome).with_lines()
        record = request.record
        record.instance, record.attempts = outcome.instance, outcome.attempts
        try:
            status, lines, body = self._heads.render(outcome.reply, request.method, request.request_id)
        except Exception as error:
            return self.of(request, error).with_lines()
        lines = b"%bx-request-id: %b\r\n" % (lines, request.request_id)
        if self._cors.origins:
            lines = self._cors.add_to_lines(lines, request.head.known.get(ORIGIN))
        if status >= 500:
            record.origin, record.reason = "service", "service_error"
        record.status, record.bytes_out = status, len(body)
        return ResponseLines(status, lines, body, self.draining or status in _CLOSING)

    def accept(self, request: GatewayRequest, headers: Pairs) -> Pairs:
        """The headers of a handshake that is accepted: those of the service, and the gateway's."""
        request.record.status = 101
        return [*headers, (b"x-request-id", request.request_id)]

    def client_gone(self, request: GatewayRequest) -> None:
        """The client closed its connection before it had its response."""
        self.unanswered(request, 499, "client_gone", "client")

    def cut_off(self, request: GatewayRequest, error: Exception) -> None:
        """The response had begun when it failed; its status stays. The lane closes the connection."""
        if isinstance(error, MeshError):
            request.record.reason, request.record.origin = error.reason, "mesh"
        else:
            self._record_crash(request, error)

    def unanswered(self, request: GatewayRequest, status: int, reason: str, origin: str) -> None:
        """Nothing is written for this request; what the access log says of it."""
        record = request.record
        record.status, record.reason, record.origin = status, reason, origin

    def finish(self, request: GatewayRequest) -> None:
        """Count the request and log it. It must have ended in one of the ways above."""
        self._requests.discard(request)
        record = request.record
        seconds = perf_counter() - request.began
        record.duration_ms = int(seconds * 1e6) / 1000
        record.upstream_ms = int(request.upstream * 1e6) / 1000
        self._metrics.record(record.method, record.route or UNMATCHED, record.status, seconds, record.reason)
        self._access.write(record)

    # -- parts

    def _translate(self, request: GatewayRequest, answer: Answer) -> Outcome:
        """A service's reply as the client gets it, or the error that it becomes."""
        record, method = request.record, request.method
        record.instance, record.attempts = answer.instance, answer.attempts
        try:
            translated = response(answer.reply, method, request.request_id, streamed=answer.stream is not None)
            status, headers, _ = translated
            if method == "OPTIONS" and self._cors.origins:
                completed = self._cors.complete_preflight(request.head.known, status, headers)
                if completed is not None:
                    return Rendered(204, completed, b"")
        except Exception as error:
            return error
        if status >= 500:
            record.origin, record.reason = "service", "service_error"
        return translated

    def _render_error(self, request: GatewayRequest, error: MeshError) -> Rendered:
        record = request.record
        record.origin, record.reason = "mesh" if error.origin == "mesh" else "gateway", error.reason
        record.attempts = record.attempts or error.attempts
        detail = public_detail(error)
        if detail != error.detail:
            self._log_detail(error, record.request_id)
            error.detail = detail
        return render(error, record.request_id, record.origin, record.method)

    def _log_detail(self, error: MeshError, request_id: str) -> None:
        """Log what the client is not told; once, if many requests in a row fail for the same reason."""
        if error.detail != self._logged_detail:
            self._logged_detail = error.detail
            _log.warning("%s: %s", error.reason, error.detail, extra={"request_id": request_id})

    def _render_crash(self, request: GatewayRequest, error: Exception) -> Rendered:
        self._record_crash(request, error)
        public = MeshError("the gateway failed; the request id leads to its log")
        return render(public, request.record.request_id, "gateway", request.record.method)

    def _record_crash(self, request: GatewayRequest, error: Exception) -> None:
        record = request.record
        _log.error("answering a request failed", exc_info=error, extra={"request_id": record.request_id})
        record.reason, record.origin = "internal", "gateway"
