"""The ASGI lane: requests that wait, stream or upgrade, answered by an ASGI application.

It is a plain ASGI callable: there is no framework between uvicorn and the bus. Requests that are one message each way
need none of it: they are answered in their connection (`gateway.direct_lane`), unless ``MESH_HTTP_LANE=asgi`` is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from gateway.body_streams import ClientGone, Receive, Send, Upload, read_body, send_stream
from gateway.gateway_request import GatewayRequest, Scope, cancellation
from gateway.header_translation import Rendered, read_head
from gateway.known_headers import CONTENT_LENGTH, TRANSFER_ENCODING
from gateway.request_checks import LimitKey, RouteCall
from gateway.request_lifecycle import RequestLifecycle
from gateway.responses import Outcome, Response
from gateway.websocket_relay import Accepted, WebSocketRelay
from mesh.client import Answer, CallSpec
from mesh.streams import Stream

WATCH_S = 0.05
"""Seconds after which a request's client is watched, in case it goes away. Most requests end sooner."""


class AsgiLane:
    """The ASGI application on the gateway's public listener."""

    def __init__(self, lifecycle: RequestLifecycle) -> None:
        self.lifecycle = lifecycle
        self._responses = lifecycle.responses
        self._loop = asyncio.get_running_loop()
        self._requests: set[GatewayRequest] = set()
        self._relays: set[WebSocketRelay] = set()
        self._watching: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = self._begin(scope, scope["method"], receive)
            await self._run(request, self._answer(request), send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def resume(
        self, request: GatewayRequest, route_call: RouteCall, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Go on with a request that the direct lane has checked, and that has to wait. Its body is complete."""
        self._enter(request, receive)
        await self._run(request, self._call_with(request, route_call, body), send)

    async def begin_later(self, request: GatewayRequest, body: bytes, receive: Receive, send: Send) -> None:
        """Go on with a request whose route may be on its way into the table. Its body is complete."""
        self._enter(request, receive)

        async def answered() -> Outcome:
            checked = await self.lifecycle.check(request)
            return checked if isinstance(checked, Rendered) else await self._call_with(request, checked, body)

        await self._run(request, answered(), send)

    async def relay(self, request: GatewayRequest, answer: Answer, receive: Receive, send: Send) -> None:
        """Send the response of a request that the direct lane got a reply for, whose body is a stream."""
        self._enter(request, receive)

        async def answered() -> Outcome:
            return answer

        request.stream = answer.stream
        await self._run(request, answered(), send)

    def close_websockets(self) -> None:
        """Close all WebSockets as this gateway is going away: their clients reconnect, to another gateway."""
        for relay in list(self._relays):
            relay.go_away()

    def _begin(self, scope: Scope, method: str, receive: Receive) -> GatewayRequest:
        client = scope.get("client")
        request = self.lifecycle.begin(
            method,
            scope["raw_path"],
            scope["query_string"],
            scope.get("head") or read_head(scope["headers"]),
            client[0] if client else "",
            scope["scheme"],
        )
        request.share = scope.get("share")
        self._enter(request, receive)
        return request

    def _enter(self, request: GatewayRequest, receive: Receive) -> None:
        request.receive = receive
        self._requests.add(request)

    async def _run(self, request: GatewayRequest, answering: Coroutine[Any, Any, Outcome], send: Send) -> None:
        """Wait for the outcome of a request, and write its response."""
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_S, self._watch)
        responses = self._responses
        outcome: Outcome
        try:
            try:
                outcome = await answering
            except ClientGone:
                raise
            except Exception as error:
                outcome = error
            response = responses.of(request, outcome)
            if response.stream is None and request.stream is not None:
                await self._abandon(request)
            await self._write(request, response, send)
        except ClientGone:
            responses.client_gone(request)
        except Exception as error:
            # The response has no end: uvicorn closes the connection, and the client sees that it is cut off.
            responses.cut_off(request, error)
            await self._abandon(request)
        finally:
            self._finish(request)

    async def _write(self, request: GatewayRequest, response: Response, send: Send) -> None:
        headers = response.headers
        if response.close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.stream is None:
            await send({"type": "http.response.body", "body": response.body})
        else:
            await self._send_stream(request, response.stream, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._begin(scope, "GET", receive)
        request.is_handshake = True
        responses = self._responses
        await receive()  # websocket.connect
        try:
            try:
                outcome: Outcome | None = await self._serve_websocket(scope, request, send)
            except (OSError, ClientGone):
                raise
            except Exception as error:
                outcome = error
            if outcome is not None:
                await _deny(responses.of(request, outcome), send)
        except (OSError, ClientGone):  # uvicorn raises the former if the client is not there any more
            responses.client_gone(request)
        finally:
            self._finish(request)

    async def _serve_websocket(self, scope: Scope, request: GatewayRequest, send: Send) -> Outcome | None:
        """Open a WebSocket and carry its messages until it ends; or the outcome that refuses its handshake."""
        lifecycle = self.lifecycle
        checked = await lifecycle.check(request)
        if isinstance(checked, Rendered):
            return checked
        timeout, began = checked.timeout, perf_counter()
        if not lifecycle.limits.try_enter(checked.limit_key):
            await self._wait_for_turn(request, checked.limit_key, timeout)
            timeout -= perf_counter() - began
        try:
            return await self._open_websocket(scope, request, checked, timeout, send)
        finally:
            lifecycle.limits.leave(checked.limit_key)

    async def _wait_for_turn(self, request: GatewayRequest, limit_key: LimitKey, timeout: float) -> None:
        """Wait until a handshake may be in flight. Raises `ClientGone` if its client does not wait as long."""
        limits = self.lifecycle.limits
        turn = asyncio.ensure_future(limits.wait(limit_key, timeout))
        gone = asyncio.ensure_future(request.receive())  # nothing else comes before the handshake is answered
        try:
            await asyncio.wait((turn, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            turn.result()
        except (ClientGone, asyncio.CancelledError):
            turn.cancel()
            (outcome,) = await asyncio.gather(turn, return_exceptions=True)
            if outcome is None:  # its turn had come in the same moment
                limits.leave(limit_key)
            raise
        finally:
            gone.cancel()

    async def _open_websocket(
        self, scope: Scope, request: GatewayRequest, route_call: RouteCall, timeout: float, send: Send
    ) -> Outcome | None:
        """See `_serve_websocket`, for a WebSocket that may be in flight."""
        lifecycle, record, responses = self.lifecycle, request.record, self._responses
        began = perf_counter()
        spec = CallSpec(
            destination=route_call.destination,
            lines=route_call.head,
            deadline=lifecycle.bus.now() + timeout,
            policy=route_call.retries,
        )
        conversation = await lifecycle.caller.open(spec, kind=b"websocket")
        relay = WebSocketRelay(
            *(conversation, request.receive, send),
            subprotocols=scope["subprotocols"],
            total_s=lifecycle.settings.stream_total_s,
            share=lifecycle.body_memory.share(lambda error: None),
        )
        self._relays.add(relay)
        try:
            record.instance, record.attempts = conversation.instance, conversation.attempts
            handshake = await relay.handshake(timeout)
            request.upstream = perf_counter() - began
            if not isinstance(handshake, Accepted):
                return Answer(handshake, conversation.instance, conversation.attempts)
            headers = responses.accept(request, handshake.headers)
            await send({"type": "websocket.accept", "subprotocol": handshake.subprotocol, "headers": headers})
            try:
                record.reason = await relay.run()
            except OSError:
                raise
            except Exception as error:
                responses.cut_off(request, error)
                await relay.fail()
            return None
        finally:
            self._relays.discard(relay)
            relay.close()
            record.bytes_in, record.bytes_out = relay.bytes_in, relay.bytes_out

    async def _send_stream(self, request: GatewayRequest, stream: Stream, send: Send) -> None:
        settings, record, upload = self.lifecycle.settings, request.record, request.upload
        request.task = asyncio.current_task()
        if upload is None:
            self._watch_client(request)
        else:
            upload.then(lambda: self._uploaded(request, upload))
        try:
            record.bytes_out = await send_stream(
                stream, send, idle_s=settings.stream_idle_s, total_s=settings.stream_total_s
            )
        except asyncio.CancelledError:
            raise cancellation(request) from None
        finally:
            request.task = None  # a client that goes has its response, and nothing is to be cancelled any more
            stream.close()
            if upload is not None:
                await upload.end()
                record.bytes_in = upload.size

    async def _abandon(self, request: GatewayRequest) -> None:
        """End a response whose body was to be a stream: the client gets another one, or none."""
        stream, request.stream = request.stream, None
        if stream is not None:
            stream.close()
        if request.upload is not None:
            await request.upload.end()

    def _uploaded(self, request: GatewayRequest, upload: Upload) -> None:
        """The body has gone while the response is being sent. Until now its reader noticed if the client went."""
        if request.task is None:
            return
        if upload.done:
            self._watch_client(request)
        elif upload.client_gone:
            request.task.cancel()

    def _finish(self, request: GatewayRequest) -> None:
        self._requests.discard(request)
        if request.watch is not None:
            request.watch.cancel()
        # Break the circle task -> frame -> request -> task by hand: left to the garbage collector it costs latency.
        request.task = request.watch = None
        self._responses.finish(request)

    # -- the outcome

    async def _answer(self, request: GatewayRequest) -> Outcome:
        checked = await self.lifecycle.check(request)
        if isinstance(checked, Rendered):
            return checked
        body, whole = await self._read_body(request, checked)
        return await self._call(request, checked, body, whole)

    async def _call_with(self, request: GatewayRequest, route_call: RouteCall, body: bytes) -> Answer:
        """The call of a request whose body is complete; it may still be too large for one message."""
        whole = len(body) <= self.lifecycle.largest_body(request, route_call)
        return await self._call(request, route_call, body, whole)

    async def _call(self, request: GatewayRequest, route_call: RouteCall, body: bytes, whole: bool) -> Answer:
        lifecycle, timeout = self.lifecycle, route_call.timeout
        if request.share is not None:
            request.share.keep()
        limit_key = route_call.limit_key
        began = perf_counter()
        request.task = asyncio.current_task() if whole else None  # the body's reader sees a client that goes
        try:
            if not lifecycle.limits.try_enter(limit_key):
                await lifecycle.limits.wait(limit_key, timeout)
                timeout -= perf_counter() - began
            try:
                if whole:
                    request.record.bytes_in = len(body)
                    spec = CallSpec(
                        destination=route_call.destination,
                        lines=route_call.head,
                        deadline=lifecycle.bus.now() + timeout,
                        policy=route_call.retries,
                    )
                    answer = await lifecycle.caller.call(spec, body)
                else:
                    answer = await self._upload(request, body, route_call, timeout)
            finally:
                lifecycle.limits.leave(limit_key)
        except asyncio.CancelledError:
            raise cancellation(request) from None
        finally:
            request.task = None
            request.upstream = perf_counter() - began
        request.stream = answer.stream
        return answer

    async def _upload(self, request: GatewayRequest, begun: bytes, route_call: RouteCall, timeout: float) -> Answer:
        """A call whose body is larger than one message, or has no known length."""
        head, size = route_call.head, request.size
        if size is not None:  # uvicorn holds the client to it
            head += b"content-length: %d\r\n" % size
        settings, limit = self.lifecycle.settings, self.lifecycle.settings.max_request_body
        if request.share is not None:
            request.share.passed_on = True
        deadline = self.lifecycle.bus.now() + timeout
        spec = CallSpec(destination=route_call.destination, lines=head, deadline=deadline)  # an upload is not retried
        conversation = await self.lifecycle.caller.open(spec)
        upload = Upload(
            *(request.receive, begun, conversation.stream),
            idle_s=settings.body_idle_s,
            limit=limit,
            gone=request.share.give if request.share is not None else None,
        )
        try:
            await upload.until_answered(conversation)
            reply = await conversation.head(timeout)
        except BaseException:
            await upload.end()
            conversation.close()
            raise
        finally:
            request.record.bytes_in = upload.size
        if conversation.streamed:
            request.upload = upload  # a service may answer while it still reads
            return Answer(reply, conversation.instance, conversation.attempts, conversation.stream)
        await upload.end()  # uvicorn reads past what the service did not want
        conversation.close()
        return Answer(reply, conversation.instance, conversation.attempts)

    # -- the request's body

    async def _read_body(self, request: GatewayRequest, route_call: RouteCall) -> tuple[bytes, bool]:
        """The body, and True if that is all of it. One that is larger than a message is not read as a whole."""
        known = request.head.known
        if CONTENT_LENGTH not in known and TRANSFER_ENCODING not in known:
            return b"", True
        size, limit = request.size, self.lifecycle.largest_body(request, route_call)
        if size is not None and size > limit:
            return b"", False
        body, complete = await read_body(request.receive, limit)
        if complete and len(body) > limit:  # its last piece made it too large
            request.receive = _after_the_end(request.receive)
            return body, False
        return body, complete

    # -- clients that go away

    def _watch(self) -> None:
        """Start to watch the clients of requests that have been waiting for some time."""
        self._watching = self._loop.call_later(WATCH_S, self._watch) if self._requests else None
        before = perf_counter() - WATCH_S
        for request in self._requests:
            # A body that is still being read shows a client that goes, and may have one reader only.
            if request.task is not None and request.upload is None and request.began < before:
                self._watch_client(request)

    def _watch_client(self, request: GatewayRequest) -> None:
        if request.watch is None:
            request.watch = asyncio.create_task(self._await_disconnect(request))

    async def _await_disconnect(self, request: GatewayRequest) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if request.task is not None:
            request.task.cancel()

    def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()


async def _deny(response: Response, send: Send) -> None:
    """Answer the handshake of a WebSocket with an ordinary response; uvicorn closes the connection then."""
    start = {"type": "websocket.http.response.start", "status": response.status, "headers": response.headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body})


def _after_the_end(receive: Receive) -> Receive:
    """For the next reader of a body that is complete: its end once more, then what ``receive`` gives."""
    told = False

    async def again() -> Any:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return again
