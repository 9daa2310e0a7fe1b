"""The fixtures that users import."""

import asyncio

import pytest

from mesh import Service
from mesh.bus.requests import Requests
from mesh.errors import DeadlineExceeded
from mesh.messages import Heartbeat, decode
from mesh.testing import PausedClock


async def test_a_paused_clock_moves_only_when_told(clock):
    loop = asyncio.get_running_loop()
    before = loop.time()
    waiting = asyncio.ensure_future(asyncio.sleep(3600))
    await clock.settle()
    assert loop.time() == before
    await clock.advance(3599)
    assert not waiting.done()
    await clock.advance(1.1)
    assert waiting.done()
    assert loop.time() == pytest.approx(before + 3600.1)


async def test_deadlines_are_kept_to_the_sweep(clock):
    requests = Requests("mesh.inbox.client.I1.random")
    pending = requests.open(30)
    await clock.advance(29.9)
    assert not pending.future.done()
    await clock.advance(0.2)
    with pytest.raises(DeadlineExceeded):
        await pending.future
    requests.aclose()


async def test_the_clock_goes_on_afterwards():
    loop = asyncio.get_running_loop()
    with PausedClock() as clock:
        frozen = loop.time()
        assert frozen == clock.now
    await asyncio.sleep(0.001)
    assert loop.time() > frozen


async def test_heartbeats_keep_their_pace(mesh, client):
    """Ten minutes of heartbeats, counted."""
    service = Service("steady")

    @service.get("/steady")
    async def steady() -> str:
        return "yes"

    instance = await mesh.start(service, heartbeat_ms=2000)
    heard = []

    def hear(subject, reply, block, payload):
        heard.append(decode(payload, "steady", instance.id))

    bus = instance.bus
    await bus.subscribe(bus.subjects.heartbeat("steady", instance.id), hear)
    await bus.flush()
    with PausedClock() as clock:
        for _ in range(600):
            await clock.advance(1)
            await bus.flush()  # the server is on real time: its answer to a ping has arrived when this has
    beats = [m for m in heard if isinstance(m, Heartbeat)]
    assert 300 <= len(beats) <= 600 / 1.6 + 1  # every 2 s, up to 20 % early
    assert [m.seq for m in beats] == sorted({m.seq for m in beats})


async def test_a_client_calls_what_the_mesh_runs(mesh, client):
    service = Service("adder")

    @service.endpoint()
    async def add(a: int, b: int) -> int:
        return a + b

    await mesh.start(service)
    assert await client.call("adder", "add", a=2, b=3, returns=int) == 5
