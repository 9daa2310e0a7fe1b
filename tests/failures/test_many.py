"""Much of what nobody should send, and many instances: nothing grows, nothing is missed."""

import asyncio
import re
import time
from pathlib import Path

from gateway.server import Gateway
from mesh import Service
from mesh.bus import Bus
from mesh.config import GatewaySettings
from mesh.messages import Announcement, Endpoint, Route, encode, revision_of
from mesh.subjects import new_id
from mesh.testing import Mesh
from tests.conditions import eventually

MIB = 1024 * 1024


def rss():
    """Resident bytes of this process, where the gateway runs."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


async def pipelined(port, targets):
    """Send GET requests for all targets on one connection; the status of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send():
        for at in range(0, len(targets), 100):
            writer.write(b"".join(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % t.encode() for t in targets[at : at + 100]))
            await writer.drain()

    sending = asyncio.ensure_future(send())
    statuses = []
    for _ in targets:
        head = await reader.readuntil(b"\r\n\r\n")
        statuses.append(int(head[9:12]))
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
    await sending
    writer.close()
    await writer.wait_closed()
    return statuses


async def test_paths_that_nobody_has_leave_nothing_behind(nats_url, prefix, full):
    service = Service("pets")

    @service.get("/pets/{pet_id}")
    async def pet(pet_id: str) -> str:
        return pet_id

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        async with mesh.ops() as ops:

            async def series():
                return len((await ops.get("/metrics")).text.splitlines())

            def targets(kind, count):
                return [f"/{kind}/{number}?q={number}" for number in range(count)]

            half = 500_000 if full else 3_000
            await pipelined(mesh.gateway.port, targets("pets", 500) + targets("nowhere", 500))
            before, lines = rss(), await series()
            assert set(await pipelined(mesh.gateway.port, targets("pets", half))) == {200}
            assert set(await pipelined(mesh.gateway.port, targets("nowhere", half))) == {404}
            assert await series() == lines
            assert rss() - before < 20 * MIB
        assert len(mesh.gateway.bus.requests) == 0


async def test_clients_that_give_up_leave_nothing_behind(nats_url, prefix, full):
    service = Service("slow")

    @service.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        before = None
        for _ in range(500 if full else 10):
            writers = []
            for _ in range(100):
                _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
                writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
                writers.append(writer)
            await eventually(lambda: mesh.instances[0].dispatcher.inflight == 100, 20)
            for writer in writers:
                writer.transport.abort()
            await eventually(lambda: mesh.instances[0].dispatcher.inflight == 0, 20)
            await eventually(lambda: mesh.gateway.forwarder.inflight == 0, 20)
            before = before or rss()
        assert len(mesh.gateway.bus.requests) == 0
        assert rss() - before < 20 * MIB


class Crowd:
    """Many instances on one bus: they announce when asked, all at the same moment."""

    def __init__(self, bus, services, instances, routes):
        self._bus = bus
        self._messages = []
        for service in (f"s{number}" for number in range(services)):
            endpoints = tuple(Endpoint(name=f"e{n}", subject=f"x.{service}.e{n}") for n in range(routes))
            paths = tuple(Route(method="GET", path=f"/{service}/r{n}/{{id}}", endpoint=f"e{n}") for n in range(routes))
            revision = revision_of(service, "1.0.0", endpoints, paths)
            for _ in range(instances):
                announcement = Announcement(
                    name=service,
                    id=new_id(),
                    version="1.0.0",
                    endpoints=endpoints,
                    routes=paths,
                    seq=1,
                    revision=revision,
                    state="ready",
                    started="2026-01-01T00:00:00Z",
                    heartbeat_ms=30_000,
                )
                address = bus.address(bus.subjects.announce(service, announcement.id))
                self._messages.append((address, encode(announcement)))

    async def listen(self):
        await self._bus.subscribe(self._bus.subjects.discover(), self._asked)
        await self._bus.flush()

    def _asked(self, subject, reply, block, payload):
        for address, data in self._messages:
            self._bus.publish(address, data)


async def test_a_gateway_that_starts_knows_a_thousand_instances_at_once(nats_url, prefix):
    mesh = Mesh(nats_url=nats_url, prefix=prefix)
    async with Bus(mesh.bus_settings) as bus:
        await Crowd(bus, services=20, instances=50, routes=10).listen()
        began = time.monotonic()
        async with Gateway(
            mesh.bus_settings, GatewaySettings(port=0, ops_port=0, access_log=False, linger_ms=0)
        ) as gateway:
            await eventually(lambda: len(gateway.watcher.registry.instances()) == 1001, 30)  # and the gateway itself
            await asyncio.wait_for(gateway.watcher.synchronised.wait(), 30)
            assert len(gateway.directory.table) == 200
            assert time.monotonic() - began < 10  # under 3 s on an idle machine
