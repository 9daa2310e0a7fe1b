"""Takes the requests of one instance from its subscriptions, and runs each in a task of its own.

The callback of a subscription is synchronous and short: it finds the endpoint, counts, and starts a task or queues the
request. Replies go out in the order in which handlers end.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Callable
from functools import partial

from mesh import headers, logs
from mesh.boot_clock import boot_ms
from mesh.bus import Bus
from mesh.bus.bundles import APART, MARK, BadBundle, unpack
from mesh.errors import MeshError, NotFound, Overloaded
from mesh.service import request_log
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.http_messages import Request
from mesh.service.load_shedding import LoadShedder, ReceivedRequest
from mesh.service.pause_watch import PauseWatch
from mesh.service.replies import Replies, problem_reply
from mesh.service.request_handling import RequestHandler, timeout_of

_log = logging.getLogger("mesh.service")


class Dispatcher:
    """Starts, queues and refuses the requests of one instance, and cancels those whose callers have gone.

    bus: the instance's connection
    endpoints: the endpoints by name
    handler: runs a request
    replies: sends the refusals
    concurrency: requests that may be in flight
    queue: requests that may wait
    """

    def __init__(
        self,
        bus: Bus,
        endpoints: dict[str, DeclaredEndpoint],
        *,
        handler: RequestHandler,
        replies: Replies,
        concurrency: int,
        queue: int,
    ) -> None:
        self.capacity = concurrency
        self.pauses = PauseWatch()
        self._bus = bus
        self._handler = handler
        self._replies = replies
        self._endpoints = {name.encode(): endpoint for name, endpoint in endpoints.items()}
        self._load = LoadShedder(
            concurrency, queue, start=self._start, refuse=self._overloaded, remaining=self._remaining
        )
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call in Python 3.11
        self._running: set[ReceivedRequest] = set()
        self._by_reply: dict[bytes, ReceivedRequest] = {}
        self._logs_requests = request_log.is_wanted()
        self.dropped = 0
        """Requests and bundles that broke the protocol, and have no answer."""

    @property
    def inflight(self) -> int:
        """Requests whose handlers run."""
        return self._load.in_flight

    def abandoned(self) -> int:
        """How many handlers run for callers that have gone."""
        contexts = [request.context for request in self._running]
        return sum(context is not None and context.is_cancelled for context in contexts)

    # -- from the subscriptions

    def receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """Take a message on one of the instance's own subjects.

        Its last token names the endpoint, or says that the message is a bundle of requests.
        """
        name = subject[subject.rindex(b".") + 1 :]
        if name == MARK:
            self._receive_bundle(subject[:-1], reply, payload)
        else:
            self._receive(self._endpoints.get(name), subject, reply, block, payload)

    def receiver(self, endpoint: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        """A callback for the messages on any subject of one endpoint."""
        return partial(self._receive, self._endpoints[endpoint.encode()])

    def _receive_bundle(self, prefix: bytes, reply: bytes, bundle: bytes) -> None:
        """Take a message that holds several requests; ``prefix`` is the subject without the endpoint's name."""
        subjects = self._bus.subjects
        if not subjects.may_reply(reply):
            self._dropped(f"a bundle that asks for its answers on {reply[:80]!r}")
            return
        if not subjects.is_inbox(reply):
            self._replies.send(reply, APART, b"")
            return
        end = reply.rindex(b".")
        sender, inbox = reply[:end], reply[: end + 1]
        self._bus.takers.remember(inbox)
        self._bus.expect_answers()
        try:
            for (name, token), block, payload in unpack(bundle, 2):
                if not token.isalnum():
                    raise BadBundle(f"{token[:80]!r} is no token")
                try:
                    self._accept(self._endpoints.get(name), prefix + name, inbox + token, sender, block, payload)
                except Exception:
                    _log.exception("a request of a bundle failed")  # the others are still served
        except BadBundle as error:
            self._dropped(f"the rest of a bundle: {error}")

    def _dropped(self, what: str) -> None:
        """Say that a message breaks the protocol, in few lines however many there are."""
        self.dropped += 1
        if logs.is_due(self.dropped):
            _log.warning("dropped %s (%d so far)", what, self.dropped)

    def _receive(
        self, endpoint: DeclaredEndpoint | None, subject: bytes, reply: bytes, block: bytes, payload: bytes
    ) -> None:
        if reply and not self._bus.subjects.may_reply(reply):
            self._dropped(f"a request that asks for its answer on {reply[:80]!r}")
            return
        self._bus.expect_answers()
        sender = reply[: reply.rindex(b".")] if self._bus.subjects.is_inbox(reply) else b""
        self._accept(endpoint, subject, reply, sender, block, payload)

    def _accept(
        self,
        endpoint: DeclaredEndpoint | None,
        subject: bytes,
        reply: bytes,
        sender: bytes,
        block: bytes,
        payload: bytes,
    ) -> None:
        if endpoint is None:
            self._refuse(reply, block, self._no_endpoint(subject))
            return
        now = self._loop.time()
        pause, silence = self.pauses.recent(now), self._bus.silence
        self._load.offer(
            ReceivedRequest(
                endpoint=endpoint,
                subject=subject,
                reply=reply,
                block=block,
                payload=payload,
                sender=sender,
                arrived=now,
                received_ms=boot_ms(),
                possible_age_ms=int((pause if pause > silence else silence) * 1000),
            )
        )

    # -- refusals

    def _no_endpoint(self, subject: bytes) -> NotFound:
        name = subject[subject.rindex(b".") + 1 :].decode("ascii", "replace")
        near = difflib.get_close_matches(name, [known.decode() for known in self._endpoints], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return NotFound(f"{self._bus.service!r} has no endpoint {name!r}{hint}")

    def _remaining(self, request: ReceivedRequest) -> float:
        """Seconds until the caller gives up, as the request itself says."""
        given = headers.find(headers.decode(request.block), headers.DEADLINE)
        return request.arrived + timeout_of(given) - self._loop.time()

    def _overloaded(self, request: ReceivedRequest, detail: str, retry_after: float) -> None:
        request.endpoint.statistics.refuse(f"503:{detail}")
        if self._logs_requests:
            request_log.write(request.endpoint, Request(request.block, b""), 503, time.perf_counter_ns())
        self._refuse(request.reply, request.block, Overloaded(detail, retry_after=retry_after))

    def _refuse(self, reply: bytes, block: bytes, error: MeshError) -> None:
        if reply:
            given = headers.find(headers.decode(block), headers.ID)
            self._replies.send(reply, *problem_reply(error, given.decode("ascii", "replace") if given else ""))

    # -- tasks

    def _start(self, request: ReceivedRequest) -> None:
        request.began = time.perf_counter()
        self._running.add(request)
        if request.reply:
            self._by_reply[request.reply] = request
        request.task = self._loop.create_task(self._run(request))

    async def _run(self, request: ReceivedRequest) -> None:
        try:
            await self._handler.serve(request)
        except Exception:
            _log.exception("a request failed outside of its handler")
        finally:
            self._ended(request)

    def _ended(self, request: ReceivedRequest) -> None:
        self._running.discard(request)
        if self._by_reply.get(request.reply) is request:
            del self._by_reply[request.reply]
        request.task = None  # no reference cycle is left for the collector
        self._load.ended(request, time.perf_counter() - request.began)

    def cancel(self, reply: bytes) -> None:
        """Tell the handler whose reply goes to ``reply`` that its caller has gone."""
        waiting = self._load.withdraw(reply)
        if waiting is not None:
            waiting.endpoint.statistics.refuse("499:the caller went away")
            return
        request = self._by_reply.get(reply)
        if request is None or request.task is None:
            return
        if request.context is None:
            request.endpoint.statistics.refuse("499:the caller went away")
            self._cancel(request)
            return
        request.context.cancelled.set()
        if request.endpoint.cancel:
            request.task.cancel()

    def _cancel(self, request: ReceivedRequest) -> None:
        if request.task is not None:
            request.task.cancel()
            if request.context is None:  # the task has not begun, and will not
                self._ended(request)

    async def finish(self, timeout: float) -> int:
        """Wait for all requests that run or wait; returns how many were cancelled after ``timeout`` seconds."""

        async def idle() -> None:
            while tasks := self._tasks():  # the end of one starts the next that waits
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        try:
            async with asyncio.timeout(timeout):
                await idle()
            return 0
        except TimeoutError:
            for request in self._load.clear():
                request.endpoint.statistics.refuse("503:the instance is stopping")
                self._refuse(request.reply, request.block, Overloaded("the instance is stopping"))
            left = self._tasks()
            for request in list(self._running):
                self._cancel(request)
            await asyncio.gather(*left, return_exceptions=True)
            return len(left)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [request.task for request in self._running if request.task is not None]
