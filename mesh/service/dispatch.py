"""From a request message to a reply message.

The subscription's callback is synchronous and short: it finds the endpoint, counts, and starts a task, or queues
when as many run as may. Replies go out in the order in which handlers end.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from mesh import headers
from mesh.boot_clock import boot_ms
from mesh.bus import Bus
from mesh.bus.bundles import MARK, BadBundle
from mesh.client import Calls
from mesh.defaults import DEADLINE_S
from mesh.errors import DeadlineExceeded, Forbidden, MeshError, NotFound, Overloaded
from mesh.service import request_log
from mesh.service.context import Context, current
from mesh.service.dependencies import resolve
from mesh.service.endpoints import Declared
from mesh.service.http_messages import Request, Response
from mesh.service.load_shedding import LoadShedding, Work
from mesh.service.middleware import Middleware, chain
from mesh.service.pause_watch import PauseWatch
from mesh.service.replies import Replies, as_response, is_streamed, problem_reply, stopped
from mesh.service.request_age import Ages
from mesh.service.streaming import IncomingBody, StreamingResponse
from mesh.service.websocket import WebSocket, WebSocketClosed
from mesh.streams import Streams
from mesh.streams.close_codes import INTERNAL, NORMAL, RESTART
from mesh.subjects import new_id

_log = logging.getLogger("mesh.service")


class Dispatcher:
    """Runs the handlers of one instance: at most ``concurrency`` at a time, ``queue`` more wait."""

    def __init__(
        self,
        bus: Bus,
        endpoints: dict[str, Declared],
        calls: Calls,
        concurrency: int,
        queue: int,
        *,
        streams: Streams,
        max_body: int,
        layers: Sequence[Middleware] = (),
        resources: Mapping[Callable[..., Any], Any] | None = None,
    ) -> None:
        self.capacity = concurrency
        self._bus = bus
        self._replies = Replies(bus, streams)
        self._max_body = max_body
        self._endpoints = {name.encode(): declared for name, declared in endpoints.items()}
        self._calls = calls
        self._admission = LoadShedding(concurrency, queue, start=self._start, refuse=self._overloaded, left=self._left)
        self._layers = tuple(layers)
        self._resources = resources if resources is not None else {}
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call in Python 3.11
        self._running: set[Work] = set()
        self._by_reply: dict[bytes, Work] = {}
        self._sockets: set[WebSocket] = set()
        self._logs_requests = request_log.is_wanted()
        self._ages = Ages()
        self.stall = PauseWatch()

    @property
    def inflight(self) -> int:
        """Handlers that run."""
        return self._admission.running

    def given_up(self) -> int:
        """How many handlers run for callers that wait no more."""
        contexts = [work.context for work in self._running]
        return sum(context is not None and context.is_cancelled for context in contexts)

    # -- in

    def receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """A message on ``mesh.to...``; its last token names the endpoint, or says that it is a bundle."""
        name = subject[subject.rindex(b".") + 1 :]
        if name == MARK:
            self._receive_bundle(subject[:-1], reply, payload)
        else:
            self._receive(self._endpoints.get(name), subject, reply, block, payload)

    def _receive_bundle(self, prefix: bytes, reply: bytes, bundle: bytes) -> None:
        """Each message of a bundle is a request of its own; see `mesh.bus.bundling`."""
        if not self._bus.subjects.may_reply(reply):
            _log.warning("dropped a bundle that asks for its answers on %r", reply[:80])
            return
        messages = self._bus.open_bundle(reply, bundle)
        if messages is None:
            return
        end = reply.rindex(b".")
        sender, inbox = reply[:end], reply[: end + 1]
        try:
            for (name, token), block, payload in messages:
                if not token.isalnum():
                    raise BadBundle(f"{token[:80]!r} is no token")
                try:
                    self._accept(self._endpoints.get(name), prefix + name, inbox + token, sender, block, payload)
                except Exception:
                    _log.exception("a request of a bundle failed")  # the others are still served
        except BadBundle as error:
            _log.warning("dropped the rest of a bundle: %s", error)

    def receiver(self, endpoint: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        """What to call with the messages of a subject that belongs to one endpoint, whatever the subject."""
        return partial(self._receive, self._endpoints[endpoint.encode()])

    def _receive(self, declared: Declared | None, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        if reply and not self._bus.subjects.may_reply(reply):
            _log.warning("dropped a request that asks for its answer on %r", reply[:80])
            return
        self._bus.expect_replies()
        sender = reply[: reply.rindex(b".")] if self._bus.subjects.is_inbox(reply) else b""
        self._accept(declared, subject, reply, sender, block, payload)

    def _accept(
        self, declared: Declared | None, subject: bytes, reply: bytes, sender: bytes, block: bytes, payload: bytes
    ) -> None:
        if declared is None:
            self._refuse(reply, block, self._no_endpoint(subject))
            return
        now = self._loop.time()
        stall, silence = self.stall.recent(now), self._bus.silence
        doubt = int((stall if stall > silence else silence) * 1000)
        self._admission.offer(Work(declared, reply, block, payload, subject, sender, now, boot_ms(), doubt))

    def _no_endpoint(self, subject: bytes) -> NotFound:
        name = subject[subject.rindex(b".") + 1 :].decode("ascii", "replace")
        near = difflib.get_close_matches(name, [known.decode() for known in self._endpoints], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return NotFound(f"{self._bus.service!r} has no endpoint {name!r}{hint}")

    def _left(self, work: Work) -> float:
        """Seconds until the caller gives up, as the request itself says."""
        given = headers.find(headers.decode(work.block), headers.DEADLINE)
        return work.arrived + _timeout(given) - self._loop.time()

    def _overloaded(self, work: Work, detail: str, retry_after: float) -> None:
        work.declared.statistics.refuse(f"503:{detail}")
        if self._logs_requests:
            request_log.write(work.declared, Request(work.block, b""), 503, time.perf_counter_ns())
        self._refuse(work.reply, work.block, Overloaded(detail, retry_after=retry_after))

    def cancel(self, reply: bytes) -> None:
        """Nobody waits for the answer to ``reply`` any more."""
        waiting = self._admission.withdraw(reply)
        if waiting is not None:
            waiting.declared.statistics.refuse("499:the caller went away")
            return
        work = self._by_reply.get(reply)
        if work is None or work.task is None:
            return
        if work.context is None:
            work.declared.statistics.refuse("499:the caller went away")
            self._cancel(work)
            return
        work.context.cancelled.set()
        if work.declared.cancel:
            work.task.cancel()

    def _start(self, work: Work) -> None:
        work.began = time.perf_counter()
        self._running.add(work)
        if work.reply:
            self._by_reply[work.reply] = work
        work.task = self._loop.create_task(self._work(work))

    def _ended(self, work: Work) -> None:
        self._running.discard(work)
        if self._by_reply.get(work.reply) is work:
            del self._by_reply[work.reply]
        work.task = None  # no circle is left for the collector
        self._admission.ended(work, time.perf_counter() - work.began)

    def _cancel(self, work: Work) -> None:
        if work.task is not None:
            work.task.cancel()
            if work.context is None:  # not a line of it has run, nor will
                self._ended(work)

    async def finish(self, timeout: float) -> int:
        """Wait for all accepted work; what still runs after ``timeout`` seconds is cancelled. Returns how many were."""

        async def idle() -> None:
            while tasks := self._tasks():  # whatever waits is started by what ends
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        try:
            async with asyncio.timeout(timeout):
                await idle()
            return 0
        except TimeoutError:
            for work in self._admission.clear():
                work.declared.statistics.refuse("503:the instance is stopping")
                self._refuse(work.reply, work.block, Overloaded("the instance is stopping"))
            left = self._tasks()
            for work in list(self._running):
                self._cancel(work)
            await asyncio.gather(*left, return_exceptions=True)
            return len(left)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [work.task for work in self._running if work.task is not None]

    # -- one request

    async def _work(self, work: Work) -> None:
        try:
            await self._answer(work)
        except Exception:
            _log.exception("answering failed")
        finally:
            self._ended(work)

    async def _answer(self, work: Work) -> None:
        declared, reply = work.declared, work.reply
        request = Request(work.block, work.payload)
        if declared.upgrade is not None and request.raw_header(headers.BODY) == b"websocket":
            declared = declared.upgrade
        began = time.perf_counter_ns()
        envelope = request.envelope
        if envelope is not None:
            given = envelope[5] or request.raw_header(headers.ID)
            deadline = work.arrived + int(envelope[0]) / 1000 - self._age(work, int(envelope[1]))
        else:
            given = request.raw_header(headers.ID)
            deadline = work.arrived + _timeout(request.raw_header(headers.DEADLINE))
            deadline -= self._age(work, _moment(request.raw_header(headers.SENT)))
        request_id = given.decode() if given and headers.is_request_id(given) else new_id()
        context = Context(
            request, request_id, deadline, self._bus.service, self._bus.instance, self._calls, work.subject
        )
        work.context = context
        current.set(context)  # for this task alone
        statistics = work.declared.statistics
        incoming: IncomingBody | None = None
        answer: tuple[bytes, bytes] | None
        try:
            if self._loop.time() >= deadline:
                raise DeadlineExceeded("the request was too old when its turn came", executed="no")
            if declared.websocket:
                answer = await self._converse(declared, request, context, reply)
            else:
                if request.has_stream:
                    incoming = self._replies.incoming(request, context, reply)
                    if incoming is not None:
                        await self._read_body(declared, request, incoming)
                if self._layers:
                    result = await self._layered(declared, request, context)
                elif declared.binder.dependencies:
                    result = await self._with_dependencies(declared, request, context)
                else:
                    result = await declared.run(**declared.binder.bind(request, context))
                answer = self._replies.encode(declared, result)
                if answer is None or len(answer[0]) + len(answer[1]) > self._bus.max_payload:
                    response = as_response(declared, request, result)
                    answer = await self._replies.stream(response, request, context, reply, incoming)
        except MeshError as error:
            error.raised_by_handler()
            statistics.fail(f"{error.status}:{error.detail}")
            answer = problem_reply(error, request_id)
        except asyncio.CancelledError:
            statistics.fail("499:the caller went away")
            if self._logs_requests:
                request_log.write(declared, request, 499, began)
            if not context.cancelled.is_set():
                self._replies.send(reply, *problem_reply(stopped(), request_id))
            if incoming is not None:
                incoming.stream.close()
            raise
        except Exception as error:
            # The caller learns nothing but the request id; the log has the rest.
            statistics.fail(f"500:{type(error).__name__}")
            _log.exception("handler %s failed", declared.name, extra={"endpoint": declared.name})
            answer = problem_reply(MeshError("the service failed; the request id leads to its log"), request_id)
        finally:
            statistics.record(time.perf_counter_ns() - began)
        if self._logs_requests:
            request_log.write(declared, request, request_log.status_of(declared, answer), began)
        if answer is not None:
            self._replies.send(reply, *answer, request_id)
        if incoming is not None:
            incoming.stream.close()  # after the answer: whoever still sends the body is told to stop

    async def _converse(
        self, declared: Declared, request: Request, context: Context, reply: bytes
    ) -> tuple[bytes, bytes] | None:
        """A WebSocket, from the request to its end; an answer where it was refused with one.

        Raises what goes wrong before it is accepted.
        """
        task = asyncio.current_task()
        assert task is not None
        socket = request.socket = self._replies.socket(request, reply)

        def broken(error: MeshError) -> None:
            context.cancelled.set()
            task.cancel()

        socket.stream.listen(broken=broken)
        self._sockets.add(socket)
        code, reason, result = NORMAL, "", None
        try:
            result = await (self._layered if self._layers else self._with_dependencies)(declared, request, context)
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
                _log.exception("handler %s failed", declared.name, extra={"endpoint": declared.name})
        finally:
            self._sockets.discard(socket)
            socket.stream.stop_listening()
            socket.shut(code, reason)
            if not socket.accepted:  # after the answer
                asyncio.get_running_loop().call_soon(socket.stream.close)
        if not socket.accepted:
            if isinstance(result, Response) and result.status >= 300:
                return self._replies.encode(declared, result)
            raise Forbidden("the service did not accept the connection")
        return None

    def close_sockets(self) -> None:
        """Close all WebSockets: their clients come back, and to another instance."""
        for socket in list(self._sockets):
            socket.shut(RESTART, "the instance is stopping")

    async def _read_body(self, declared: Declared, request: Request, incoming: IncomingBody) -> None:
        """Read a body that follows its request, or leave that to the handler, where it takes it in pieces."""
        if declared.binder.streams_body:
            request.pieces = incoming.pieces
        else:
            request.body = await incoming.gather(self._max_body)

    def _age(self, work: Work, sent: int | None) -> float:
        """Seconds for which the request was under way before it arrived here."""
        if sent is None or not work.sender:
            return work.doubt_ms / 1000
        return self._ages.age(work.sender, sent, work.received_ms, work.doubt_ms) / 1000

    async def _with_dependencies(self, declared: Declared, request: Request, context: Context) -> Any:
        """The handler's result; what was made for the request is torn down before it is answered.

        Where the answer is a stream that is after its end: what it yields may need it.
        """
        binder = declared.binder
        arguments = binder.bind(request, context)
        async with AsyncExitStack() as stack:
            arguments.update(await resolve(binder.dependencies, request, context, self._resources, {}, stack))
            result = await declared.run(**arguments)
            if is_streamed(result):
                response = as_response(declared, request, result)
                assert isinstance(response, StreamingResponse)
                response.cleanup = stack.pop_all()
                return response
            return result

    async def _layered(self, declared: Declared, request: Request, context: Context) -> Response:
        async def innermost(request: Request, context: Context) -> Response:
            result = await self._with_dependencies(declared, request, context)
            return as_response(declared, request, result)

        response = await chain(self._layers, innermost)(request, context)
        if not isinstance(response, Response):
            raise TypeError(f"a middleware returned {type(response).__name__} and not a Response")
        return response

    def _refuse(self, reply: bytes, block: bytes, error: MeshError) -> None:
        if reply:
            given = headers.find(headers.decode(block), headers.ID)
            self._replies.send(reply, *problem_reply(error, given.decode("ascii", "replace") if given else ""))


def _timeout(value: bytes | None) -> float:
    """Seconds of a ``Mesh-Deadline``; the default where it is missing or unreadable."""
    if value and value.isdigit() and len(value) < 10:
        return int(value) / 1000
    return DEADLINE_S


def _moment(value: bytes | None) -> int | None:
    """Milliseconds of a ``Mesh-Sent``; None where it is missing or unreadable."""
    return int(value) if value and value.isdigit() and len(value) <= 16 else None
