"""Decides which requests of one instance run now, which wait, and which are refused.

A request waits only if it will probably be served in time. A request that waited until its caller had given up would
take the turn of one that can still be served: under twice the load, hardly any request would be served in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mesh.service.endpoints import DeclaredEndpoint

if TYPE_CHECKING:
    from asyncio import Task

    from mesh.service.context import Context
    from mesh.service.streaming import IncomingBody

WEIGHT: Final = 0.1
"""Share of the newest duration in the running mean."""
MAX_RETRY_AFTER_S: Final = 30.0


class ReceivedRequest(Struct, eq=False, kw_only=True):
    """A request from its arrival to its reply."""

    endpoint: DeclaredEndpoint
    subject: bytes
    """The subject that it came on."""
    reply: bytes
    """The subject for the reply; empty if the caller wants none."""
    block: bytes
    payload: bytes
    sender: bytes
    """The inbox of the caller, without its last dot; empty for a reply subject outside of this mesh."""
    arrived: float
    """The moment of its arrival, in seconds of the event loop's clock."""
    received_ms: int
    """The same moment in milliseconds of `mesh.boot_clock`."""
    possible_age_ms: int
    """How old it may have been on arrival, as far as this process knows: it or its connection stood still so long."""
    began: float = 0.0
    """The moment at which it began to run, in seconds of `time.perf_counter`."""
    task: Task[None] | None = None
    """The task that runs the handler."""
    context: Context | None = None
    """The handler's context; None until the task has begun."""
    body: IncomingBody | None = None
    """The body, if it follows the request as a stream."""


class _Decision(Enum):
    ADMITTED = auto()
    QUEUED = auto()
    REFUSED = auto()


_ADMITTED, _QUEUED, _REFUSED = _Decision  # names of a module are found several times as fast as members of an enum


class ConcurrencyLimit:
    """How many requests may be in flight, and the queue of those that wait for their turn.

    what: the requests that it limits, as error texts name them
    limit: requests that may be in flight
    queue_limit: requests that may wait
    """

    __slots__ = ("in_flight", "limit", "mean_s", "queue_limit", "waiting", "what")

    def __init__(self, what: str, limit: int, queue_limit: int) -> None:
        self.what = what
        self.limit = limit
        self.queue_limit = queue_limit
        self.in_flight = 0
        self.mean_s = 0.0
        """The mean duration of a request."""
        self.waiting: deque[ReceivedRequest] = deque()

    @property
    def wait_s(self) -> float:
        """Seconds that one more request would wait, by the mean duration."""
        return self.mean_s * (len(self.waiting) + 1) / self.limit

    def observe(self, seconds: float) -> None:
        """Count the duration of a request that has ended."""
        self.mean_s += (seconds - self.mean_s) * (WEIGHT if self.mean_s else 1.0)


class LoadShedder:
    """Admits requests under the limit of their endpoint, if it has one, and then under the instance's.

    limit: requests that may be in flight in the instance
    queue_limit: requests that may wait for that
    start: called with an admitted request; `ended` must follow
    refuse: called with a refused request, the reason, and the seconds after which a retry should be admitted
    remaining: the seconds until the caller of a request gives up; called only if the request cannot run at once
    """

    def __init__(
        self,
        limit: int,
        queue_limit: int,
        *,
        start: Callable[[ReceivedRequest], None],
        refuse: Callable[[ReceivedRequest, str, float], None],
        remaining: Callable[[ReceivedRequest], float],
    ) -> None:
        self._instance = ConcurrencyLimit("calls", limit, queue_limit)
        self._endpoints: dict[str, ConcurrencyLimit] = {}
        self._start = start
        self._refuse = refuse
        self._remaining = remaining

    @property
    def in_flight(self) -> int:
        """Requests whose handlers run."""
        return self._instance.in_flight

    def offer(self, request: ReceivedRequest) -> None:
        """Start a request, queue it, or refuse it."""
        instance = self._instance
        if not request.endpoint.concurrency:
            if instance.in_flight < instance.limit:  # nearly every request: two calls less than `_admit`
                instance.in_flight += 1
                self._start(request)
            else:
                self._admit(request)
            return
        limit = self._limit_of(request.endpoint)
        if self._enter(limit, request) is _ADMITTED and not self._admit(request):
            self._leave(limit)

    def ended(self, request: ReceivedRequest, seconds: float) -> None:
        """Count the end of a started request after that many seconds, and start the next one that waits."""
        self._instance.observe(seconds)
        self._leave(self._instance)
        if request.endpoint.concurrency:
            limit = self._limit_of(request.endpoint)
            limit.observe(seconds)
            self._leave(limit)

    def withdraw(self, reply: bytes) -> ReceivedRequest | None:
        """Take the waiting request with that reply subject out of its queue; None if no such request waits."""
        for limit in (self._instance, *self._endpoints.values()):
            for request in limit.waiting:
                if request.reply == reply:
                    limit.waiting.remove(request)
                    if limit is self._instance:
                        self._leave_endpoint(request)
                    return request
        return None

    def clear(self) -> list[ReceivedRequest]:
        """Take all waiting requests out of their queues."""
        cleared: list[ReceivedRequest] = []
        for limit in self._endpoints.values():
            cleared += limit.waiting
            limit.waiting.clear()
        cleared += self._instance.waiting
        for request in self._instance.waiting:
            if request.endpoint.concurrency:
                self._limit_of(request.endpoint).in_flight -= 1
        self._instance.waiting.clear()
        return cleared

    def _limit_of(self, endpoint: DeclaredEndpoint) -> ConcurrencyLimit:
        """The limit of an endpoint that has a ``concurrency`` of its own."""
        limit = self._endpoints.get(endpoint.name)
        if limit is None:
            what = f"calls of {endpoint.name}"
            limit = self._endpoints[endpoint.name] = ConcurrencyLimit(what, endpoint.concurrency, endpoint.queue)
        return limit

    def _enter(self, limit: ConcurrencyLimit, request: ReceivedRequest) -> _Decision:
        """Admit a request under one limit, queue it there, or refuse it."""
        if limit.in_flight < limit.limit:
            limit.in_flight += 1
            return _ADMITTED
        wait = limit.wait_s
        if len(limit.waiting) >= limit.queue_limit:
            self._overloaded(limit, request, f"{limit.limit} {limit.what} run and {limit.queue_limit} wait")
        elif wait + limit.mean_s > self._remaining(request):
            detail = f"{len(limit.waiting)} {limit.what} wait: its turn would come in {wait:.1f} s"
            self._overloaded(limit, request, detail)
        else:
            limit.waiting.append(request)
            return _QUEUED
        return _REFUSED

    def _admit(self, request: ReceivedRequest) -> bool:
        """Start a request, or queue it, under the instance's limit; False if it was refused."""
        decision = self._enter(self._instance, request)
        if decision is _ADMITTED:
            self._start(request)
        return decision is not _REFUSED

    def _leave(self, limit: ConcurrencyLimit) -> None:
        """Count one request less in flight, and admit those that wait for that."""
        limit.in_flight -= 1
        while limit.waiting and limit.in_flight < limit.limit:
            request = limit.waiting.popleft()
            if self._remaining(request) < limit.mean_s:
                self._overloaded(limit, request, "its turn came too late to be done in time")
                if limit is self._instance:
                    self._leave_endpoint(request)
                continue
            if limit is self._instance:
                limit.in_flight += 1
                self._start(request)
            elif self._admit(request):
                limit.in_flight += 1

    def _leave_endpoint(self, request: ReceivedRequest) -> None:
        """Count a request that waited for the instance's limit as no longer in flight under its endpoint's."""
        if request.endpoint.concurrency:
            self._leave(self._limit_of(request.endpoint))

    def _overloaded(self, limit: ConcurrencyLimit, request: ReceivedRequest, detail: str) -> None:
        self._refuse(request, detail, min(MAX_RETRY_AFTER_S, max(1.0, limit.wait_s)))
