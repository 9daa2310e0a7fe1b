"""The HTTP load of `mesh bench`, and what it measures. Times include the time that requests had to wait.

With a rate it is an open loop: requests are due at their time even if earlier ones have no response yet, and the time
of a request begins when it was due. A generator that waits for responses leaves out the requests that would have had
to wait ("coordinated omission"). Without a rate, each connection sends as soon as it has its response.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

TICK_S: Final = 0.001
"""Seconds of the steps in which requests of an open loop are due: no timer of the event loop is more exact."""
STEP: Final = math.log(1.01)
"""The width of a bucket of the histogram: times are exact to one percent."""
LATE_S: Final = 0.02
"""Seconds that the generator itself may be late; beyond it, its figures are not reliable."""


class Histogram:
    """Times in seconds, exact to one percent. Its size does not grow with the number of times."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self._buckets[math.floor(math.log(max(seconds, 1e-6)) / STEP)] += 1

    def percentile(self, share: float) -> float:
        """The seconds that so large a share (0 to 1) of the times does not exceed; 0.0 without any times."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 1e-9 * self.count:
                return min(self.longest, math.exp((bucket + 0.5) * STEP))
        return self.longest


@dataclass(frozen=True)
class BenchTarget:
    """The server, and ``raw``: the bytes of the request that is sent each time."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    raw: bytes

    @classmethod
    def of(
        cls, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> BenchTarget:
        """The target for a request. Raises ValueError with a sentence if it cannot be sent."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL like http://127.0.0.1:8080/jokes")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"host": parts.netloc.rpartition("@")[2], "user-agent": "mesh-bench", "accept": "*/*"}
        if body or method in ("POST", "PUT", "PATCH"):
            lines["content-length"] = str(len(body))
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        parts_of_it = [method, path, *lines, *lines.values()]
        if not text.isascii() or any(c in part for part in parts_of_it for c in "\r\n\0"):
            raise ValueError("method, path and headers must be ASCII, without line breaks")
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        return cls(parts.hostname, port, tls, text.encode() + b"\r\n" + body)


@dataclass
class LoadResult:
    """What was measured. ``late_s`` is how late the generator itself was at most."""

    histogram: Histogram = field(default_factory=Histogram)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    seconds: float = 0.0
    unsent: int = 0
    late_s: float = 0.0

    @property
    def failed(self) -> int:
        """The number of requests without a response, or with an error response."""
        wrong = sum(count for status, count in self.statuses.items() if status >= 400)
        return sum(self.errors.values()) + wrong + self.unsent

    def figures(self) -> dict[str, Any]:
        """All figures, JSON-ready; times in milliseconds."""
        histogram = self.histogram
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        return {
            "requests": histogram.count,
            "seconds": round(self.seconds, 3),
            "rps": round(histogram.count / self.seconds, 1) if self.seconds else 0.0,
            **{f"{name}_ms": round(histogram.percentile(share) * 1000, 3) for name, share in shares.items()},
            "max_ms": round(histogram.longest * 1000, 3),
            "mean_ms": round(histogram.total / histogram.count * 1000, 3) if histogram.count else 0.0,
            "bytes_in": self.bytes_in,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": dict(self.errors),
            "unsent": self.unsent,
            "generator_late_ms": round(self.late_s * 1000, 1),
        }


class LoadGenerator:
    """Sends requests to ``target``.

    connections: connections that are kept open
    rate: requests per second; 0 sends the next one on each connection as soon as it has its response
    timeout_s: seconds after which a request without a response is an error, and its connection is replaced
    """

    def __init__(self, target: BenchTarget, *, connections: int, rate: float = 0.0, timeout_s: float = 10.0) -> None:
        self.result = LoadResult()
        self.stopping = False
        self._target = target
        self._rate = rate
        self._number = connections
        self._timeout_s = timeout_s
        self._due: deque[float] = deque()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._began = self._released = 0.0
        self._issued = 0

    async def run(self, seconds: float) -> LoadResult:
        """Send requests for that long, then wait for those in flight. Raises OSError if nothing listens."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._open() for _ in range(self._number)))
        self._began = perf_counter()
        self._released = self._began
        end = self._began + seconds
        if not self._rate:
            for connection in list(self._idle):
                self.next(connection)
        try:
            while (now := perf_counter()) < end:
                if self._rate:
                    self._release(now)
                self._check(now)
                await asyncio.sleep(TICK_S if self._rate else 0.05)
            self.stopping = True
            self.result.seconds = perf_counter() - self._began
            until = loop.time() + self._timeout_s
            while any(connection.since for connection in self._all) and loop.time() < until:
                self._check(perf_counter())
                await asyncio.sleep(0.01)
            self.result.unsent += len(self._due)
        finally:
            self.stopping = True
            opening = list(self._opening)
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            for connection in list(self._all):
                connection.abort()
            while self._all:  # noqa: ASYNC110 - the event loop tells each of them in its next turn
                await asyncio.sleep(0)
        return self.result

    def next(self, connection: _Connection) -> None:
        """A connection is free."""
        if self.stopping:
            return
        if not self._rate:
            connection.send(self._target.raw, perf_counter())
        elif self._due:
            connection.send(self._target.raw, self._due.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, why: str) -> None:
        """A connection ended. ``why`` is empty if no request was in flight."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if why:
            self.result.errors[why] += 1
        if not self.stopping:
            task = asyncio.ensure_future(self._again())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _release(self, now: float) -> None:
        """Send the requests that are due, in steps of a tick: those of one step were all due at its beginning."""
        step = math.floor((now - self._began) / TICK_S) * TICK_S
        moment = self._began + step
        self.result.late_s = max(self.result.late_s, now - self._released - 2 * TICK_S)
        self._released = now
        while self._issued / self._rate <= step:
            due = min(moment, self._began + math.ceil(self._issued / self._rate / TICK_S) * TICK_S)
            self._issued += 1
            if self._idle:
                self._idle.pop().send(self._target.raw, due)
            else:
                self._due.append(due)

    def _check(self, now: float) -> None:
        for connection in list(self._all):
            if connection.since and now - connection.sent > self._timeout_s:
                connection.fail("timeout")

    async def _open(self) -> None:
        loop, target = asyncio.get_running_loop(), self._target
        connection = _Connection(self)
        await loop.create_connection(lambda: connection, target.host, target.port, ssl=target.tls)
        self._all.add(connection)
        self._idle.append(connection)

    async def _again(self) -> None:
        while not self.stopping:
            try:
                await self._open()
            except OSError:
                self.result.errors["connect"] += 1
                await asyncio.sleep(0.1)
            else:
                if self._idle:
                    self.next(self._idle.pop())
                return


class _Connection(asyncio.Protocol):
    """One keep-alive connection. ``since`` is when its request was due, 0.0 while it has none."""

    def __init__(self, load: LoadGenerator) -> None:
        self.since = self.sent = 0.0
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._why = ""

    def send(self, raw: bytes, due: float) -> None:
        self.since, self.sent = due, perf_counter()
        self._transport.write(raw)

    def abort(self) -> None:
        self._transport.abort()

    def fail(self, why: str) -> None:
        """Give up the request."""
        self._why = why
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._load.result.bytes_in += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail("not HTTP")

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or not self.since:
            return
        result = self._load.result
        result.histogram.record(perf_counter() - self.since)
        result.statuses[status] += 1
        self.since = 0.0
        if self._parser.should_keep_alive():
            self._load.next(self)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        why = self._why or ("connection lost" if self.since else "")
        self.since = 0.0
        self._load.lost(self, why)
