"""What all requests of one gateway share: their beginning, the checks, limits, the gateway's own paths, their end.

`AsgiLane` answers by ASGI calls, `DirectRequest` in the connection's protocol. Neither decides anything by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

from gateway.access_log import AccessLog, AccessRecord
from gateway.body_memory import BodyMemory
from gateway.cors import Cors
from gateway.gateway_request import GatewayRequest
from gateway.header_translation import Head, Rendered
from gateway.health import is_own, own_label
from gateway.problems import encode_document, refuse
from gateway.request_checks import Admitted, Behind, RequestChecks
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

OwnPath = Callable[[str, bytes, bool], tuple[int, Any]]
"""Answers one of the gateway's own paths: of path, query and whether routes may be shown, status and document."""

OVERHEAD = 4096
"""Bytes of one message set aside for headers that are added per attempt."""


class RequestLifecycle:
    """One gateway's requests; ``requests`` has those in flight."""

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
        self.bus = bus
        self.caller = caller
        self.settings = settings
        self.cors = Cors(settings.cors_origins)
        self.metrics = metrics
        self.limits = RouteLimits(settings.route_inflight, settings.route_queue)
        self.bodies = BodyMemory(settings.body_memory, monotonic)
        metrics.body_bytes = lambda: self.bodies.held
        self.requests: set[GatewayRequest] = set()
        metrics.inflight = self.requests.__len__
        caller.recovery.on_repeat = metrics.repeated
        self.responses = Responses(self.cors, metrics, access, self.requests)
        self._ids = Ids()
        self.admission = RequestChecks(bus, watcher, directory, settings, self._ids, self.cors)
        trusted = settings.trusted_proxies
        self._proxies = TrustedProxies(trusted, settings.proxy_header) if trusted else None
        self._own = own
        self._access = access

    @property
    def inflight(self) -> int:
        return len(self.requests)

    def begin(self, method: str, path: bytes, query: bytes, head: Head, peer: str, scheme: str) -> GatewayRequest:
        """A request whose headers are there, over a connection with ``peer``. `Responses.finish` must follow."""
        request_id = self._ids.request_id(head.known.get(b"x-request-id"))
        client, sender = peer, None
        if self._proxies is not None and self._proxies.trusts(peer):
            sender = self._proxies.sender(peer, scheme, head.known)
            client, scheme = sender.address, sender.scheme
        record = AccessRecord(
            time="",
            level="info",
            logger="mesh.access",
            method=method[:32],
            status=0,
            request_id=request_id.decode(),
            client=client,
        )
        request = GatewayRequest(method, path, query, head, client, scheme, sender, request_id, record, perf_counter())
        self.requests.add(request)
        return request

    async def admit(self, request: GatewayRequest) -> Admitted:
        """See `RequestChecks.admit`; waits for a table that is behind."""
        while True:
            try:
                return self.admission.admit(request, self.inflight)
            except Behind:
                await self.admission.caught_up()

    async def options(self, request: GatewayRequest) -> Rendered | None:
        """See `RequestChecks.options`; waits for a table that is behind."""
        while True:
            try:
                return self.admission.options(request)
            except Behind:
                await self.admission.caught_up()

    def room(self, request: GatewayRequest, common: bytes) -> int:
        """Bytes of a body that fit into one message."""
        # Path parameters are in the message once more, a byte as up to three.
        return self.bus.max_payload - len(common) - OVERHEAD - 3 * len(request.path)

    # -- the gateway's own paths

    @staticmethod
    def is_own(path: str) -> bool:
        """Whether the gateway answers a path (percent-decoded) itself."""
        return is_own(path)

    def answer_own(self, request: GatewayRequest, path: str) -> Rendered:
        """The response of one of the gateway's own paths."""
        request.record.route = own_label(path)
        if request.method not in ("GET", "HEAD"):
            raise refuse(405, "method_not_allowed", "this path answers GET and HEAD", {"allow": "GET, HEAD"})
        status, document = self._own(path, request.query, self.admission.shows_routes(request))
        if "reason" in document:
            document["request_id"] = request.record.request_id
        body, kind = encode_document(document)
        out = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        if status == 503:
            out.append((b"retry-after", b"1"))
        return Rendered(status, out, b"" if request.method == "HEAD" else body)

    def aclose(self) -> None:
        self._access.flush()
