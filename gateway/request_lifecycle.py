"""The life of requests at one gateway: they begin here, are checked, counted against limits, and end in `Responses`.

`AsgiLane` answers by ASGI calls, `DirectRequest` in the connection's protocol. Neither decides anything by itself.
"""

from __future__ import annotations

from time import monotonic, perf_counter

from gateway.access_log import AccessLog, AccessRecord
from gateway.body_memory import BodyMemory
from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Head, Rendered
from gateway.known_headers import HOST, X_REQUEST_ID
from gateway.request_checks import CheckContext, OwnPath, RequestChecks, RouteCall, TableBehind
from gateway.request_metrics import RequestMetrics
from gateway.responses import Responses
from gateway.route_limits import RouteLimits
from gateway.trace_context import Ids
from gateway.trusted_proxies import TrustedProxies
from mesh.bus import Bus
from mesh.client import Caller
from mesh.live_routes import LiveRoutes
from mesh.settings import GatewaySettings
from mesh.watcher import Watcher

OVERHEAD = 4096
"""Bytes of one message set aside for headers that are added per attempt."""


class RequestLifecycle:
    """One gateway's requests; ``requests`` has those in flight."""

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        live_routes: LiveRoutes,
        caller: Caller,
        settings: GatewaySettings,
        *,
        own: OwnPath,
        metrics: RequestMetrics,
        access: AccessLog,
    ) -> None:
        self.bus = bus
        self.caller = caller
        self.settings = settings
        self.cors = Cors(settings.cors_origins)
        self.metrics = metrics
        self.limits = RouteLimits(settings.route_inflight, settings.route_queue)
        self.body_memory = BodyMemory(settings.body_memory, monotonic)
        metrics.body_bytes = lambda: self.body_memory.used
        self.requests: set[GatewayRequest] = set()
        metrics.inflight = self.requests.__len__
        self.responses = Responses(self.cors, metrics, access, self.requests)
        self._ids = Ids()
        self.checks = RequestChecks(
            CheckContext(bus, watcher, live_routes, settings, self.cors, own, self.requests), self._ids
        )
        trusted = settings.trusted_proxies
        self._proxies = TrustedProxies(trusted, settings.proxy_header) if trusted else None
        self._access = access

    @property
    def inflight(self) -> int:
        return len(self.requests)

    def begin(self, method: str, path: bytes, query: bytes, head: Head, peer: str, scheme: str) -> GatewayRequest:
        """Begin a request whose headers have come, over a connection with ``peer``. `Responses.finish` must follow."""
        request_id = self._ids.request_id(head.known.get(X_REQUEST_ID))
        client, host, sender = peer, head.known.get(HOST, b""), None
        if self._proxies is not None and self._proxies.trusts(peer):
            sender = self._proxies.sender(peer, scheme, head.known)
            client, scheme, host = sender.address, sender.scheme, sender.host
        record = AccessRecord(
            time="",
            level="info",
            logger="mesh.access",
            method=method[:32],
            status=0,
            request_id=request_id.decode(),
            client=client,
        )
        request = GatewayRequest(
            method=method,
            path=path,
            query=query,
            head=head,
            client=client,
            scheme=scheme,
            host=host,
            sender=sender,
            request_id=request_id,
            record=record,
            began=perf_counter(),
        )
        self.requests.add(request)
        return request

    async def check(self, request: GatewayRequest) -> RouteCall | Rendered:
        """See `RequestChecks.run`; waits for a route table that is behind."""
        while True:
            try:
                return self.checks.run(request)
            except TableBehind:
                await self.checks.caught_up()

    def largest_body(self, request: GatewayRequest, call: RouteCall) -> int:
        """Bytes of a body that fit into one message."""
        # Path parameters are in the message once more, a byte as up to three.
        return self.bus.max_payload - len(call.head) - OVERHEAD - 3 * len(request.path)

    def aclose(self) -> None:
        self._access.flush()
