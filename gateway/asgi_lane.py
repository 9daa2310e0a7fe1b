"""The proxied path as an ASGI application: whatever waits, streams, upgrades or is the gateway's own.

A raw ASGI callable: no framework stands between uvicorn and the bus. Requests that are one message each way need none
of it: the connection's protocol answers them (`gateway.direct_lane`), unless ``MESH_HTTP_LANE=asgi`` says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from gateway.body_streams import ClientGone, Receive, Send, Upload, read_body, send_stream
from gateway.gateway_request import GatewayRequest, Scope, gone
from gateway.header_translation import NO_BODY, read_head, response
from gateway.request_checks import Admitted
from gateway.request_lifecycle import RequestLifecycle
from gateway.websocket_relay import Relay, deny
from mesh.client import Answer, CallSpec
from mesh.errors import MeshError
from mesh.headers import Pairs
from mesh.streams import Stream

WATCH_S = 0.05
"""A request older than this is watched for its client's going away; most end sooner and save the cost."""

Rendered = tuple[int, Pairs, bytes]


class AsgiLane:
    """The ASGI application on the gateway's public listener."""

    def __init__(self, core: RequestLifecycle) -> None:
        self.core = core
        self._loop = asyncio.get_running_loop()
        self._exchanges: set[GatewayRequest] = set()
        self._relays: set[Relay] = set()
        self._watching: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = self._begin(scope, scope["method"], receive)
            await self._run(exchange, self._answer(scope, exchange), send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def resume(
        self, exchange: GatewayRequest, admitted: Admitted, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Go on with a request that was admitted elsewhere and has to wait now. Its body is there."""
        self._enter(exchange, receive)
        await self._run(exchange, self._call_with(exchange, admitted, body), send)

    async def begin_later(self, exchange: GatewayRequest, body: bytes, receive: Receive, send: Send) -> None:
        """Go on with a request whose route may be on its way into the table. Its body is there."""
        self._enter(exchange, receive)

        async def answered() -> Rendered:
            return await self._call_with(exchange, await self.core.admit(exchange), body)

        await self._run(exchange, answered(), send)

    async def relay(self, exchange: GatewayRequest, answer: Answer, receive: Receive, send: Send) -> None:
        """Send the response of a request that was answered elsewhere, and whose body is a stream."""
        self._enter(exchange, receive)
        await self._run(exchange, self._take(exchange, answer), send)

    def close_websockets(self) -> None:
        """Tell all WebSocket clients that this gateway goes away: they come back, and to another one."""
        for relay in list(self._relays):
            relay.go_away()

    def _begin(self, scope: Scope, method: str, receive: Receive) -> GatewayRequest:
        client = scope.get("client")
        exchange = self.core.begin(
            method,
            scope["raw_path"],
            scope["query_string"],
            scope.get("head") or read_head(scope["headers"]),
            client[0] if client else "",
            scope["scheme"],
        )
        exchange.held = scope.get("held")
        self._enter(exchange, receive)
        return exchange

    def _enter(self, exchange: GatewayRequest, receive: Receive) -> None:
        exchange.receive = receive
        self._exchanges.add(exchange)

    async def _run(self, exchange: GatewayRequest, answering: Coroutine[Any, Any, Rendered], send: Send) -> None:
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_S, self._watch)
        entry, core = exchange.entry, self.core
        try:
            try:
                status, out, body = await answering
            except MeshError as error:
                status, out, body = core.refused(exchange, error)
            out.append((b"x-request-id", exchange.request_id))
            if core.cors.origins:
                core.cors.add_to(out, exchange.head.known.get(b"origin"))
            if core.draining or status == 408:  # RFC 9110 section 15.5.9
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
            status, out, body = core.failed(exchange)
            entry.status = status
            await send({"type": "http.response.start", "status": status, "headers": out})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._finish(exchange)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._begin(scope, "GET", receive)
        entry, core = exchange.entry, self.core
        await receive()  # websocket.connect
        try:
            try:
                core.admission.check_origin(exchange)
                admitted = await core.admit(exchange)
                timeout, began = admitted.timeout, perf_counter()
                spec = CallSpec(
                    destination=admitted.destination,
                    lines=admitted.common,
                    deadline=core.bus.now() + timeout,
                    policy=admitted.retries,
                )
                conversation = await core.caller.open(spec, kind=b"websocket")
                relay = Relay(
                    *(conversation, receive, send),
                    subprotocols=scope["subprotocols"],
                    total_s=core.settings.stream_total_s,
                    held=core.bodies.body(lambda error: None),
                )
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
                entry.status, out, body = core.refused(exchange, error)
                await deny(send, entry.status, [*out, (b"x-request-id", exchange.request_id)], body)
        except OSError:  # uvicorn's word for a client that is not there any more
            entry.status, entry.reason, entry.origin = 499, "client_gone", "client"
        finally:
            self._finish(exchange)

    async def _send_stream(self, exchange: GatewayRequest, stream: Stream, send: Send) -> None:
        settings, entry, upload = self.core.settings, exchange.entry, exchange.upload
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
            exchange.task = None  # a client that goes has its response, and nothing is to be cancelled any more
            stream.close()
            if upload is not None:
                await upload.end()
                entry.bytes_in = upload.size

    async def _abandon(self, exchange: GatewayRequest) -> None:
        """End a response that had begun on the bus: the client gets another one."""
        stream, exchange.stream = exchange.stream, None
        if stream is not None:
            stream.close()
        if exchange.upload is not None:
            await exchange.upload.end()

    def _uploaded(self, exchange: GatewayRequest, upload: Upload) -> None:
        """The request's body has gone while the response is being sent; until now its reader saw a client that goes."""
        if exchange.task is None:
            return
        if upload.done:
            self._watch_client(exchange)
        elif upload.client_gone:
            exchange.task.cancel()

    def _finish(self, exchange: GatewayRequest) -> None:
        self._exchanges.discard(exchange)
        if exchange.watch is not None:
            exchange.watch.cancel()
        # Break the cycle task -> frame -> exchange -> task by hand: left to the collector it costs latency.
        exchange.task = exchange.watch = None
        self.core.finish(exchange)

    # -- the answer

    async def _answer(self, scope: Scope, exchange: GatewayRequest) -> Rendered:
        core, path = self.core, scope["path"]
        if core.is_own(path):
            return core.answer_own(exchange, path)
        if exchange.method == "OPTIONS" and (answered := await core.options(exchange)) is not None:
            return answered
        admitted = await core.admit(exchange)
        body, whole = await self._read_body(exchange, core.room(exchange, admitted.common))
        status, out, body = await self._call(exchange, admitted, body, whole)
        if exchange.method == "OPTIONS":
            instead = core.admission.answers_preflight(exchange, status, out)
            if instead is not None:
                await self._abandon(exchange)
                return instead
        return status, out, body

    async def _call_with(self, exchange: GatewayRequest, admitted: Admitted, body: bytes) -> Rendered:
        """The call of a request whose body is here; it may be too large for one message all the same."""
        return await self._call(exchange, admitted, body, len(body) <= self.core.room(exchange, admitted.common))

    async def _call(self, exchange: GatewayRequest, admitted: Admitted, body: bytes, whole: bool) -> Rendered:
        core, timeout = self.core, admitted.timeout
        if exchange.held is not None:
            exchange.held.settle()
        place = admitted.place
        began = perf_counter()
        exchange.task = asyncio.current_task() if whole else None  # the body's reader sees a client that goes
        try:
            if not core.limits.try_enter(place):
                await core.limits.wait(place, timeout)
                timeout -= perf_counter() - began
            try:
                if whole:
                    exchange.entry.bytes_in = len(body)
                    spec = CallSpec(
                        destination=admitted.destination,
                        lines=admitted.common,
                        deadline=core.bus.now() + timeout,
                        policy=admitted.retries,
                    )
                    answer = await core.caller.call(spec, body)
                else:
                    answer = await self._upload(exchange, body, admitted, timeout)
            finally:
                core.limits.leave(place)
        except asyncio.CancelledError:
            raise gone(exchange) from None
        finally:
            exchange.task = None
            exchange.upstream = perf_counter() - began
        return await self._take(exchange, answer)

    async def _take(self, exchange: GatewayRequest, answer: Answer) -> Rendered:
        """Status and headers of an answer; its body too, where that is no stream."""
        entry, method = exchange.entry, exchange.method
        entry.instance, entry.attempts = answer.instance, answer.attempts
        stream = exchange.stream = answer.stream
        try:
            status, out, content = response(answer.reply, method, exchange.request_id, streamed=stream is not None)
        except MeshError:
            await self._abandon(exchange)
            raise
        if stream is not None and (method == "HEAD" or status in NO_BODY):
            stream.close()
            exchange.stream = None
        if status >= 500:
            entry.origin, entry.reason = "service", "service_error"
        return status, out, content

    async def _upload(self, exchange: GatewayRequest, begun: bytes, admitted: Admitted, timeout: float) -> Answer:
        """A call whose body is larger than one message, or has no known length."""
        common, size = admitted.common, exchange.size
        if size is not None:  # uvicorn holds the client to it
            common += b"content-length: %d\r\n" % size
        settings, limit = self.core.settings, self.core.settings.max_request_body
        if exchange.held is not None:
            exchange.held.passed_on = True
        deadline = self.core.bus.now() + timeout
        spec = CallSpec(destination=admitted.destination, lines=common, deadline=deadline)  # an upload is not retried
        conversation = await self.core.caller.open(spec)
        upload = Upload(
            *(exchange.receive, begun, conversation.stream),
            idle_s=settings.body_idle_s,
            limit=limit,
            gone=exchange.held.give if exchange.held is not None else None,
        )
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

    # -- the request's body

    async def _read_body(self, exchange: GatewayRequest, limit: int) -> tuple[bytes, bool]:
        """The body, and whether it is all of it: what is larger than ``limit`` is not read as a whole."""
        size, known = exchange.size, exchange.head.known
        if size is not None:
            if size > limit:
                return b"", False
        elif b"content-length" not in known and b"transfer-encoding" not in known:
            return b"", True
        body, complete = await read_body(exchange.receive, limit)
        if complete and len(body) > limit:  # its last piece made it too large
            exchange.receive = _after_the_end(exchange.receive)
            return body, False
        return body, complete

    # -- clients that go away

    def _watch(self) -> None:
        """Start to watch the clients of requests that have been waiting for some time."""
        self._watching = self._loop.call_later(WATCH_S, self._watch) if self._exchanges else None
        before = perf_counter() - WATCH_S
        for exchange in self._exchanges:
            # What still reads the body sees a client that goes, and nobody else may read from it.
            if exchange.task is not None and exchange.upload is None and exchange.began < before:
                self._watch_client(exchange)

    def _watch_client(self, exchange: GatewayRequest) -> None:
        if exchange.watch is None:
            exchange.watch = asyncio.create_task(self._await_disconnect(exchange))

    async def _await_disconnect(self, exchange: GatewayRequest) -> None:
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
        if exchange.task is not None:
            exchange.task.cancel()

    def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()


def _after_the_end(receive: Receive) -> Receive:
    """For who reads on in a body that is complete: its end once more, then whatever comes."""
    told = False

    async def again() -> Any:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return again
