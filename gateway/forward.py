"""The proxied path: an HTTP request becomes a request on the bus, its reply the response.

A raw ASGI callable: no framework stands between uvicorn and the bus. Decisions (matching, limits, headers) are
made before anything is published; errors become problem documents in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from time import perf_counter
from typing import Any

from gateway.access import AccessLog, begin
from gateway.cors import Cors
from gateway.headers import NO_BODY, Pairs, request_lines, response
from gateway.health import own_label
from gateway.limits import RouteLimits
from gateway.metrics import UNMATCHED, RequestMetrics
from gateway.problems import encode_document, refuse, render
from gateway.streaming import ClientGone, Receive, Send, Upload, read_body, send_stream
from gateway.trace import Ids
from mesh import headers
from mesh.bus import Bus
from mesh.client import Answer, Caller, Repeatable
from mesh.config import GatewaySettings
from mesh.directory import Directory
from mesh.errors import BusUnavailable, MeshError, NoInstances, Overloaded, Starting, TooLarge
from mesh.routes import Binding, Gone, Match, NotAllowed, Refusal, parse_target
from mesh.routes import Entry as RouteEntry
from mesh.streams import FIRST_CREDIT, Stream
from mesh.watcher import Watcher

Scope = MutableMapping[str, Any]
OwnPath = Callable[[Scope], tuple[int, Any]]
"""Answers one of the gateway's own paths: status and JSON-ready document."""

LOOPBACK = ("127.", "::1", "localhost")
WATCH_S = 0.05
"""A request older than this is watched for its client's going away; most end sooner and save the cost."""
OVERHEAD = 4096
"""Bytes of one message set aside for headers that are added per attempt."""

TAKES_STREAMS = b"Mesh-Credit: %d\r\n" % FIRST_CREDIT

_log = logging.getLogger("mesh.gateway")


class RouteDestination:
    """A matched route as a destination of calls; each revision may name endpoint and parameters differently."""

    __slots__ = ("_bindings", "_values", "queued", "revisions", "service")

    def __init__(self, entry: RouteEntry, values: tuple[str, ...]) -> None:
        self.service = entry.service
        self.revisions = entry.bindings.keys()
        self.queued = ""
        self._bindings = entry.bindings
        self._values = values

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        binding: Binding = self._bindings[revision]
        if not self._values:
            return binding.endpoint.encode(), b""
        params = headers.encode_params(zip(binding.names, self._values, strict=True))
        return binding.endpoint.encode(), b"Mesh-Params: %b\r\n" % params


class Exchange:
    """One request while it is answered; also what the access log will say of it."""

    __slots__ = (
        "began",
        "entry",
        "method",
        "receive",
        "request_id",
        "stream",
        "task",
        "upload",
        "upstream",
        "watch",
    )

    def __init__(self, method: str, request_id: bytes, began: float, receive: Receive) -> None:
        self.method = method
        self.request_id = request_id
        self.began = began
        self.receive = receive
        self.entry = begin(method, request_id.decode())
        self.upstream = 0.0
        self.upload: Upload | None = None
        """The request's body, while the response is a stream already."""
        self.stream: Stream | None = None
        """The rest of the response's body."""
        self.task: asyncio.Task[Any] | None = None
        self.watch: asyncio.Task[None] | None = None


class Forwarder:
    """The ASGI application on the gateway's public listener."""

    def __init__(
        self,
        bus: Bus,
        watcher: Watcher,
        directory: Directory,
        caller: Caller,
        settings: GatewaySettings,
        *,
        own: OwnPath,
        is_own: Callable[[str], bool],
        metrics: RequestMetrics,
        access: AccessLog,
    ) -> None:
        self.draining = False
        self._bus = bus
        self._watcher = watcher
        self._directory = directory
        self._caller = caller
        self._settings = settings
        self._cors = Cors(settings.cors_origins)
        self._own = own
        self._is_own = is_own
        self._metrics = metrics
        self._access = access
        self._ids = Ids()
        self._limits = RouteLimits(settings.route_inflight, settings.route_queue)
        self._loop = asyncio.get_running_loop()
        self._exchanges: set[Exchange] = set()
        self._watching: asyncio.TimerHandle | None = None

    @property
    def inflight(self) -> int:
        return len(self._exchanges)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": "this gateway carries no WebSockets"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        pairs: Pairs = scope["headers"]
        request_id = self._ids.request_id(headers.find(pairs, b"x-request-id"))
        exchange = Exchange(scope["method"], request_id, perf_counter(), receive)
        self._exchanges.add(exchange)
        self._metrics.inflight += 1
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_S, self._watch)
        entry = exchange.entry
        client = scope.get("client")
        if client:
            entry.client = client[0]
        try:
            try:
                status, out, body = await self._answer(scope, pairs, exchange)
            except MeshError as error:
                if error.origin == "mesh":
                    entry.origin, entry.reason = "mesh", error.reason
                else:
                    entry.origin, entry.reason = "gateway", error.reason
                status, out, body = render(error, entry.request_id, entry.origin, entry.method)
            out.append((b"x-request-id", request_id))
            if self._cors.origins:
                out += self._cors.response_headers(headers.find(pairs, b"origin"))
            if self.draining:
                out.append((b"connection", b"close"))
            entry.status = status
            entry.bytes_out = len(body)
            await send({"type": "http.response.start", "status": status, "headers": out})
            if exchange.stream is None:
                await send({"type": "http.response.body", "body": body})
            else:
                await self._send_stream(exchange, exchange.stream, send)
        except ClientGone:
            entry.status, entry.reason, entry.origin = 499, "client_gone", "client"
        except Exception:
            _log.exception("answering a request failed", extra={"request_id": entry.request_id})
            entry.status, entry.reason, entry.origin = 500, "internal", "gateway"
            failed = MeshError("the gateway failed; the request id leads to its log")
            status, out, body = render(failed, entry.request_id, "gateway", entry.method)
            await send({"type": "http.response.start", "status": status, "headers": out})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._finish(exchange)

    async def _send_stream(self, exchange: Exchange, stream: Stream, send: Send) -> None:
        settings, entry, upload = self._settings, exchange.entry, exchange.upload
        exchange.task = asyncio.current_task()
        if upload is None:
            self._watch_client(exchange)
        else:
            upload.then(lambda: self._uploaded(exchange, upload))
        try:
            entry.bytes_out = await send_stream(
                stream, send, idle_s=settings.stream_idle_s, total_s=settings.stream_total_s
            )
        except asyncio.CancelledError:
            raise _gone(exchange) from None
        except MeshError as error:
            # No end is sent: uvicorn closes the connection, and the client sees that the body is cut off.
            entry.origin, entry.reason = "mesh", error.reason
        finally:
            stream.close()
            if upload is not None:
                await upload.end()
                entry.bytes_in = upload.size

    def _uploaded(self, exchange: Exchange, upload: Upload) -> None:
        """The request's body has gone while the response is being sent; until now its reader saw a client that goes."""
        if exchange.task is None:
            return
        if upload.done:
            self._watch_client(exchange)
        elif upload.client_gone:
            exchange.task.cancel()

    def _finish(self, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)
        self._metrics.inflight -= 1
        if exchange.watch is not None:
            exchange.watch.cancel()
        # Break the cycle task -> frame -> exchange -> task by hand: left to the collector it costs latency.
        exchange.task = exchange.watch = None
        entry = exchange.entry
        seconds = perf_counter() - exchange.began
        entry.duration_ms = round(seconds * 1000, 3)
        entry.upstream_ms = round(exchange.upstream * 1000, 3)
        if entry.attempts > 1:
            self._metrics.retries += entry.attempts - 1
        self._metrics.record(entry.method, entry.route or UNMATCHED, entry.status, seconds, entry.reason)
        self._access.write(entry)

    # -- the answer

    async def _answer(self, scope: Scope, pairs: Pairs, exchange: Exchange) -> tuple[int, Pairs, bytes]:
        settings, method, entry = self._settings, exchange.method, exchange.entry
        raw: bytes = scope["raw_path"]
        if self._is_own(scope["path"]):
            entry.route = own_label(scope["path"])
            return self._answer_own(scope, exchange)
        target = parse_target(raw, scope["query_string"], settings.max_target)
        if isinstance(target, Refusal):
            if method == "OPTIONS" and raw == b"*":
                return 204, [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")], b""
            entry.path = raw[:128].decode("latin-1")
            raise refuse(target.status, target.reason, target.detail)
        if len(pairs) > settings.max_headers or sum(len(n) + len(v) for n, v in pairs) > settings.max_header_bytes:
            raise refuse(
                431,
                "headers_too_large",
                f"at most {settings.max_headers} headers of {settings.max_header_bytes} bytes together are taken",
            )
        if method == "OPTIONS" and (preflight := self._preflight(target.segments, pairs)) is not None:
            return preflight
        match = self._directory.table.match(method, target.segments)
        if not isinstance(match, Match):
            return self._unmatched(match, scope, exchange)
        route = match.entry
        entry.route, entry.service = route.template, route.service
        if len(self._exchanges) > settings.max_inflight:
            raise Overloaded(f"{settings.max_inflight} requests are in flight", retry_after=1)
        line = b"Mesh-Request: %b %b%b\r\n" % (
            method.encode(),
            raw,
            b"?" + target.query if target.query else b"",
        )
        trace = self._ids.traceparent(headers.find(pairs, headers.TRACEPARENT))
        entry.trace = trace[3:35].decode()
        common = (
            b"%bMesh-Credit: %d\r\nMesh-Id: %b\r\nx-request-id: %b\r\ntraceparent: %b\r\nMesh-Forwarded: %b\r\n%b"
            % (
                line,
                FIRST_CREDIT,
                exchange.request_id,
                exchange.request_id,
                trace,
                _forwarded(scope, pairs),
                request_lines(pairs),
            )
        )
        pieces, whole = await self._read_body(exchange, pairs, self._bus.max_payload - len(common) - OVERHEAD)
        timeout_ms = min((b.route.timeout_ms for b in route.bindings.values() if b.route.timeout_ms), default=0)
        timeout = (timeout_ms or settings.timeout_ms) / 1000
        destination = RouteDestination(route, match.values)
        place = (method, route.template)
        began = perf_counter()
        exchange.task = asyncio.current_task() if whole else None  # the body's reader sees a client that goes
        try:
            if not self._limits.try_enter(place):
                await self._limits.wait(place, timeout)
                timeout -= perf_counter() - began
            try:
                if whole:
                    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    entry.bytes_in = len(body)
                    answer = await self._caller.call(destination, common, body, timeout, _repeatable(route, method))
                else:
                    answer = await self._upload(exchange, pieces, pairs, destination, common, timeout)
            finally:
                self._limits.leave(place)
        except asyncio.CancelledError:
            raise _gone(exchange) from None
        finally:
            exchange.task = None
            exchange.upstream = perf_counter() - began
        entry.instance, entry.attempts = answer.instance, answer.attempts
        stream = exchange.stream = answer.stream
        status, out, content = response(answer.reply, method, streamed=stream is not None)
        if stream is not None and (method == "HEAD" or status in NO_BODY):
            stream.close()
            exchange.stream = None
        if status >= 500:
            entry.origin, entry.reason = "service", "service_error"
        return status, out, content

    async def _upload(
        self,
        exchange: Exchange,
        pieces: list[bytes],
        pairs: Pairs,
        destination: RouteDestination,
        common: bytes,
        timeout: float,
    ) -> Answer:
        """A call whose body is larger than one message, or has no known length."""
        settings, limit = self._settings, self._settings.max_request_body
        conversation = await self._caller.open(destination, common, timeout)
        upload = Upload(exchange.receive, pieces, conversation.stream, idle_s=settings.body_idle_s, limit=limit)
        try:
            await upload.until_answered(conversation)
            reply = await conversation.head(timeout)
        except BaseException:
            await upload.end()
            conversation.close()
            raise
        finally:
            exchange.entry.bytes_in = upload.size
        if conversation.streamed:
            exchange.upload = upload  # a service may answer while it still reads
            return Answer(reply, conversation.instance, conversation.attempts, conversation.stream)
        await upload.end()  # uvicorn reads past what the service did not want
        conversation.close()
        return Answer(reply, conversation.instance, conversation.attempts)

    def _answer_own(self, scope: Scope, exchange: Exchange) -> tuple[int, Pairs, bytes]:
        if exchange.method not in ("GET", "HEAD"):
            raise refuse(405, "method_not_allowed", "this path answers GET and HEAD", {"allow": "GET, HEAD"})
        status, document = self._own(scope)
        body, kind = encode_document(document)
        out = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        return status, out, b"" if exchange.method == "HEAD" else body

    def _preflight(self, segments: tuple[str, ...], pairs: Pairs) -> tuple[int, Pairs, bytes] | None:
        """The gateway's answer to OPTIONS on a known path whose service does not answer it itself."""
        match = self._directory.table.match("OPTIONS", segments)
        if not isinstance(match, NotAllowed):
            return None
        out: Pairs = [(b"allow", ", ".join(match.allow).encode())]
        out += self._cors.preflight_headers(pairs, match.allow)
        return 204, out, b""

    def _unmatched(self, match: object, scope: Scope, exchange: Exchange) -> tuple[int, Pairs, bytes]:
        entry = exchange.entry
        if not self._bus.connected and not self._watcher.synchronised.is_set():
            raise BusUnavailable(self._bus.last_error or "not connected to NATS")
        if not self._watcher.synchronised.is_set():
            raise Starting("the gateway is still learning who is there")
        if isinstance(match, Gone):
            entry.route, entry.service = match.entry.template, match.entry.service
            raise NoInstances(f"no live instance of {match.entry.service} serves this route")
        entry.path = scope["raw_path"][:128].decode("latin-1")
        if isinstance(match, NotAllowed):
            allow = ", ".join(match.allow)
            raise refuse(405, "method_not_allowed", f"this path answers {allow}", {"allow": allow})
        extra: dict[str, Any] = {}
        if self.shows_routes(scope):
            extra["nearest"] = self._directory.table.nearest(scope["path"])
        raise refuse(404, "no_route", "no service announces this path", **extra)

    def shows_routes(self, scope: Scope) -> bool:
        """Whether this client may be told of routes: on loopback, or as configured."""
        if self._settings.show_routes != "auto":
            return self._settings.show_routes == "always"
        client = scope.get("client")
        return client is None or bool(client[0].startswith(LOOPBACK))

    # -- the request's body

    async def _read_body(self, exchange: Exchange, pairs: Pairs, limit: int) -> tuple[list[bytes], bool]:
        """The body's pieces, and whether they are all: what is larger than ``limit`` is not read as a whole."""
        declared, most = headers.find(pairs, b"content-length"), self._settings.max_request_body
        if declared is not None and declared.isdigit():
            if most and int(declared) > most:
                raise TooLarge(f"the body has {int(declared)} bytes; {most} are allowed")
            if int(declared) > limit:
                return [], False
        elif declared is None and headers.find(pairs, b"transfer-encoding") is None:
            return [b""], True
        return await read_body(exchange.receive, limit)

    # -- clients that go away

    def _watch(self) -> None:
        """Start to watch the clients of requests that have been waiting for some time."""
        self._watching = self._loop.call_later(WATCH_S, self._watch) if self._exchanges else None
        before = perf_counter() - WATCH_S
        for exchange in self._exchanges:
            if exchange.task is not None and exchange.began < before:
                self._watch_client(exchange)

    def _watch_client(self, exchange: Exchange) -> None:
        if exchange.watch is None:
            exchange.watch = asyncio.create_task(self._await_disconnect(exchange))

    async def _await_disconnect(self, exchange: Exchange) -> None:
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
        if exchange.task is not None:
            exchange.task.cancel()

    def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._access.flush()


def _gone(exchange: Exchange) -> BaseException:
    """What a cancelled task raises: `ClientGone` where that was the reason."""
    seen = exchange.watch is not None and exchange.watch.done() and not exchange.watch.cancelled()
    if seen or (exchange.upload is not None and exchange.upload.client_gone):
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return ClientGone()
    return asyncio.CancelledError()


def _repeatable(route: RouteEntry, method: str) -> Repeatable | None:
    """Only where a route names a ``try_timeout_ms`` is anything but an undelivered request repeated."""
    for binding in route.bindings.values():
        if binding.route.try_timeout_ms:
            return Repeatable(method, binding.route.try_timeout_ms, binding.route.idempotent)
    return None


def _forwarded(scope: Scope, pairs: Pairs) -> bytes:
    """``Mesh-Forwarded``: client address, scheme and host, in the form of RFC 7239."""
    client = scope.get("client")
    address = client[0] if client else "unknown"
    if ":" in address:
        address = f'"[{address}]"'
    host = headers.find(pairs, b"host") or b""
    if not host.isascii() or b'"' in host or b"\\" in host:
        host = b""
    return b'for=%b;proto=%b;host="%b"' % (address.encode(), scope["scheme"].encode(), host)
