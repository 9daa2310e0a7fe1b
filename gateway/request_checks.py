"""The checks that every request passes before anything of it is published, in their order.

A check is a function of the request and of `CheckContext`. It returns None if the next one may look at the request. It
raises the refusal, a `MeshError`, or returns the gateway's own response. The order is:

    target, own paths, match, CORS preflight, headers, requests in flight, body

To add a check, write its function and put it into `CHECKS`. One that keeps something of its own (keys, counters) is a
method, and goes into the list in `RequestChecks`. A header that it reads is declared with `known_header`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Pairs, Rendered
from gateway.health import OWN, is_own, own_label
from gateway.known_headers import ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN
from gateway.problems import encode_document, refuse
from gateway.trace_context import Ids
from gateway.wire_request import request_head
from mesh.balancer import RetryPolicy
from mesh.bus import Bus
from mesh.client import RouteDestination
from mesh.errors import BusUnavailable, MeshError, NoInstances, Overloaded, Starting, TooLarge
from mesh.headers import is_sound
from mesh.live_routes import LiveRoutes
from mesh.routes import Gone, Match, NotAllowed, RefusedTarget, RouteTable, ServedRoute, parse_target
from mesh.settings import GatewaySettings
from mesh.watcher import Watcher

OwnPath = Callable[[str, bytes, bool], tuple[int, Any]]
"""Answers one of the gateway's own paths: of path, query and whether routes may be shown, status and document."""

LimitKey = tuple[str, str]
"""The key by which route limits count requests: method and template."""

_OWN = tuple(own.encode() for own in OWN)


class TableBehind(Exception):
    """No route was found, but the route table is being brought up to date: wait for that, and check again."""


class CheckContext(Struct, frozen=True, eq=False):
    """The parts of the gateway that checks use. ``requests`` are all that are in flight, ``own`` answers own paths."""

    bus: Bus
    watcher: Watcher
    live_routes: LiveRoutes
    settings: GatewaySettings
    cors: Cors
    own: OwnPath
    requests: Collection[GatewayRequest]


Check = Callable[[GatewayRequest, CheckContext], Rendered | None]


class RouteCall(Struct, frozen=True, eq=False):
    """The call that a request becomes when it has passed all checks.

    ``head``: header lines for every attempt. ``timeout``: seconds for the whole. ``retries``: which attempts may be
    followed by another one.
    """

    limit_key: LimitKey
    destination: RouteDestination
    head: bytes
    timeout: float
    retries: RetryPolicy


class RequestChecks:
    """The checks of one gateway. ``for_requests`` and ``for_handshakes`` are the lists, in order."""

    def __init__(self, context: CheckContext, ids: Ids) -> None:
        self.for_requests: list[Check] = list(CHECKS)
        self.for_handshakes: list[Check] = [check_origin, *CHECKS]
        self._context = context
        self._ids = ids
        # Limit key, timeout and retries by route and method, for the routes of one table.
        self._policies: dict[tuple[ServedRoute, str], tuple[LimitKey, float, RetryPolicy]] = {}
        self._policies_of: RouteTable | None = None

    def run(self, request: GatewayRequest) -> RouteCall | Rendered:
        """The call that a request becomes, or the gateway's own response to it.

        Raises the refusal, or `TableBehind`. Nothing has been published in any case.
        """
        context = self._context
        for check in self.for_handshakes if request.is_handshake else self.for_requests:
            response = check(request, context)
            if response is not None:
                return response
        match = request.match
        assert isinstance(match, Match)
        route, method = match.route, request.method
        table = context.live_routes.table
        if table is not self._policies_of:
            self._policies_of = table
            self._policies.clear()
        policy = self._policies.get((route, method))
        if policy is None:
            timeout = (route.policy.timeout_ms or context.settings.timeout_ms) / 1000
            retries = RetryPolicy.of(method, [route.policy])
            policy = self._policies[route, method] = (method, route.template), timeout, retries
        limit_key, timeout, retries = policy
        trace = self._ids.trace(request.head.known)
        request.record.trace = trace[3:35].decode()
        destination = RouteDestination(route.service, route.revisions, match.values)
        return RouteCall(limit_key, destination, request_head(request, trace), timeout, retries)

    async def caught_up(self) -> None:
        """Return when the table has what is known by now."""
        await self._context.live_routes.caught_up()


# -- the checks, in their order


def check_origin(request: GatewayRequest, context: CheckContext) -> None:
    """Of WebSockets only: a page of another origin than those allowed may not open one."""
    if not context.cors.may_connect(request.head.known.get(ORIGIN), request.host):
        raise refuse(403, "origin_not_allowed", "pages of this origin may not connect here")


def check_target(request: GatewayRequest, context: CheckContext) -> Rendered | None:
    """The target is a path that may be matched, and not too long."""
    target = parse_target(request.path, request.query, context.settings.max_target)
    if not isinstance(target, RefusedTarget):
        request.segments = target.segments
        return None
    if request.path == b"*" and request.method == "OPTIONS":  # of the server as a whole (RFC 9110 section 9.3.7)
        return Rendered(204, [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")], b"")
    request.record.path = request.path[:128].decode("latin-1")
    raise refuse(target.status, target.reason, target.detail)


def answer_own_path(request: GatewayRequest, context: CheckContext) -> Rendered | None:
    """The gateway's own paths, as `gateway.health` answers them."""
    if not request.path.startswith(_OWN) and request.path.find(b"%") < 0:
        return None
    path = "/" + "/".join(request.segments)
    if not is_own(path):
        return None
    request.record.route = own_label(path)
    if request.method not in ("GET", "HEAD"):
        raise refuse(405, "method_not_allowed", "this path answers GET and HEAD", {"allow": "GET, HEAD"})
    status, document = context.own(path, request.query, _shows_routes(request, context))
    if "reason" in document:
        document["request_id"] = request.record.request_id
    body, kind = encode_document(document)
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return Rendered(status, headers, b"" if request.method == "HEAD" else body)


def match_route(request: GatewayRequest, context: CheckContext) -> None:
    """A service serves the path and method. OPTIONS is left to `answer_preflight`."""
    routes = context.live_routes
    match = request.match = routes.table.match(request.method, request.segments)
    if isinstance(match, Match):
        record, route = request.record, match.route
        record.route, record.service = route.template, route.service
    elif routes.behind:
        raise TableBehind
    elif request.method != "OPTIONS":
        raise _unmatched(request, context)


def answer_preflight(request: GatewayRequest, context: CheckContext) -> Rendered | None:
    """OPTIONS for a path whose service has no route for it: the service answers preflights itself, as its
    announcement says, or the response is the gateway's own."""
    match = request.match
    if isinstance(match, Match):
        return None
    known = request.head.known
    asked = known.get(ACCESS_CONTROL_REQUEST_METHOD)
    if asked is not None and ORIGIN in known:
        preflighted = context.live_routes.table.match(asked.decode("latin-1"), request.segments)
        if isinstance(preflighted, Match) and preflighted.route.policy.preflight:
            request.match = preflighted
            request.record.route, request.record.service = preflighted.route.template, preflighted.route.service
            return None
    if not isinstance(match, NotAllowed):
        raise _unmatched(request, context)
    allow = _tokens(match.allow)
    headers: Pairs = [(b"allow", ", ".join(allow).encode())]
    return Rendered(204, headers + (context.cors.preflight(known, allow) or []), b"")


def check_headers(request: GatewayRequest, context: CheckContext) -> None:
    """The headers are not too many or too large, and have one credential at most."""
    head, settings = request.head, context.settings
    if head.number > settings.max_headers or head.size > settings.max_header_bytes:
        raise refuse(
            431,
            "headers_too_large",
            f"at most {settings.max_headers} headers of {settings.max_header_bytes} bytes together are taken",
        )
    if head.credentials > 1:
        raise refuse(400, "invalid_credentials", f"a request has one Authorization header, not {head.credentials}")


def check_inflight(request: GatewayRequest, context: CheckContext) -> None:
    """The gateway has not too many requests in flight; `gateway.route_limits` counts those of one route."""
    if len(context.requests) > context.settings.max_inflight:
        raise Overloaded(f"{context.settings.max_inflight} requests are in flight", retry_after=1)


def check_body(request: GatewayRequest, context: CheckContext) -> None:
    """The body is not declared to be too large. One without a length is counted as it comes."""
    largest = context.settings.max_request_body
    if CONTENT_LENGTH in request.head.known and 0 < largest < (size := request.size or 0):
        raise TooLarge(f"the body has {size} bytes; {largest} are allowed")


CHECKS: tuple[Check, ...] = (
    check_target,
    answer_own_path,
    match_route,
    answer_preflight,
    check_headers,
    check_inflight,
    check_body,
)
"""The checks that a request passes, in this order. For the handshake of a WebSocket `check_origin` comes first."""


def _shows_routes(request: GatewayRequest, context: CheckContext) -> bool:
    """True if the client may be told of routes: it is on this machine, or that is configured."""
    if context.settings.show_routes != "auto":
        return context.settings.show_routes == "always"
    return request.local


def _unmatched(request: GatewayRequest, context: CheckContext) -> MeshError:
    """The error that says why no service serves a request."""
    record, match = request.record, request.match
    if not context.bus.connected and not context.watcher.synchronised.is_set():
        return BusUnavailable(context.bus.last_error)
    if not context.watcher.synchronised.is_set():
        return Starting("the gateway is still learning who is there")
    if isinstance(match, Gone):
        record.route, record.service = match.route.template, match.route.service
        return NoInstances(f"no live instance of {match.route.service} serves this route")
    record.path = request.path[:128].decode("latin-1")
    if isinstance(match, NotAllowed):
        allow = ", ".join(_tokens(match.allow))
        return refuse(405, "method_not_allowed", f"this path answers {allow}", {"allow": allow})
    extra: dict[str, Any] = {}
    if _shows_routes(request, context):
        extra["nearest"] = context.live_routes.table.nearest(unquote(request.path.decode("latin-1")))
    return refuse(404, "no_route", "no service announces this path", **extra)


def _tokens(methods: Iterable[str]) -> list[str]:
    """The methods that may stand in a header: services announce them."""
    return [method for method in methods if is_sound(method.encode(), b"")]
