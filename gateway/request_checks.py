"""What a request becomes before anything is published: a call to a route, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from msgspec import Struct

from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest, forwarded
from gateway.problems import refuse
from gateway.trace_context import Ids
from mesh.balancer import RetryPolicy
from mesh.bus import Bus
from mesh.client import RouteDestination
from mesh.errors import BusUnavailable, MeshError, NoInstances, Overloaded, Starting, TooLarge
from mesh.headers import Pairs, is_sound
from mesh.live_routes import LiveRoutes
from mesh.routes import Entry, Gone, Match, NotAllowed, RefusedTarget, RouteTable, parse_target
from mesh.settings import GatewaySettings
from mesh.streams import TAKES_STREAMS
from mesh.watcher import Watcher


class Admitted(Struct, frozen=True, eq=False):
    """A request that may go: its place among the limits, where to, header lines for every attempt, seconds for the
    whole, and what may be repeated."""

    place: tuple[str, str]
    destination: RouteDestination
    common: bytes
    timeout: float
    retries: RetryPolicy


class _Policy(NamedTuple):
    """What follows from a route's settings and the method: see `Admitted`."""

    place: tuple[str, str]
    timeout: float
    retries: RetryPolicy


class Behind(Exception):
    """No route was found, but the table is being brought up to date: ask again after `RequestChecks.caught_up`."""


class RequestChecks:
    """Limits and matching."""

    def __init__(
        self, bus: Bus, watcher: Watcher, directory: LiveRoutes, settings: GatewaySettings, ids: Ids, cors: Cors
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._directory = directory
        self._settings = settings
        self._ids = ids
        self._cors = cors
        # For the routes of one table.
        self._policies: dict[tuple[Entry, str], _Policy] = {}
        self._policies_of: RouteTable | None = None

    def admit(self, exchange: GatewayRequest, inflight: int) -> Admitted:
        """The call that a request is. Raises the refusal otherwise, or `Behind`; nothing has been published then."""
        settings, method, entry, head = self._settings, exchange.method, exchange.entry, exchange.head
        target = parse_target(exchange.path, exchange.query, settings.max_target)
        if isinstance(target, RefusedTarget):
            entry.path = exchange.path[:128].decode("latin-1")
            raise refuse(target.status, target.reason, target.detail)
        if head.number > settings.max_headers or head.size > settings.max_header_bytes:
            raise refuse(
                431,
                "headers_too_large",
                f"at most {settings.max_headers} headers of {settings.max_header_bytes} bytes together are taken",
            )
        if head.credentials > 1:
            raise refuse(400, "invalid_credentials", f"a request has one Authorization header, not {head.credentials}")
        table = self._directory.table
        match = table.match(method, target.segments)
        if not isinstance(match, Match):
            if self._directory.behind:
                raise Behind
            preflighted = self._preflighted(exchange, target.segments)
            if preflighted is None:
                raise self._unmatched(match, exchange)
            match = preflighted
        route = match.entry
        entry.route, entry.service = route.template, route.service
        if inflight > settings.max_inflight:
            raise Overloaded(f"{settings.max_inflight} requests are in flight", retry_after=1)
        if b"content-length" in head.known and 0 < settings.max_request_body < (size := exchange.size or 0):
            raise TooLarge(f"the body has {size} bytes; {settings.max_request_body} are allowed")
        trace = self._ids.trace(head.known)
        entry.trace = trace[3:35].decode()
        line = b"%b?%b" % (exchange.path, target.query) if target.query else exchange.path
        request_id = exchange.request_id
        host = head.known.get(b"host", b"") if exchange.sender is None else exchange.sender.host
        sender = forwarded(exchange.client, exchange.scheme, host if len(host) < 256 else b"")
        common = (
            b"Mesh-Request: %b %b\r\n%bMesh-Id: %b\r\nx-request-id: %b\r\ntraceparent: %b\r\nMesh-Forwarded: %b\r\n%b"
            % (method.encode(), line, TAKES_STREAMS, request_id, request_id, trace, sender, head.lines)
        )
        if table is not self._policies_of:
            self._policies_of = table
            self._policies.clear()
        policy = self._policies.get((route, method))
        if policy is None:
            policy = self._policies[route, method] = self._policy(route, method)
        destination = RouteDestination(route.service, route.bindings, match.values)
        return Admitted(policy.place, destination, common, policy.timeout, policy.retries)

    async def caught_up(self) -> None:
        """Return when the table has what is known by now."""
        await self._directory.caught_up()

    def _policy(self, route: Entry, method: str) -> _Policy:
        timeout = (route.timeout_ms or self._settings.timeout_ms) / 1000
        retries = RetryPolicy.of(method, [binding.route for binding in route.bindings.values()])
        return _Policy((method, route.template), timeout, retries)

    def options(self, exchange: GatewayRequest) -> tuple[int, Pairs, bytes] | None:
        """The gateway's own answer to OPTIONS; None where a service answers, or nobody. Raises `Behind`."""
        if exchange.path == b"*":
            return 204, [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")], b""
        target = parse_target(exchange.path, exchange.query, self._settings.max_target)
        if isinstance(target, RefusedTarget):
            return None
        match = self._directory.table.match("OPTIONS", target.segments)
        if not isinstance(match, Match) and self._directory.behind:
            raise Behind
        if not isinstance(match, NotAllowed) or self._preflighted(exchange, target.segments) is not None:
            return None
        allow = _tokens(match.allow)
        out: Pairs = [(b"allow", ", ".join(allow).encode())]
        return 204, out + (self._cors.preflight(exchange.head.known, allow) or []), b""

    def answers_preflight(self, exchange: GatewayRequest, status: int, out: Pairs) -> tuple[int, Pairs, bytes] | None:
        """The gateway's answer to OPTIONS where a service's own says nothing of CORS, and the gateway has a say."""
        found = self._cors.complete_preflight(exchange.head.known, status, out) if self._cors.origins else None
        return None if found is None else (204, found, b"")

    def check_origin(self, exchange: GatewayRequest) -> None:
        """Raise the refusal of a WebSocket that a page of another origin than those allowed opens."""
        if not self._cors.may_connect(exchange.head.known.get(b"origin"), exchange.host):
            raise refuse(403, "origin_not_allowed", "pages of this origin may not connect here")

    def _preflighted(self, exchange: GatewayRequest, segments: tuple[str, ...]) -> Match | None:
        """The route that a preflight asks for, where its service answers preflights itself."""
        asked = exchange.head.known.get(b"access-control-request-method")
        if exchange.method != "OPTIONS" or asked is None or b"origin" not in exchange.head.known:
            return None
        match = self._directory.table.match(asked.decode("latin-1"), segments)
        if isinstance(match, Match) and all(b.route.preflight for b in match.entry.bindings.values()):
            return match
        return None

    def shows_routes(self, exchange: GatewayRequest) -> bool:
        """Whether a request's client may be told of routes: on this machine, or as configured."""
        if self._settings.show_routes != "auto":
            return self._settings.show_routes == "always"
        return exchange.local

    def _unmatched(self, match: object, exchange: GatewayRequest) -> MeshError:
        entry = exchange.entry
        if not self._bus.connected and not self._watcher.synchronised.is_set():
            return BusUnavailable(self._bus.last_error)
        if not self._watcher.synchronised.is_set():
            return Starting("the gateway is still learning who is there")
        if isinstance(match, Gone):
            entry.route, entry.service = match.entry.template, match.entry.service
            return NoInstances(f"no live instance of {match.entry.service} serves this route")
        entry.path = exchange.path[:128].decode("latin-1")
        if isinstance(match, NotAllowed):
            allow = ", ".join(_tokens(match.allow))
            return refuse(405, "method_not_allowed", f"this path answers {allow}", {"allow": allow})
        extra: dict[str, Any] = {}
        if self.shows_routes(exchange):
            extra["nearest"] = self._directory.table.nearest(unquote(exchange.path.decode("latin-1")))
        return refuse(404, "no_route", "no service announces this path", **extra)


def _tokens(methods: Iterable[str]) -> list[str]:
    """Those that may stand in a header: services announce them."""
    return [method for method in methods if is_sound(method.encode(), b"")]
