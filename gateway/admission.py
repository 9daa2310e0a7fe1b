"""What a request becomes before anything is published: a call to a route, or a refusal that says why."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.cors import Cors
from gateway.exchange import Exchange, RouteDestination, Scope, forwarded
from gateway.headers import Pairs, request_lines
from gateway.problems import refuse
from gateway.trace import Ids
from mesh import headers
from mesh.bus import Bus
from mesh.config import GatewaySettings
from mesh.directory import Directory
from mesh.errors import BusUnavailable, MeshError, NoInstances, Overloaded, Starting
from mesh.routes import Entry, Gone, Match, NotAllowed, Refusal, parse_target
from mesh.streams import FIRST_CREDIT
from mesh.watcher import Watcher

LOOPBACK = ("127.", "::1", "localhost")
TAKES_STREAMS = b"Mesh-Credit: %d\r\n" % FIRST_CREDIT


class Admitted(NamedTuple):
    """A request that may go: its route, where to, header lines for every attempt, and seconds for the whole."""

    route: Entry
    destination: RouteDestination
    common: bytes
    timeout: float


class Admission:
    """Limits and matching."""

    def __init__(
        self, bus: Bus, watcher: Watcher, directory: Directory, settings: GatewaySettings, ids: Ids, cors: Cors
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._directory = directory
        self._settings = settings
        self._ids = ids
        self._cors = cors

    def admit(self, scope: Scope, pairs: Pairs, exchange: Exchange, inflight: int) -> Admitted:
        """The call that a request is. Raises the refusal otherwise; nothing has been published then."""
        settings, method, entry = self._settings, exchange.method, exchange.entry
        raw: bytes = scope["raw_path"]
        target = parse_target(raw, scope["query_string"], settings.max_target)
        if isinstance(target, Refusal):
            entry.path = raw[:128].decode("latin-1")
            raise refuse(target.status, target.reason, target.detail)
        if len(pairs) > settings.max_headers or sum(len(n) + len(v) for n, v in pairs) > settings.max_header_bytes:
            raise refuse(
                431,
                "headers_too_large",
                f"at most {settings.max_headers} headers of {settings.max_header_bytes} bytes together are taken",
            )
        match = self._directory.table.match(method, target.segments)
        if not isinstance(match, Match):
            raise self._unmatched(match, scope, exchange)
        route = match.entry
        entry.route, entry.service = route.template, route.service
        if inflight > settings.max_inflight:
            raise Overloaded(f"{settings.max_inflight} requests are in flight", retry_after=1)
        trace = self._ids.traceparent(headers.find(pairs, headers.TRACEPARENT))
        entry.trace = trace[3:35].decode()
        line = b"%b?%b" % (raw, target.query) if target.query else raw
        common = (
            b"Mesh-Request: %b %b\r\n%bMesh-Id: %b\r\nx-request-id: %b\r\ntraceparent: %b\r\nMesh-Forwarded: %b\r\n%b"
            % (
                method.encode(),
                line,
                TAKES_STREAMS,
                exchange.request_id,
                exchange.request_id,
                trace,
                forwarded(scope, pairs),
                request_lines(pairs),
            )
        )
        timeout_ms = min((b.route.timeout_ms for b in route.bindings.values() if b.route.timeout_ms), default=0)
        timeout = (timeout_ms or settings.timeout_ms) / 1000
        return Admitted(route, RouteDestination(route, match.values), common, timeout)

    def options(self, scope: Scope, pairs: Pairs) -> tuple[int, Pairs, bytes] | None:
        """The gateway's own answer to OPTIONS; None where a service answers, or nobody."""
        raw: bytes = scope["raw_path"]
        if raw == b"*":
            return 204, [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")], b""
        target = parse_target(raw, scope["query_string"], self._settings.max_target)
        return None if isinstance(target, Refusal) else self._preflight(target.segments, pairs)

    def shows_routes(self, scope: Scope) -> bool:
        """Whether this client may be told of routes: on loopback, or as configured."""
        if self._settings.show_routes != "auto":
            return self._settings.show_routes == "always"
        client = scope.get("client")
        return client is None or bool(client[0].startswith(LOOPBACK))

    def _preflight(self, segments: tuple[str, ...], pairs: Pairs) -> tuple[int, Pairs, bytes] | None:
        """The gateway's answer to OPTIONS on a known path whose service does not answer it itself."""
        match = self._directory.table.match("OPTIONS", segments)
        if not isinstance(match, NotAllowed):
            return None
        out: Pairs = [(b"allow", ", ".join(match.allow).encode())]
        out += self._cors.preflight_headers(pairs, match.allow)
        return 204, out, b""

    def _unmatched(self, match: object, scope: Scope, exchange: Exchange) -> MeshError:
        entry = exchange.entry
        if not self._bus.connected and not self._watcher.synchronised.is_set():
            return BusUnavailable(self._bus.last_error or "not connected to NATS")
        if not self._watcher.synchronised.is_set():
            return Starting("the gateway is still learning who is there")
        if isinstance(match, Gone):
            entry.route, entry.service = match.entry.template, match.entry.service
            return NoInstances(f"no live instance of {match.entry.service} serves this route")
        entry.path = scope["raw_path"][:128].decode("latin-1")
        if isinstance(match, NotAllowed):
            allow = ", ".join(match.allow)
            return refuse(405, "method_not_allowed", f"this path answers {allow}", {"allow": allow})
        extra: dict[str, Any] = {}
        if self.shows_routes(scope):
            extra["nearest"] = self._directory.table.nearest(scope["path"])
        return refuse(404, "no_route", "no service announces this path", **extra)
