"""Caps and bounded queues at the gateway."""

import asyncio

import pytest

from gateway.route_limits import RouteLimits
from mesh import Overloaded, Service
from mesh.testing import Mesh
from tests.conditions import eventually

A, B = ("GET", "/a"), ("GET", "/b")


async def test_places_then_a_queue_then_a_refusal():
    limits = RouteLimits(1, 1)
    assert limits.try_enter(A)
    assert not limits.try_enter(A)
    assert limits.try_enter(B)  # another route is not concerned
    first = asyncio.ensure_future(limits.wait(A, 10))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 requests of this route are under way and 1 wait"):
        await limits.wait(A, 10)
    limits.leave(A)
    await first
    assert limits.waiting == 0
    limits.leave(A)
    limits.leave(B)
    assert not limits._taken
    assert not limits._waiting


async def test_a_wait_ends_with_its_time():
    limits = RouteLimits(1, 1)
    assert limits.try_enter(A)
    with pytest.raises(Overloaded):
        await limits.wait(A, 0.01)
    assert limits.waiting == 0
    limits.leave(A)
    assert limits.try_enter(A)


@pytest.mark.parametrize("leave_first", [True, False])
async def test_who_is_cancelled_while_his_turn_comes_passes_it_on(leave_first):
    limits = RouteLimits(1, 5)
    assert limits.try_enter(A)
    first, second = (asyncio.ensure_future(limits.wait(A, 10)) for _ in range(2))
    await asyncio.sleep(0)
    steps = [lambda: limits.leave(A), first.cancel]
    for step in steps if leave_first else reversed(steps):
        step()
    await asyncio.wait_for(second, 5)
    assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))
    limits.leave(A)
    assert not limits._taken
    assert not limits._waiting


async def test_one_slow_route_leaves_room_for_the_others(nats_url, prefix):
    slow, go = Service("slow"), asyncio.Event()
    began = asyncio.Queue()

    @slow.get("/slow")
    async def wait() -> str:
        began.put_nowait(None)
        await go.wait()
        return "done"

    @slow.get("/quick")
    async def quick() -> str:
        return "quick"

    settings = {"route_inflight": 2, "route_queue": 1}
    async with Mesh(slow, nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        waiting = [asyncio.ensure_future(mesh.http.get("/slow")) for _ in range(4)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert (refused.status_code, refused.json()["reason"]) == (503, "overloaded")
        assert refused.json()["executed"] == "no"
        assert refused.headers["retry-after"] == "1"
        await eventually(lambda: began.qsize() == 2)
        assert (await mesh.http.get("/quick")).json() == "quick"
        assert began.qsize() == 2  # the third waits at the gateway
        go.set()
        answers = await asyncio.gather(*waiting)
        assert sorted(a.status_code for a in answers) == [200, 200, 200, 503]
        assert not mesh.gateway.lifecycle.limits._taken


async def test_a_client_that_goes_while_it_waits_leaves_the_queue(nats_url, prefix):
    slow, go = Service("slow"), asyncio.Event()

    @slow.get("/slow")
    async def wait() -> str:
        await go.wait()
        return "done"

    async with Mesh(slow, nats_url=nats_url, prefix=prefix, gateway={"route_inflight": 1, "route_queue": 1}) as mesh:
        first = asyncio.ensure_future(mesh.http.get("/slow"))
        limits = mesh.gateway.lifecycle.limits
        await eventually(lambda: limits._taken)
        _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await eventually(lambda: limits.waiting)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: not limits.waiting)
        go.set()
        assert (await first).status_code == 200
