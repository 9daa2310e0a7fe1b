"""From a request message to a reply message.

The subscription's callback is synchronous and short: it finds the endpoint, counts, and starts a task, or queues
when as many run as may. Replies go out in the order in which handlers end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any, NamedTuple

import msgspec

from mesh import headers
from mesh.bus import Bus
from mesh.client import Calls
from mesh.errors import DeadlineExceeded, MeshError, NotFound, Overloaded, TooLarge
from mesh.service.context import Context, current
from mesh.service.endpoints import Declared
from mesh.service.http import Request, Response
from mesh.subjects import new_id

DEFAULT_DEADLINE_S = 10.0

_log = logging.getLogger("mesh.service")
_encode = msgspec.json.Encoder().encode


class Work(NamedTuple):
    """A request that was accepted."""

    declared: Declared
    reply: bytes
    block: bytes
    payload: bytes
    arrived: float


class Dispatcher:
    """Runs the handlers of one instance: at most ``concurrency`` at a time, ``queue`` more wait."""

    def __init__(self, bus: Bus, endpoints: dict[str, Declared], calls: Calls, concurrency: int, queue: int) -> None:
        self.inflight = 0
        self.capacity = concurrency
        self._bus = bus
        self._endpoints = {name.encode(): declared for name, declared in endpoints.items()}
        self._calls = calls
        self._max_queue = queue
        self._waiting: deque[Work] = deque()
        self._tasks: dict[asyncio.Task[None], Work] = {}
        self._by_reply: dict[bytes, tuple[asyncio.Task[None], Context]] = {}
        self._blocks: dict[tuple[int, bytes], bytes] = {}

    # -- in

    def receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """A message on ``mesh.req...`` or ``mesh.to...``; its last token names the endpoint."""
        if reply and not self._bus.subjects.may_reply(reply):
            _log.warning("dropped a request that asks for its answer on %r", reply[:80])
            return
        declared = self._endpoints.get(subject[subject.rindex(b".") + 1 :])
        if declared is None:
            self._refuse(reply, block, NotFound(f"no endpoint {subject.decode('ascii', 'replace')!r} here"))
            return
        work = Work(declared, reply, block, payload, asyncio.get_running_loop().time())
        if self.inflight < self.capacity:
            self._start(work)
        elif len(self._waiting) < self._max_queue:
            self._waiting.append(work)
        else:
            error = Overloaded(f"{self.capacity} calls run and {self._max_queue} wait", retry_after=1)
            declared.statistics.fail(f"503:{error.detail}")
            self._refuse(reply, block, error)

    def cancel(self, reply: bytes) -> None:
        """Nobody waits for the answer to ``reply`` any more."""
        for work in self._waiting:
            if work.reply == reply:
                self._waiting.remove(work)
                return
        running = self._by_reply.get(reply)
        if running is not None:
            task, context = running
            context.cancelled.set()
            if self._tasks[task].declared.cancel:
                task.cancel()

    def _start(self, work: Work) -> None:
        self.inflight += 1
        task = asyncio.create_task(self._work(work))
        self._tasks[task] = work
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.inflight -= 1
        work = self._tasks.pop(task)
        self._by_reply.pop(work.reply, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("answering failed", exc_info=task.exception())
        while self._waiting and self.inflight < self.capacity:
            self._start(self._waiting.popleft())

    async def finish(self, timeout: float) -> int:
        """Wait for all accepted work; what still runs after ``timeout`` seconds is cancelled. Returns how many were."""

        async def idle() -> None:
            while self._tasks or self._waiting:
                await asyncio.wait(list(self._tasks), return_when=asyncio.FIRST_COMPLETED)

        try:
            async with asyncio.timeout(timeout):
                await idle()
            return 0
        except TimeoutError:
            left = list(self._tasks)
            for work in self._waiting:
                self._refuse(work.reply, work.block, Overloaded("the instance is stopping"))
            self._waiting.clear()
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            return len(left)

    # -- one request

    async def _work(self, work: Work) -> None:
        declared, reply, block, payload, arrived = work
        request = Request(block, payload)
        began = time.perf_counter_ns()
        given = request.raw_header(headers.ID)
        request_id = given.decode() if given and headers.is_request_id(given) else new_id()
        deadline = arrived + _timeout(request.raw_header(headers.DEADLINE))
        context = Context(request, request_id, deadline, self._bus.service, self._bus.instance, self._calls)
        if reply:
            task = asyncio.current_task()
            assert task is not None
            self._by_reply[reply] = task, context
        token = current.set(context)
        statistics = declared.statistics
        try:
            if asyncio.get_running_loop().time() >= deadline:
                raise DeadlineExceeded("the request waited here past its deadline", executed="no")
            result = await declared.run(**declared.binder.bind(request, context))
            answer, body = self._encode(declared, result)
        except MeshError as error:
            statistics.fail(f"{error.status}:{error.detail}")
            answer, body = problem_reply(error, request_id)
        except asyncio.CancelledError:
            statistics.fail("499:the caller went away")
            if not context.cancelled.is_set():
                stopping = MeshError(
                    "the instance stopped before the handler ended", reason="stopped", executed="unknown"
                )
                stopping.status = 503
                self._answer(reply, *problem_reply(stopping, request_id))
            raise
        except Exception as error:
            # The caller learns nothing but the request id; the log has the rest.
            statistics.fail(f"500:{type(error).__name__}")
            _log.exception("handler %s failed", declared.name, extra={"endpoint": declared.name})
            answer, body = problem_reply(MeshError("the service failed; the request id leads to its log"), request_id)
        finally:
            statistics.record(time.perf_counter_ns() - began)
            current.reset(token)
        self._answer(reply, answer, body, request_id)

    def _encode(self, declared: Declared, result: Any) -> tuple[bytes, bytes]:
        if isinstance(result, Response):
            return response_block(result), result.body
        if result is None:
            status = 204 if declared.status == 200 else declared.status
            return self._plain(status, b""), b""
        if isinstance(result, bytes | bytearray):
            return self._plain(declared.status, b"application/octet-stream"), bytes(result)
        return self._plain(declared.status, b"application/json"), _encode(result)

    def _plain(self, status: int, kind: bytes) -> bytes:
        block = self._blocks.get((status, kind))
        if block is None:
            line = b"content-type: %b\r\n" % kind if kind else b""
            block = self._blocks[status, kind] = b"NATS/1.0\r\nMesh-Status: %d\r\n%b\r\n" % (status, line)
        return block

    def _refuse(self, reply: bytes, block: bytes, error: MeshError) -> None:
        if reply:
            given = headers.find(headers.decode(block), headers.ID)
            self._answer(reply, *problem_reply(error, given.decode("ascii", "replace") if given else ""))

    def _answer(self, reply: bytes, block: bytes, body: bytes, request_id: str = "") -> None:
        if not reply:
            return
        try:
            self._bus.reply(reply, body, block)
        except TooLarge as error:
            _log.error("a reply was too large: %s", error.detail)
            large = MeshError(f"the reply is too large: {error.detail}", reason="bad_reply", executed="yes")
            large.status, large.title = 502, "Unusable reply"
            block, body = problem_reply(large, request_id)
            self._bus.reply(reply, body, block)
        except MeshError as error:
            _log.warning("a reply could not be sent: %s", error.detail)


def _timeout(value: bytes | None) -> float:
    """Seconds of a ``Mesh-Deadline``; the default where it is missing or unreadable."""
    if value and value.isdigit() and len(value) < 10:
        return int(value) / 1000
    return DEFAULT_DEADLINE_S


def response_block(response: Response) -> bytes:
    """The header block of a full response. Raises `headers.BadHeader`."""
    pairs = [(name, value) for name, value in response.pairs if headers.crosses(name)]
    return headers.encode([(b"Mesh-Status", b"%d" % response.status), *pairs])


def problem_reply(error: MeshError, request_id: str) -> tuple[bytes, bytes]:
    """Header block and body of an error: problem+json, with ADR-32's error headers beside it."""
    body = _encode(error.problem(request_id))
    text = "".join(c if " " <= c <= "~" else " " for c in error.detail)[:512]
    pairs = [
        (b"Mesh-Status", b"%d" % error.status),
        (b"Nats-Service-Error-Code", b"%d" % error.status),
        (b"Nats-Service-Error", text.encode()),
        (b"content-type", b"application/problem+json"),
    ]
    if error.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    pairs += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    return headers.encode(pairs), body
