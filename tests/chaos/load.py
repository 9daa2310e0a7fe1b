"""An open-loop load generator, and questions about what its requests met.

Open loop: requests start on schedule whether or not earlier ones have ended, as independent clients do, so a mesh that
stands still meets all the requests of that time. A request's time counts from its place in the schedule: a generator
that was held up itself does not hide what its clients would have waited.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import aiohttp

GIVE_UP_S = 5.0
"""How long after its deadline a request is abandoned by the client: nothing that answers then is on time anyway."""

_runs = itertools.count(1)


@dataclass(slots=True)
class Outcome:
    """One request and its end. Times are of the monotonic clock in seconds; ``status`` is 0 where none came."""

    id: str
    started: float
    ended: float = 0.0
    status: int = 0
    reason: str = ""
    executed: str = ""
    retry_after: str = ""
    method: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 400


@dataclass(frozen=True)
class Report:
    """What all requests of a load met. ``timeout_s`` is the deadline that the gateway gives them."""

    outcomes: Sequence[Outcome]
    timeout_s: float = 10.0
    lags: Sequence[float] = field(default=())
    """How late the generator itself started each request, in seconds."""

    def __len__(self) -> int:
        return len(self.outcomes)

    def started_between(self, since: float, until: float) -> Report:
        """Only the requests that started in that time (``until`` excluded)."""
        return Report([o for o in self.outcomes if since <= o.started < until], self.timeout_s)

    def of(self, method: str) -> Report:
        """Only the requests of that method."""
        return Report([o for o in self.outcomes if o.method == method], self.timeout_s, self.lags)

    def in_flight_at(self, moment: float) -> list[Outcome]:
        return [o for o in self.outcomes if o.started <= moment < o.ended]

    def failures(self, since: float = float("-inf"), until: float = float("inf")) -> list[Outcome]:
        """Requests started in that time that got no answer, or an error."""
        return [o for o in self.outcomes if o.failed and since <= o.started < until]

    def successes(self) -> list[Outcome]:
        return [o for o in self.outcomes if not o.failed]

    def late(self, grace_s: float = 0.1) -> list[Outcome]:
        """Requests that were answered, or abandoned, more than ``grace_s`` after their deadline."""
        grace_s += max(self.lags, default=0.0)  # what the generator was behind is not the mesh's lateness
        return [o for o in self.outcomes if o.seconds > self.timeout_s + grace_s]

    def counts(self) -> Counter[str]:
        """How many requests met what: ``200``, ``503 overloaded``, ``TimeoutError`` ..."""
        return Counter(f"{o.status or ''} {o.reason}".strip() for o in self.outcomes)

    def quantile_ms(self, share: float) -> float:
        """The duration that ``share`` of all requests (0 to 1) did not exceed, in milliseconds; 0 without requests."""
        durations = sorted(o.seconds for o in self.outcomes)
        if not durations:
            return 0.0
        return round(durations[min(len(durations) - 1, int(share * len(durations)))] * 1000, 1)

    def worst_lag_ms(self) -> float:
        return round(max(self.lags, default=0.0) * 1000, 1)

    def last_failure(self, since: float) -> float:
        """Seconds after ``since`` at which the last request that failed was started; 0 where none did."""
        return round(max((o.started - since for o in self.failures(since)), default=0.0), 2)


Path = Callable[[str], tuple[str, str]]
"""Method and path of the request with that id."""


def get_work(id: str) -> tuple[str, str]:
    return "GET", f"/task/{id}"


def alternating(id: str) -> tuple[str, str]:
    """GET and POST by turns."""
    return ("POST", "/task") if int(id.rpartition("-")[2]) % 2 else ("GET", f"/task/{id}")


class Load:
    """Sends ``rate`` requests a second from `__aenter__` until `stop`; leaving the context waits for all answers."""

    def __init__(self, url: str, rate: float, *, timeout_s: float = 10.0, request: Path = get_work) -> None:
        self.rate = rate
        self.timeout_s = timeout_s
        self.outcomes: list[Outcome] = []
        self._url = url
        self._request = request
        self._name = f"r{next(_runs)}"
        self._lags: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Load:
        # `force_close` stays off: clients keep their connections, which is what a gateway has to live with.
        self._session = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s + GIVE_UP_S),
        )
        self.began = time.monotonic()
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._session.close()

    @property
    def report(self) -> Report:
        """What has ended so far; everything after `stop`."""
        return Report([o for o in self.outcomes if o.ended], self.timeout_s, self._lags)

    async def run_for(self, seconds: float) -> None:
        """Return after that much load."""
        await asyncio.sleep(seconds)

    async def stop(self) -> Report:
        """Start no more, and return when the last request has ended."""
        self._stopped.set()
        await self._sending
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.timeout_s + 2 * GIVE_UP_S)
        return self.report

    async def _send(self) -> None:
        for index in itertools.count():
            due = self.began + index / self.rate
            pause = due - time.monotonic()
            if pause > 0:
                try:
                    async with asyncio.timeout(pause):
                        await self._stopped.wait()
                except TimeoutError:
                    pass
            elif index % 64 == 0:
                await asyncio.sleep(0)  # behind schedule: what has been sent must get its answers all the same
            if self._stopped.is_set():
                return
            self._lags.append(max(0.0, time.monotonic() - due))
            outcome = Outcome(f"{self._name}-{index}", due)
            self.outcomes.append(outcome)
            task = asyncio.create_task(self._one(outcome))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, outcome: Outcome) -> None:
        method, path = self._request(outcome.id)
        outcome.method = method
        try:
            async with self._session.request(method, path, headers={"x-request-id": outcome.id}) as response:
                body = await response.read()
                outcome.status = response.status
                if response.status >= 400:
                    outcome.reason, outcome.executed = problem(body)
                    outcome.retry_after = response.headers.get("retry-after", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            outcome.status, outcome.reason = 0, type(error).__name__
        finally:
            outcome.ended = time.monotonic()


def problem(body: bytes) -> tuple[str, str]:
    """``reason`` and ``executed`` of a problem document; empty where it is none."""
    try:
        document = json.loads(body)
        return str(document.get("reason", "")), str(document.get("executed", ""))
    except (ValueError, AttributeError):
        return "", ""


def peak(ends: Iterable[float], window_s: float) -> float:
    """The most ends per second that any window of that length saw."""
    ordered = sorted(ends)
    most = first = 0
    for last, end in enumerate(ordered):
        while ordered[first] <= end - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most / window_s
