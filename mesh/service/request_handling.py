"""Runs the handler of one request, from the message to its reply.

1. Read the request's envelope: its deadline, its age, its id.
2. Open the body or the WebSocket, if it is a stream.
3. Run middleware, dependencies and the handler.
4. Send the reply, or the stream, or the error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from mesh import headers
from mesh.bus import Bus
from mesh.client import Calls
from mesh.defaults import DEADLINE_S
from mesh.errors import DeadlineExceeded, Forbidden, MeshError
from mesh.numbers import parse_count
from mesh.service import request_log
from mesh.service.context import Context, current
from mesh.service.dependencies import resolve
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.http_messages import Request, Response
from mesh.service.load_shedding import ReceivedRequest
from mesh.service.middleware import Middleware, chain
from mesh.service.replies import Replies, Reply, as_response, is_streamed, problem_reply, stopped_error
from mesh.service.request_age import RequestAges
from mesh.service.streaming import StreamingResponse
from mesh.service.websocket import WebSocket, WebSocketClosed
from mesh.streams.close_codes import INTERNAL, NORMAL, RESTART
from mesh.subjects import new_id

_log = logging.getLogger("mesh.service")


class RequestHandler:
    """Runs the handlers of one instance.

    bus: the instance's connection
    replies: sends the replies
    calls: the client that contexts call other services with
    max_body: bytes of the largest body that a handler takes as a whole
    layers: the middleware, the outermost first
    resources: the values of the dependencies of service scope, by factory
    """

    def __init__(
        self,
        bus: Bus,
        replies: Replies,
        *,
        calls: Calls,
        max_body: int,
        layers: Sequence[Middleware],
        resources: Mapping[Callable[..., Any], Any],
    ) -> None:
        self._bus = bus
        self._replies = replies
        self._calls = calls
        self._max_body = max_body
        self._layers = tuple(layers)
        self._resources = resources
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call in Python 3.11
        self._ages = RequestAges()
        self._websockets: set[WebSocket] = set()
        self._logs_requests = request_log.is_wanted()

    async def serve(self, received: ReceivedRequest) -> None:
        """Run the handler of a request, and reply."""
        began = time.perf_counter_ns()
        request = Request(received.block, received.payload)
        endpoint, statistics = received.endpoint, received.endpoint.statistics
        if endpoint.upgrade is not None and request.raw_header(headers.BODY) == b"websocket":
            endpoint = endpoint.upgrade
        context = self._open_context(received, request)
        received.context = context
        current.set(context)  # for this task alone
        reply: Reply | None
        try:
            reply = await self._respond(received, endpoint, request, context)
        except MeshError as error:
            error.raised_by_handler()
            statistics.fail(f"{error.status}:{error.detail}")
            reply = problem_reply(error, context.request_id)
        except asyncio.CancelledError:
            statistics.fail("499:the caller went away")
            if self._logs_requests:
                request_log.write(endpoint, request, 499, began)
            if not context.cancelled.is_set():
                self._replies.send(received.reply, *problem_reply(stopped_error(), context.request_id))
            if received.body is not None:
                received.body.stream.close()
            raise
        except Exception as error:
            # The caller learns nothing but the request id; the log has the rest.
            statistics.fail(f"500:{type(error).__name__}")
            _log.exception("handler %s failed", endpoint.name, extra={"endpoint": endpoint.name})
            failed = MeshError("the service failed; the request id leads to its log")
            reply = problem_reply(failed, context.request_id)
        finally:
            statistics.record(time.perf_counter_ns() - began)
        if self._logs_requests:
            request_log.write(endpoint, request, request_log.status_of(endpoint, reply), began)
        if reply is not None:
            self._replies.send(received.reply, *reply, context.request_id)
        if received.body is not None:
            received.body.stream.close()  # after the reply: a caller that still sends the body is told to stop

    def _open_context(self, received: ReceivedRequest, request: Request) -> Context:
        """The context of a request, with the deadline and the id that its headers say."""
        envelope = request.envelope
        if envelope is not None:
            given = envelope[5] or request.raw_header(headers.ID)
            deadline = received.arrived + int(envelope[0]) / 1000 - self._age(received, int(envelope[1]))
        else:
            given = request.raw_header(headers.ID)
            deadline = received.arrived + timeout_of(request.raw_header(headers.DEADLINE))
            deadline -= self._age(received, parse_count(request.raw_header(headers.SENT), digits=16))
        request_id = given.decode() if given and headers.is_request_id(given) else new_id()
        # By position: a class that is called with keywords makes a dict of them, for each request.
        bus = self._bus
        return Context(request, request_id, deadline, bus.service, bus.instance, self._calls, received.subject)

    def _age(self, received: ReceivedRequest, sent: int | None) -> float:
        """The age of a request on its arrival, in seconds; ``sent`` is its ``Mesh-Sent``."""
        if sent is None or not received.sender:
            return received.possible_age_ms / 1000
        return self._ages.age(received.sender, sent, received.received_ms, received.possible_age_ms) / 1000

    async def _respond(
        self, received: ReceivedRequest, endpoint: DeclaredEndpoint, request: Request, context: Context
    ) -> Reply | None:
        """Run the handler; returns its reply, or None after the response has been streamed. Raises what it raises."""
        if self._loop.time() >= context.deadline:
            raise DeadlineExceeded("the request was too old when its turn came", executed="no")
        if endpoint.websocket:
            return await self._converse(endpoint, request, context, received.reply)
        if request.has_stream:
            received.body = self._replies.open_body(request, context, received.reply)
            if received.body is not None:
                if endpoint.binder.streams_body:
                    request.pieces = received.body.pieces
                else:
                    request.body = await received.body.gather(self._max_body)
        if self._layers:
            result = await self._run_layers(endpoint, request, context)
        elif endpoint.binder.dependencies:
            result = await self._run_with_dependencies(endpoint, request, context)
        else:
            result = await endpoint.run(**endpoint.binder.bind(request, context))
        reply = self._replies.encode(endpoint, result)
        if reply is not None and len(reply[0]) + len(reply[1]) <= self._bus.max_payload:
            return reply
        response = as_response(endpoint, request, result)
        return await self._replies.stream(response, request, context, received.reply, received.body)

    async def _run_with_dependencies(self, endpoint: DeclaredEndpoint, request: Request, context: Context) -> Any:
        """The handler's result.

        The dependencies of request scope are torn down before the reply; after a stream if the result is one, because
        what it yields may need them.
        """
        binder = endpoint.binder
        arguments = binder.bind(request, context)
        async with AsyncExitStack() as stack:
            arguments.update(await resolve(binder.dependencies, request, context, self._resources, {}, stack))
            result = await endpoint.run(**arguments)
            if is_streamed(result):
                response = as_response(endpoint, request, result)
                assert isinstance(response, StreamingResponse)
                response.cleanup = stack.pop_all()
                return response
            return result

    async def _run_layers(self, endpoint: DeclaredEndpoint, request: Request, context: Context) -> Response:
        """The response of the middleware around the handler."""

        async def innermost(request: Request, context: Context) -> Response:
            result = await self._run_with_dependencies(endpoint, request, context)
            return as_response(endpoint, request, result)

        response = await chain(self._layers, innermost)(request, context)
        if not isinstance(response, Response):
            raise TypeError(f"a middleware returned {type(response).__name__} and not a Response")
        return response

    # -- WebSockets

    async def _converse(
        self, endpoint: DeclaredEndpoint, request: Request, context: Context, reply: bytes
    ) -> Reply | None:
        """Run the handler of a WebSocket until its end; returns a reply if the handler refused the handshake with one.

        Raises what the handler raises before it accepts the connection.
        """
        task = asyncio.current_task()
        assert task is not None
        socket = request.socket = self._replies.open_websocket(request, reply)

        def broken(error: MeshError) -> None:
            context.cancelled.set()
            task.cancel()

        socket.stream.listen(broken=broken)
        self._websockets.add(socket)
        code, reason, result = NORMAL, "", None
        try:
            run = self._run_layers if self._layers else self._run_with_dependencies
            result = await run(endpoint, request, context)
        except WebSocketClosed:
            pass
        except asyncio.CancelledError:
            code, reason = RESTART, "the instance is stopping"
            raise
        except Exception as error:
            if not socket.accepted:
                raise
            code, reason = INTERNAL, error.detail if isinstance(error, MeshError) else "the service failed"
            if not isinstance(error, MeshError):
                _log.exception("handler %s failed", endpoint.name, extra={"endpoint": endpoint.name})
        finally:
            self._websockets.discard(socket)
            socket.stream.stop_listening()
            socket.shut(code, reason)
            if not socket.accepted:  # after the reply
                self._loop.call_soon(socket.stream.close)
        if not socket.accepted:
            if isinstance(result, Response) and result.status >= 300:
                return self._replies.encode(endpoint, result)
            raise Forbidden("the service did not accept the connection")
        return None

    def close_websockets(self) -> None:
        """Close all WebSockets; their clients connect again, to another instance."""
        for socket in list(self._websockets):
            socket.shut(RESTART, "the instance is stopping")


def timeout_of(value: bytes | None) -> float:
    """The seconds of a ``Mesh-Deadline``; the default if it is missing or unreadable."""
    milliseconds = parse_count(value)
    return DEADLINE_S if milliseconds is None else milliseconds / 1000
