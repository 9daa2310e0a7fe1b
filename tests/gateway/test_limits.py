"""Caps and bounded queues at the gateway."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.route_limits import RouteLimits
from mesh import Forbidden, Overloaded, Service, WebSocket
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
    with pytest.raises(Overloaded, match="1 requests of this route are in flight and 1 wait"):
        await limits.wait(A, 10)
    limits.leave(A)
    await first
    assert limits.waiting == 0
    limits.leave(A)
    limits.leave(B)
    assert not limits._inflight
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
    assert not limits._inflight
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
        assert not mesh.gateway.lifecycle.limits._inflight


async def test_a_client_that_goes_while_it_waits_leaves_the_queue(nats_url, prefix):
    slow, go = Service("slow"), asyncio.Event()

    @slow.get("/slow")
    async def wait() -> str:
        await go.wait()
        return "done"

    async with Mesh(slow, nats_url=nats_url, prefix=prefix, gateway={"route_inflight": 1, "route_queue": 1}) as mesh:
        first = asyncio.ensure_future(mesh.http.get("/slow"))
        limits = mesh.gateway.lifecycle.limits
        await eventually(lambda: limits._inflight)
        _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await eventually(lambda: limits.waiting)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: not limits.waiting)
        go.set()
        assert (await first).status_code == 200


# -- WebSockets


def talk():
    service = Service("talk")

    @service.websocket("/talk", timeout=30)
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            if message == "fail":
                raise RuntimeError("as asked")
            await ws.send(message)

    @service.websocket("/denied")
    async def denied(ws: WebSocket) -> None:
        raise Forbidden("not here")

    return service


@pytest.fixture(params=["direct", "asgi"])
async def talking(nats_url, prefix, request):
    settings = {"route_inflight": 1, "route_queue": 1, "http_lane": request.param}
    async with Mesh(talk(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


def address(mesh, path="/talk"):
    return f"ws://127.0.0.1:{mesh.gateway.port}{path}"


async def test_a_websocket_is_in_flight_until_it_ends(talking):
    limits = talking.gateway.lifecycle.limits
    async with connect(address(talking)) as first:
        await first.send("a")
        assert await first.recv() == "a"
        assert limits._inflight == {("GET", "/talk"): 1}
        second = asyncio.ensure_future(connect(address(talking)).__aenter__())
        await eventually(lambda: limits.waiting == 1)
        with pytest.raises(InvalidStatus) as caught:
            await connect(address(talking))
        assert caught.value.response.status_code == 503
        assert b'"reason":"overloaded"' in caught.value.response.body
        assert not second.done()
    socket = await second
    await socket.send("b")
    assert await socket.recv() == "b"
    await socket.close()
    await eventually(lambda: not limits._inflight)


async def closed_by_client(mesh):
    async with connect(address(mesh)):
        pass


async def aborted_by_client(mesh):
    socket = await connect(address(mesh))
    socket.transport.abort()
    await socket.wait_closed()


async def failed_handler(mesh):
    async with connect(address(mesh)) as socket:
        await socket.send("fail")
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def denied_handshake(mesh):
    with pytest.raises(InvalidStatus):
        await connect(address(mesh, "/denied"))


async def gateway_goes_away(mesh):
    async with connect(address(mesh)) as socket:
        mesh.gateway.asgi_lane.close_websockets()
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@pytest.mark.parametrize(
    "end", [closed_by_client, aborted_by_client, failed_handler, denied_handshake, gateway_goes_away]
)
async def test_a_websockets_unit_is_given_back_however_it_ends(talking, end):
    for _ in range(2):
        await end(talking)
        await eventually(lambda: not talking.gateway.lifecycle.limits._inflight)


async def test_a_handshake_whose_client_goes_leaves_the_queue(talking):
    limits = talking.gateway.lifecycle.limits
    async with connect(address(talking)):
        waiting = asyncio.ensure_future(connect(address(talking)).__aenter__())
        await eventually(lambda: limits.waiting == 1)
        waiting.cancel()
        await eventually(lambda: limits.waiting == 0)
        assert limits._inflight == {("GET", "/talk"): 1}
    await eventually(lambda: not limits._inflight and talking.gateway.lifecycle.inflight == 0)
