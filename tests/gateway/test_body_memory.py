"""Memory for bodies: what all clients together may have in the gateway, and that all of it comes back."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body_memory import SLOW_BODY_S, BodyMemory, BodyShare
from mesh import Service
from mesh.errors import Overloaded
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.test_framing import LAST, Hung, answers, ask, frames, get

MIB = 1024 * 1024


class Clock:
    def __init__(self):
        self.now = 1.0

    def __call__(self):
        return self.now


def test_what_does_not_fit_is_refused_and_what_is_given_back_may_be_taken_again():
    bodies = BodyMemory(100, Clock())
    first, second = bodies.share(pytest.fail), bodies.share(pytest.fail)
    first.take(60)
    second.take(40)
    with pytest.raises(Overloaded):
        second.take(1)
    first.give(30)
    second.take(30)
    assert bodies.used == 100
    first.release()
    first.release()
    first.give(10)
    assert bodies.used == 70
    second.release()
    assert bodies.used == 0


def test_the_slowest_makes_room_once_it_had_its_time():
    clock, refused = Clock(), []
    bodies = BodyMemory(100, clock)
    slow, settled, quick = (bodies.share(lambda error, name=name: refused.append(name)) for name in "abc")
    settled.take(10)
    slow.take(50)
    settled.keep()
    quick.take(40)
    clock.now += SLOW_BODY_S - 0.1
    with pytest.raises(Overloaded):
        bodies.share(pytest.fail).take(33)  # as large as the others, nearly
    with pytest.raises(Overloaded):
        bodies.share(pytest.fail, expected=33).take(1)
    clock.now += 0.2
    bodies.share(pytest.fail).take(30)
    assert refused == ["a"]
    assert bodies.used == 80
    with pytest.raises(Overloaded):
        quick.take(21)  # nobody makes room for himself
    assert refused == ["a"]


def test_the_largest_makes_room_for_smaller_ones_at_once():
    """Whoever keeps the memory full with bodies that never end, and renews them in time, keeps nobody else out."""
    clock, refused = Clock(), []
    bodies = BodyMemory(100, clock)
    shares = [bodies.share(lambda error, number=number: refused.append(number)) for number in range(3)]
    for share, size in zip(shares, (20, 70, 10), strict=True):
        share.take(size)
    small = bodies.share(pytest.fail, expected=30)
    small.take(1)
    assert refused == [1]
    small.take(29)
    assert (refused, bodies.used) == ([1], 60)
    shares[0].keep()  # it is complete: it stays
    small.keep()
    with pytest.raises(Overloaded):
        bodies.share(pytest.fail).take(50)
    assert bodies.used == 60


def test_a_body_that_is_passed_on_makes_no_room_even_if_its_first_byte_comes_later():
    clock = Clock()
    bodies = BodyMemory(100, clock)
    upload, other = bodies.share(pytest.fail), bodies.share(pytest.fail)
    upload.keep()
    upload.take(10)
    clock.now += SLOW_BODY_S + 1
    other.take(80)
    other.keep()
    with pytest.raises(Overloaded):
        bodies.share(pytest.fail).take(20)
    assert bodies.used == 90


@given(
    st.lists(st.tuples(st.sampled_from("tgsr"), st.integers(0, 4), st.integers(0, 60), st.floats(0, 9)), max_size=60)
)
def test_it_is_never_more_than_its_limit_and_comes_back_whatever_happens(steps):
    clock = Clock()
    bodies = BodyMemory(100, clock)
    shares = [bodies.share(lambda error: None) for _ in range(5)]
    for kind, number, size, seconds in steps:
        clock.now += seconds
        share = shares[number]
        if kind == "t":
            with contextlib.suppress(Overloaded):
                share.take(size)
        elif kind == "g":
            share.give(size)
        elif kind == "s":
            share.keep()
        else:
            share.release()
        assert 0 <= bodies.used <= 100
        assert bodies.used == sum(share.size for share in shares)
    for share in shares:
        share.release()
    assert bodies.used == 0
    assert not bodies._coming
    assert not bodies._sizes


@pytest.fixture(params=["direct", "asgi"])
async def mesh(request, nats_url, prefix):
    settings = {"http_lane": request.param, "body_memory": 2 * MIB, "body_idle_s": 60, "head_s": 60}
    hung = Hung()
    service = frames(hung)

    @service.post("/waits")
    async def waits(body: bytes) -> int:
        hung.started.set()
        await asyncio.Event().wait()
        return len(body)

    @service.post("/count")
    async def count(body: AsyncIterator[bytes]) -> int:
        return sum([len(piece) async for piece in body])

    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


def post(path, size, sent, *headers):
    return get(path, f"Content-Length: {size}", *headers, method="POST") + b"x" * sent


async def unfinished(mesh, number, size=900_000):
    """Clients whose bodies lack their last byte."""
    writers = []
    for _ in range(number):
        _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(post("/echo/a", size, size - 1))
        writers.append(writer)
    return writers


async def test_bodies_that_are_collected_are_bounded_together(mesh):
    bodies = mesh.gateway.lifecycle.body_memory
    writers = await unfinished(mesh, 2)
    await eventually(lambda: bodies.used == 2 * 899_999)
    ((status, headers, body),) = answers(await ask(mesh, post("/echo/a", 900_000, 900_000)), "POST")
    assert (status, headers[b"retry-after"], headers[b"connection"]) == (503, b"1", b"close")
    assert b'"reason":"overloaded"' in body
    assert b'"executed":"no"' in body
    # What has no body needs none of it, and a small one still fits.
    assert answers(await ask(mesh, LAST), "GET")[0][0] == 200
    assert answers(await ask(mesh, post("/echo/a", 100, 100, "Connection: close")), "POST")[0][0] == 200
    assert bodies.used == 2 * 899_999
    assert f"\nmesh_gateway_body_bytes {2 * 899_999}\n" in "\n".join(mesh.gateway.metrics.lines())
    writers[0].write(b"x")  # the answer is more than what is in the way of it
    await eventually(lambda: bodies.used == 899_999)
    writers[1].transport.abort()
    await eventually(lambda: bodies.used == mesh.gateway.lifecycle.inflight == 0)
    writers[0].close()


async def test_a_slow_body_makes_room_for_others(mesh, monkeypatch):
    monkeypatch.setattr("gateway.body_memory.SLOW_BODY_S", 0.0)
    slow = asyncio.ensure_future(ask(mesh, post("/echo/a", 1_000_000, 999_999)))
    bodies = mesh.gateway.lifecycle.body_memory
    await eventually(lambda: bodies.used == 999_999)
    (other,) = await unfinished(mesh, 1)
    await eventually(lambda: bodies.used == 999_999 + 899_999)
    found = answers(await ask(mesh, post("/echo/a", 900_000, 900_000) + LAST), "POST", "GET")
    assert [status for status, _, _ in found] == [200, 200]
    ((status, headers, _),) = answers(await slow, "POST")
    assert (status, headers[b"retry-after"]) == (503, b"1")
    other.transport.abort()
    await eventually(lambda: bodies.used == mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize("end", ["leaves", "is answered", "is broken", "waits behind another"])
async def test_memory_comes_back_whatever_becomes_of_the_request(mesh, end):
    bodies = mesh.gateway.lifecycle.body_memory
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    if end == "is broken":
        writer.write(get("/echo/a", "Transfer-Encoding: chunked", method="POST") + b"5\r\nabcde\r\nzz\r\n")
        assert b" 400 " in await reader.readline()
    elif end == "waits behind another":
        writer.write(get("/hang") + post("/echo/a", 1000, 900))
        await eventually(lambda: bodies.used == 900)
    else:
        writer.write(post("/waits", 5000, 5000))
        await eventually(lambda: bodies.used == 5000)
        if end == "is answered":
            await mesh.instances[0].bus.aclose()
            assert b" 503 " in await reader.readline()
    if end != "is answered":
        writer.transport.abort()
    await eventually(lambda: bodies.used == mesh.gateway.lifecycle.inflight == 0)
    writer.close()


async def test_a_body_that_is_passed_on_takes_memory_only_until_it_has_gone(mesh):
    """It is eight times what all bodies may take."""
    bodies, most = mesh.gateway.lifecycle.body_memory, 0

    async def pieces():
        nonlocal most
        for _ in range(160):
            most = max(most, bodies.used)
            yield bytes(100_000)

    response = await mesh.http.post("/count", content=pieces())
    assert (response.status_code, response.text) == (200, "16000000")
    assert 0 < most < 2 * MIB
    response = await mesh.http.post("/count", content=bytes(16_000_000))
    assert (response.status_code, response.text) == (200, "16000000")
    assert bodies.used == 0


async def test_an_upload_under_way_makes_no_room_for_others(mesh, monkeypatch):
    monkeypatch.setattr("gateway.body_memory.SLOW_BODY_S", 0.0)
    bodies = mesh.gateway.lifecycle.body_memory
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(post("/count", 3_000_000, 0, "Expect: 100-continue"))
    async with asyncio.timeout(20):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(bytes(1000))
    requests = mesh.gateway.lifecycle.requests
    await eventually(lambda: [request.share.since or request.share.kept for request in requests])
    others = await unfinished(mesh, 2)
    await eventually(lambda: bodies.used == 2 * 899_999)
    ((status, _, _),) = answers(await ask(mesh, post("/echo/a", 900_000, 900_000, "Connection: close")), "POST")
    assert status == 200  # the oldest of the others makes room
    writer.write(bytes(2_999_000))
    async with asyncio.timeout(20):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == b"3000000"
    for one in [*others, writer]:
        one.transport.abort()
    await eventually(lambda: bodies.used == mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize("broken", ["framing", "memory", "length"])
async def test_an_error_in_a_body_that_is_passed_on_leaves_open_whether_it_was_executed(mesh, broken, monkeypatch):
    taken = asyncio.Event()
    give = BodyShare.give

    def given_on(body, size):
        give(body, size)
        taken.set()

    monkeypatch.setattr(BodyShare, "give", given_on)
    if broken == "length":
        lifecycle = mesh.gateway.lifecycle
        monkeypatch.setattr(lifecycle, "settings", dataclasses.replace(lifecycle.settings, max_request_body=2 * MIB))
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/count", "Transfer-Encoding: chunked", method="POST"))
    for _ in range(12):  # more than one message
        writer.write(b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n")
    async with asyncio.timeout(20):
        await taken.wait()
        if broken == "memory":
            monkeypatch.setattr(mesh.gateway.lifecycle.body_memory, "limit", 1)
        writer.write(b"zz\r\n" if broken == "framing" else b"%x\r\n" % 1_500_000 + bytes(1_500_000))
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"}")
    assert head.split()[1] == {"framing": b"400", "memory": b"503", "length": b"413"}[broken]
    assert b'"executed":"unknown"' in body
    writer.transport.abort()
    await eventually(lambda: mesh.gateway.lifecycle.body_memory.used == mesh.gateway.lifecycle.inflight == 0)


async def test_a_body_that_is_answered_early_and_read_to_its_end_takes_no_memory(mesh):
    found = answers(await ask(mesh, post("/nowhere", 900_000, 900_000) * 5 + LAST), *["POST"] * 5, "GET")
    assert [status for status, _, _ in found] == [404] * 5 + [200]
    assert mesh.gateway.lifecycle.body_memory.used == 0


async def test_a_streamed_answer_to_a_large_body_leaves_its_connection_open(nats_url, prefix, caplog):
    service = Service("files")

    @service.post("/echo")
    async def echo(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        body, ports = bytes(1_500_000), set()
        for _ in range(40):
            async with mesh.http.stream("POST", "/echo", content=body) as response:
                ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
                assert len(await response.aread()) == len(body)
        assert len(ports) == 1
    assert "Exception in ASGI application" not in caplog.text
