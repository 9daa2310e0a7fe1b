"""The proxied path: an HTTP request becomes a request on the bus, its reply the response.

A raw ASGI callable: no framework stands between uvicorn and the bus. Decisions (matching, limits, headers) are
made before anything is published; errors become problem documents in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gateway.access import AccessLog
from gateway.admission import Admission
from gateway.cors import Cors
from gateway.exchange import Exchange, RouteDestination, Scope, gone, repeatable
from gateway.headers import NO_BODY, Pairs, response
from gateway.health import own_label
from gateway.limits import RouteLimits
from gateway.metrics import UNMATCHED, RequestMetrics
from gateway.problems import encode_document, refuse, render
from gateway.streaming import ClientGone, Receive, Send, Upload, read_body, send_stream
from gateway.trace import Ids
from gateway.websocket import Relay, deny
from mesh import headers
from mesh.bus import Bus
from mesh.client import Answer, Caller
from mesh.config import GatewaySettings
from mesh.directory import Directory
from mesh.errors import MeshError, TooLarge
from mesh.streams import FIRST_CREDIT, Stream
from mesh.watcher import Watcher

OwnPath = Callable[[Scope], tuple[int, Any]]
"""Answers one of the gateway's own paths: status and JSON-ready document."""

LOOPBACK = ("127.", "::1", "localhost")
WATCH_S = 0.05
"""A request older than this is watched for its client's going away; most end sooner and save the cost."""
OVERHEAD = 4096
"""Bytes of one message set aside for headers that are added per attempt."""

TAKES_STREAMS = b"Mesh-Credit: %d\r\n" % FIRST_CREDIT

_log = logging.getLogger("mesh.gateway")


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
        self._admission = Admission(bus, watcher, directory, settings, self._ids, self._cors)
        self._limits = RouteLimits(settings.route_inflight, settings.route_queue)
        self._loop = asyncio.get_running_loop()
        self._exchanges: set[Exchange] = set()
        self._relays: set[Relay] = set()
        self._watching: asyncio.TimerHandle | None = None

    @property
    def inflight(self) -> int:
        return len(self._exchanges)

    def shows_routes(self, scope: Scope) -> bool:
        """Whether this client may be told of routes: on loopback, or as configured."""
        return self._admission.shows_routes(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    def close_websockets(self) -> None:
        """Tell all WebSocket clients that this gateway goes away: they come back, and to another one."""
        for relay in list(self._relays):
            relay.go_away()

    def _begin(self, scope: Scope, method: str, receive: Receive) -> Exchange:
        request_id = self._ids.request_id(headers.find(scope["headers"], b"x-request-id"))
        exchange = Exchange(method, request_id, perf_counter(), receive)
        self._exchanges.add(exchange)
        self._metrics.inflight += 1
        client = scope.get("client")
        if client:
            exchange.entry.client = client[0]
        return exchange

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        pairs: Pairs = scope["headers"]
        exchange = self._begin(scope, scope["method"], receive)
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_S, self._watch)
        entry, request_id = exchange.entry, exchange.request_id
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

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._begin(scope, "GET", receive)
        entry, settings = exchange.entry, self._settings
        await receive()  # websocket.connect
        try:
            try:
                _, destination, common, timeout = self._admission.admit(
                    scope, scope["headers"], exchange, len(self._exchanges)
                )
                began = perf_counter()
                conversation = await self._caller.open(destination, common, timeout, kind=b"websocket")
                relay = Relay(conversation, receive, send, total_s=settings.stream_total_s)
                self._relays.add(relay)
                try:
                    entry.instance, entry.attempts = conversation.instance, conversation.attempts
                    entry.status = await relay.handshake(timeout, exchange.request_id)
                    exchange.upstream = perf_counter() - began
                    if entry.status == 101:
                        entry.reason = await relay.run()
                    elif entry.status >= 500:
                        entry.origin, entry.reason = "service", "service_error"
                finally:
                    self._relays.discard(relay)
                    relay.close()
                    entry.bytes_in, entry.bytes_out = relay.bytes_in, relay.bytes_out
            except MeshError as error:
                entry.origin = "mesh" if error.origin == "mesh" else "gateway"
                entry.reason = error.reason
                entry.status, out, body = render(error, entry.request_id, entry.origin, "GET")
                await deny(send, entry.status, [*out, (b"x-request-id", exchange.request_id)], body)
        except OSError:  # uvicorn's word for a client that is not there any more
            entry.status, entry.reason, entry.origin = 499, "client_gone", "client"
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
            raise gone(exchange) from None
        except MeshError as error:
            # No end is sent: uvicorn closes the connection, and the client sees that the body is cut off.
            entry.origin, entry.reason = "mesh", error.reason
        finally:
            stream.close()
            if upload is not None:
                await upload.end()
                entry.bytes_in = upload.size

    async def _abandon(self, exchange: Exchange) -> None:
        """End a response that had begun on the bus: the client gets another one."""
        stream, exchange.stream = exchange.stream, None
        if stream is not None:
            stream.close()
        if exchange.upload is not None:
            await exchange.upload.end()

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
        method, entry = exchange.method, exchange.entry
        if self._is_own(scope["path"]):
            entry.route = own_label(scope["path"])
            return self._answer_own(scope, exchange)
        if method == "OPTIONS" and (answered := self._admission.options(scope, pairs)) is not None:
            return answered
        route, destination, common, timeout = self._admission.admit(scope, pairs, exchange, len(self._exchanges))
        # Path parameters are in the message once more, a byte as up to three.
        room = self._bus.max_payload - len(common) - OVERHEAD - 3 * len(scope["raw_path"])
        pieces, whole = await self._read_body(exchange, pairs, room)
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
                    answer = await self._caller.call(destination, common, body, timeout, repeatable(route, method))
                else:
                    answer = await self._upload(exchange, pieces, pairs, destination, common, timeout)
            finally:
                self._limits.leave(place)
        except asyncio.CancelledError:
            raise gone(exchange) from None
        finally:
            exchange.task = None
            exchange.upstream = perf_counter() - began
        entry.instance, entry.attempts = answer.instance, answer.attempts
        stream = exchange.stream = answer.stream
        try:
            status, out, content = response(answer.reply, method, streamed=stream is not None)
        except MeshError:
            await self._abandon(exchange)
            raise
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
        length = headers.find(pairs, b"content-length")
        if length is not None and length.isdigit():  # uvicorn holds the client to it
            common += b"content-length: %b\r\n" % length
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
