"""Very many requests that are refused, cancelled or all different leave nothing behind."""

import asyncio
import gc
import itertools
import os

import pytest

from mesh import Context, Service
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire

MORE_RSS = 20 * 1024 * 1024
AT_ONCE = 250


def rss():
    """Bytes of this process in memory: gateway and service are both in it."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def busy() -> Service:
    service = Service("busy")

    @service.get("/wait")
    async def wait(ctx: Context) -> None:
        await ctx.cancelled.wait()

    @service.post("/wait")
    async def wait_and_see(ctx: Context) -> None:
        await ctx.cancelled.wait()

    @service.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    @service.get("/typed/{number}")
    async def typed(number: int) -> int:
        return number

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    settings = {"foreign_s": 0, "max_request_body": 1000, "max_inflight": AT_ONCE, "timeout_ms": 30_000}
    async with Mesh(busy(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


class Asgi:
    """Requests given to the gateway's application as uvicorn gives them, without the cost of sockets."""

    def __init__(self, mesh):
        self.app = mesh.gateway.asgi_lane
        self.statuses = {}

    async def ask(self, method, path, headers=(), *, leaves=None):
        """One request; where ``leaves`` is given the client goes away when that event is set."""
        raw = path.encode("latin-1")
        raw_path, _, query = raw.partition(b"?")
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "headers": [(b"host", b"x"), *headers],
            "client": ("192.0.2.1", 7),
        }
        given = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            if message := next(given, None):
                return message
            if leaves is None:
                await asyncio.Event().wait()
            else:
                await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                status = message["status"]
                self.statuses[status] = self.statuses.get(status, 0) + 1

        await self.app(scope, receive, send)


async def in_groups(jobs):
    """Run all jobs, some at a time."""
    jobs = iter(jobs)
    while group := list(itertools.islice(jobs, AT_ONCE)):
        await asyncio.gather(*(job() for job in group))


def series(mesh):
    """The metrics' series, without their values."""
    return {line.rpartition(" ")[0] for line in mesh.gateway.metrics.lines() if not line.startswith("#")}


async def nothing_left(mesh):
    """Gateway and service hold nothing of any request."""
    gateway, instance = mesh.gateway, mesh.instances[0]
    await eventually(lambda: instance.dispatcher.inflight == 0)
    await eventually(lambda: len(gateway.bus.requests) == 0 == gateway.lifecycle.inflight)
    assert not any(gateway.bus.requests._buckets.values())  # empty ones go when their time has come
    assert not gateway.bus.requests._streams
    assert not instance.dispatcher._running
    assert not instance.dispatcher._by_reply
    assert not gateway.lifecycle.limits._inflight
    assert len(gateway.streams) == len(instance.streams) == 0
    assert gateway.metrics.inflight() == 0
    assert [peer.inflight for peer in gateway.caller.peers("busy")] == [0]


def refusals(asgi, start, number):
    """Requests that end in a refusal, no two alike."""
    kinds = itertools.cycle(
        [
            (404, lambda i: ("GET", f"/nowhere/{i}", [(b"x-request-id", b"id-%d" % i)])),
            (405, lambda i: ("DELETE", f"/items/{i}", [])),
            (400, lambda i: ("GET", f"/items/{i}/%zz", [(b"x-%d" % i, b"v")])),
            (413, lambda i: ("POST", f"/wait?{i}", [(b"content-length", b"5000000")])),
            (431, lambda i: ("GET", f"/items/{i}", [(b"x-large", b"v" * 40_000)])),
            (414, lambda i: ("GET", f"/items/{i}?" + "q" * 9000, [])),
            (422, lambda i: ("GET", f"/typed/no-number-{i}", [])),
            (405, lambda i: (f"M{i}", f"/items/{i}", [(b"x-any-%d" % i, b"v")])),
        ]
    )
    for i, (_, make) in zip(range(start, start + number), kinds, strict=False):
        yield lambda i=i, make=make: asgi.ask(*make(i))


@pytest.mark.timeout(600)
async def test_refused_and_cancelled_requests_leave_nothing(mesh, full, figures):
    number = 100_000 if full else 5_000
    asgi = Asgi(mesh)
    leaves = asyncio.Event()

    async def cancel(count):
        """As many requests whose clients go while the handler runs, alternately told at once and by a cancel."""
        for first in range(0, count, AT_ONCE):
            leaves.clear()
            method = ("GET", "POST")[first // AT_ONCE % 2]
            asked = [asyncio.ensure_future(asgi.ask(method, "/wait", leaves=leaves)) for _ in range(AT_ONCE)]
            await eventually(lambda: mesh.instances[0].dispatcher.inflight == AT_ONCE)
            leaves.set()
            await asyncio.gather(*asked)
            await eventually(lambda: mesh.instances[0].dispatcher.inflight == 0)

    await in_groups(refusals(asgi, 0, 4000))
    await cancel(4 * AT_ONCE)
    await nothing_left(mesh)
    known, before = series(mesh), rss()
    asgi.statuses.clear()
    await in_groups(refusals(asgi, 10**6, number // 2))
    await cancel(number // 2)
    await nothing_left(mesh)
    more = rss() - before
    figures(f"{number:,} requests refused or cancelled", more_resident_mib=round(more / 2**20, 2))
    assert set(asgi.statuses) == {400, 404, 405, 413, 414, 422, 431}
    assert sum(asgi.statuses.values()) == number // 2  # who was cancelled got nothing
    assert series(mesh) == known
    assert more < MORE_RSS
    async with HttpWire(mesh.gateway.port) as http:
        assert (await http.ask("GET", "/items/alive")).body == b'"alive"'


async def test_clients_that_close_their_sockets_leave_nothing(mesh):
    """The same through real sockets."""
    for _ in range(2):
        wires = [HttpWire(mesh.gateway.port) for _ in range(AT_ONCE)]
        for wire in wires:
            await wire.__aenter__()
            wire.send("GET", "/wait")
        await eventually(lambda: mesh.instances[0].dispatcher.inflight == AT_ONCE)
        await asyncio.gather(*(wire.__aexit__() for wire in wires))
        await nothing_left(mesh)


@pytest.mark.timeout(1200)
async def test_distinct_paths_leave_nothing(mesh, full, figures):
    number = 1_000_000 if full else 20_000
    asgi = Asgi(mesh)

    def paths(start, count):
        """Of ten paths one is a service's; its parameter, query and headers are new each time."""
        for i in range(start, start + count):
            path = f"/items/{i}?n={i}" if i % 10 == 0 else f"/a/{i}/b/{i % 7}"
            yield lambda i=i, path=path: asgi.ask("GET", path, [(b"x-%d" % i, b"v"), (b"host", b"h%d" % i)])

    await in_groups(paths(0, 6000))
    known, before = series(mesh), rss()
    asgi.statuses.clear()
    await in_groups(paths(10**7, number))
    await nothing_left(mesh)
    more = rss() - before
    figures(f"{number:,} distinct paths", more_resident_mib=round(more / 2**20, 2))
    assert asgi.statuses == {200: number // 10, 404: number - number // 10}
    assert series(mesh) == known
    assert more < MORE_RSS
