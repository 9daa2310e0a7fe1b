"""What both ways of answering a request share: its beginning and its end, admission, limits, the gateway's own paths.

`AsgiLane` answers by ASGI calls, `DirectRequest` inside the connection's protocol. Neither decides anything by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

from gateway.access_log import AccessLog, begin
from gateway.body_memory import BodyMemory
from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Head, ResponseHeads
from gateway.health import is_own, own_label
from gateway.problems import encode_document, public_detail, refuse, render
from gateway.request_checks import Admitted, Behind, RequestChecks
from gateway.request_metrics import UNMATCHED, RequestMetrics
from gateway.route_limits import RouteLimits
from gateway.trace_context import Ids
from gateway.trusted_proxies import TrustedProxies
from mesh.bus import Bus
from mesh.client import Caller
from mesh.errors import MeshError
from mesh.headers import Pairs
from mesh.live_routes import LiveRoutes
from mesh.settings import GatewaySettings
from mesh.watcher import Watcher

OwnPath = Callable[[str, bytes, bool], tuple[int, Any]]
"""Answers one of the gateway's own paths: of path, query and whether routes may be shown, status and document."""

OVERHEAD = 4096
"""Bytes of one message set aside for headers that are added per attempt."""

_log = logging.getLogger("mesh.gateway")


class RequestLifecycle:
    """One gateway's exchanges. ``draining``: every response tells its client to open another connection."""

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        directory: LiveRoutes,
        caller: Caller,
        settings: GatewaySettings,
        *,
        own: OwnPath,
        metrics: RequestMetrics,
        access: AccessLog,
    ) -> None:
        self.draining = False
        self.bus = bus
        self.caller = caller
        self.settings = settings
        self.cors = Cors(settings.cors_origins)
        self.metrics = metrics
        self.limits = RouteLimits(settings.route_inflight, settings.route_queue)
        self.bodies = BodyMemory(settings.body_memory, monotonic)
        metrics.body_bytes = lambda: self.bodies.held
        self.exchanges: set[GatewayRequest] = set()
        metrics.inflight = self.exchanges.__len__
        self.heads = ResponseHeads()
        self._ids = Ids()
        self.admission = RequestChecks(bus, watcher, directory, settings, self._ids, self.cors)
        trusted = settings.trusted_proxies
        self._proxies = TrustedProxies(trusted, settings.proxy_header) if trusted else None
        self._noted = ""
        self._own = own
        self._access = access

    @property
    def inflight(self) -> int:
        return len(self.exchanges)

    def begin(self, method: str, path: bytes, query: bytes, head: Head, peer: str, scheme: str) -> GatewayRequest:
        """A request whose headers are there, over a connection with ``peer``. `finish` must follow."""
        request_id = self._ids.request_id(head.known.get(b"x-request-id"))
        client, sender = peer, None
        if self._proxies is not None and self._proxies.trusts(peer):
            sender = self._proxies.sender(peer, scheme, head.known)
            client, scheme = sender.address, sender.scheme
        entry = begin(method, request_id.decode(), client)
        exchange = GatewayRequest(method, path, query, head, client, scheme, sender, request_id, entry, perf_counter())
        self.exchanges.add(exchange)
        return exchange

    async def admit(self, exchange: GatewayRequest) -> Admitted:
        """See `RequestChecks.admit`; waits for a table that is behind."""
        while True:
            try:
                return self.admission.admit(exchange, self.inflight)
            except Behind:
                await self.admission.caught_up()

    async def options(self, exchange: GatewayRequest) -> tuple[int, Pairs, bytes] | None:
        """See `RequestChecks.options`; waits for a table that is behind."""
        while True:
            try:
                return self.admission.options(exchange)
            except Behind:
                await self.admission.caught_up()

    def finish(self, exchange: GatewayRequest) -> None:
        """It is answered, or its client is gone: count it and log it."""
        self.exchanges.discard(exchange)
        metrics, entry = self.metrics, exchange.entry
        seconds = perf_counter() - exchange.began
        entry.duration_ms = int(seconds * 1e6) / 1000
        entry.upstream_ms = int(exchange.upstream * 1e6) / 1000
        metrics.record(entry.method, entry.route or UNMATCHED, entry.status, seconds, entry.reason)
        self._access.write(entry)

    def refused(self, exchange: GatewayRequest, error: MeshError) -> tuple[int, Pairs, bytes]:
        """Status, headers and body for a request that ended in an error."""
        entry = exchange.entry
        entry.origin, entry.reason = "mesh" if error.origin == "mesh" else "gateway", error.reason
        entry.attempts = entry.attempts or error.attempts
        detail = public_detail(error)
        if detail != error.detail:
            self._note(error, entry.request_id)
            error.detail = detail
        return render(error, entry.request_id, entry.origin, entry.method)

    def _note(self, error: MeshError, request_id: str) -> None:
        """Log what the client is not told; once, where many requests in a row meet the same."""
        if error.detail != self._noted:
            self._noted = error.detail
            _log.warning("%s: %s", error.reason, error.detail, extra={"request_id": request_id})

    def failed(self, exchange: GatewayRequest) -> tuple[int, Pairs, bytes]:
        """The same for one that met an exception nobody expected, which is logged."""
        entry = exchange.entry
        _log.exception("answering a request failed", extra={"request_id": entry.request_id})
        entry.reason, entry.origin = "internal", "gateway"
        error = MeshError("the gateway failed; the request id leads to its log")
        return render(error, entry.request_id, "gateway", entry.method)

    def room(self, exchange: GatewayRequest, common: bytes) -> int:
        """Bytes of a body that fit into one message."""
        # Path parameters are in the message once more, a byte as up to three.
        return self.bus.max_payload - len(common) - OVERHEAD - 3 * len(exchange.path)

    # -- the gateway's own paths

    @staticmethod
    def is_own(path: str) -> bool:
        """Whether the gateway answers a path (percent-decoded) itself."""
        return is_own(path)

    def answer_own(self, exchange: GatewayRequest, path: str) -> tuple[int, Pairs, bytes]:
        """Status, headers and body of one of the gateway's own paths."""
        exchange.entry.route = own_label(path)
        if exchange.method not in ("GET", "HEAD"):
            raise refuse(405, "method_not_allowed", "this path answers GET and HEAD", {"allow": "GET, HEAD"})
        status, document = self._own(path, exchange.query, self.admission.shows_routes(exchange))
        if "reason" in document:
            document["request_id"] = exchange.entry.request_id
        body, kind = encode_document(document)
        out = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        if status == 503:
            out.append((b"retry-after", b"1"))
        return status, out, b"" if exchange.method == "HEAD" else body

    def aclose(self) -> None:
        self._access.flush()
