"""Bodies of any size through the gateway: real clients, slow ones, ones that vanish, instances that die."""

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator

import aiohttp
import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.asgi_lane import WATCH_S
from mesh import Context, Event, NotFound, Request, Service, StreamingResponse
from mesh.testing import Mesh
from tests.conditions import eventually

MIB = 1024 * 1024


class Joke(msgspec.Struct):
    text: str


def make() -> Service:
    service = Service("files")
    service.running = 0
    service.seen = []

    @service.post("/hash")
    async def digest(body: AsyncIterator[bytes]) -> dict[str, object]:
        found, size = hashlib.sha256(), 0
        async for piece in body:
            found.update(piece)
            size += len(piece)
        return {"sha256": found.hexdigest(), "size": size}

    @service.post("/whole")
    async def whole(body: bytes) -> dict[str, object]:
        return {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}

    @service.post("/echo")
    async def echo(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece

    @service.get("/bytes")
    async def large(size: int) -> bytes:
        return bytes(size)

    @service.get("/pieces")
    async def pieces(size: int, piece: int = 65_536) -> AsyncIterator[bytes]:
        service.running += 1
        try:
            while size > 0:
                yield bytes(min(size, piece))
                size -= piece
        finally:
            service.running -= 1

    @service.get("/events")
    async def events(count: int = 3) -> AsyncIterator[Event]:
        for number in range(count):
            yield Event({"number": number}, event="tick", id=str(number))

    @service.get("/jokes")
    async def jokes() -> AsyncIterator[Joke]:
        yield Joke("one")
        yield Joke("two\nlines")

    @service.get("/texts")
    async def texts() -> AsyncIterator[str]:
        yield "grüße "
        yield "dich"

    @service.get("/never")
    async def never() -> AsyncIterator[bytes]:
        service.running += 1
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            service.running -= 1

    @service.get("/silent")
    async def silent(ctx: Context) -> AsyncIterator[Event]:
        service.running += 1
        try:
            await asyncio.Event().wait()
            yield Event("never")
        finally:
            service.running -= 1

    @service.get("/breaks")
    async def breaks(first: bool) -> AsyncIterator[bytes]:
        if first:
            raise NotFound("nothing to stream")
        yield b"some of it"
        raise RuntimeError("in the middle")

    @service.get("/custom")
    async def custom(request: Request) -> StreamingResponse:
        async def content() -> AsyncIterator[str]:
            yield "a"
            yield ""
            yield "b"

        return StreamingResponse(content(), 206, {"x-own": "yes", "content-length": "2"}, "text/x-own")

    @service.post("/refuse")
    async def refuse(body: AsyncIterator[bytes]) -> None:
        raise NotFound("not wanted")

    return service


@pytest_asyncio.fixture
async def mesh(nats_url, prefix):
    async with Mesh(make(), nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest.fixture
def service(mesh):
    return mesh.instances[0].service


async def chunked(body, size=10_000):
    for at in range(0, len(body), size):
        yield body[at : at + size]


SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/hash", "/whole"])
@pytest.mark.parametrize("known", [True, False])
async def test_requests_of_any_size_arrive_unchanged(mesh, size, path, known):
    body = os.urandom(size)
    response = await mesh.http.post(path, content=body if known else chunked(body, 100_000))
    if path == "/whole" and not size:
        assert response.status_code == 200
        return
    assert response.json() == {"sha256": hashlib.sha256(body).hexdigest(), "size": size}


@pytest.mark.parametrize("size", SIZES)
async def test_responses_of_any_size_arrive_unchanged(mesh, size):
    response = await mesh.http.get(f"/bytes?size={size}")
    assert response.headers["content-length"] == str(size)
    assert response.content == bytes(size)
    streamed = await mesh.http.get(f"/pieces?size={size}")
    assert "content-length" not in streamed.headers
    assert streamed.content == bytes(size)


async def test_both_at_once(mesh):
    """A service may answer while it reads; aiohttp sends and receives at the same time."""
    body = os.urandom(3 * MIB)
    async with aiohttp.ClientSession() as session, session.post(f"{mesh.url}/echo", data=chunked(body)) as response:
        assert hashlib.sha256(await response.read()).digest() == hashlib.sha256(body).digest()


async def test_a_last_piece_that_makes_a_body_too_large_for_one_message(mesh):
    body, sent = os.urandom(MIB + 1), []
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if not pieces:
            await asyncio.Event().wait()
        return pieces.pop()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/hash",
        "raw_path": b"/hash",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 9),
        "scheme": "http",
    }
    async with asyncio.timeout(20):
        await mesh.gateway.asgi_lane(scope, receive, send)
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"]) == {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


async def test_a_body_that_goes_on_while_its_answer_comes_loses_nothing(mesh):
    """For longer than it takes until the gateway watches a client for its going away."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")

    async def echoed(size: int) -> bytes:
        body = b""
        while len(body) < size:
            body += await reader.readexactly(int(await reader.readline(), 16))
            assert await reader.readline() == b"\r\n"
        return body

    async with asyncio.timeout(20):
        first = os.urandom(2 * MIB)  # until here it might be a body of one message
        writer.write(b"%x\r\n%b\r\n" % (len(first), first))
        await reader.readuntil(b"\r\n\r\n")
        assert await echoed(len(first)) == first
        until, number = loop.time() + 10 * WATCH_S, 0
        while loop.time() < until:
            piece = b"%08d" % number
            writer.write(b"8\r\n%b\r\n" % piece)
            assert await echoed(8) == piece
            number += 1
        writer.write(b"0\r\n\r\n")
        assert await reader.read() == b"0\r\n\r\n"
    writer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_64_mib_with_curl_both_ways(mesh, tmp_path):
    source, target = tmp_path / "up", tmp_path / "down"
    body = os.urandom(MIB) * 64
    source.write_bytes(body)
    wanted = hashlib.sha256(body).hexdigest()
    up = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--data-binary", f"@{source}", f"{mesh.url}/hash", stdout=asyncio.subprocess.PIPE
    )
    assert json.loads((await up.communicate())[0]) == {"sha256": wanted, "size": len(body)}
    down = await asyncio.create_subprocess_exec("curl", "-sS", "-o", str(target), f"{mesh.url}/bytes?size={64 * MIB}")
    assert await down.wait() == 0
    assert target.read_bytes() == bytes(64 * MIB)


async def test_what_handlers_yield_has_its_form(mesh):
    events = await mesh.http.get("/events?count=2")
    assert events.headers["content-type"] == "text/event-stream"
    assert events.headers["cache-control"] == "no-store"
    assert events.text == 'event: tick\nid: 0\ndata: {"number":0}\n\nevent: tick\nid: 1\ndata: {"number":1}\n\n'
    lines = await mesh.http.get("/jokes")
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == [{"text": "one"}, {"text": "two\nlines"}]
    asked = await mesh.http.get("/jokes", headers={"accept": "text/event-stream"})
    assert asked.text.startswith('data: {"text":"one"}\n\n')
    text = await mesh.http.get("/texts")
    assert (text.text, text.headers["content-type"]) == ("grüße dich", "text/plain; charset=utf-8")
    custom = await mesh.http.get("/custom")
    assert (custom.status_code, custom.text, custom.headers["x-own"]) == (206, "ab", "yes")
    assert (custom.headers["content-length"], custom.headers["content-type"]) == ("2", "text/x-own")
    head = await mesh.http.head("/pieces?size=100")
    assert (head.status_code, head.content) == (200, b"")


async def test_the_first_piece_is_not_held_back(mesh):
    async with mesh.http.stream("GET", "/never") as response:
        pieces = response.aiter_raw()
        began = time.perf_counter()
        assert await anext(pieces) == b"first"
        assert time.perf_counter() - began < 1
    async with mesh.http.stream("GET", "/silent") as response:  # the head alone, before anything is yielded
        assert response.status_code == 200


async def test_an_error_before_the_first_piece_has_its_status_and_one_after_it_cuts_off(mesh, caplog):
    before = await mesh.http.get("/breaks?first=true")
    assert (before.status_code, before.json()["detail"]) == (404, "nothing to stream")
    with pytest.raises(httpx.RemoteProtocolError):
        await mesh.http.get("/breaks?first=false")
    assert "its handler failed" in caplog.text
    assert (await mesh.http.get("/bytes?size=1")).status_code == 200


async def test_a_service_that_wants_none_of_a_body_answers_at_once(mesh):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 200 * MIB:
            sent += 100_000
            yield bytes(100_000)

    response = await mesh.http.post("/refuse", content=endless())
    assert (response.status_code, response.json()["detail"]) == (404, "not wanted")
    whole = await mesh.http.post("/whole", content=bytes(17 * MIB))
    assert (whole.status_code, whole.json()["reason"]) == (413, "too_large")


@pytest.mark.parametrize("path", ["/never", "/silent", "/pieces?size=1000000000"])
async def test_a_reader_that_goes_ends_the_producer(mesh, service, path):
    async with mesh.http.stream("GET", path) as response:
        assert response.status_code == 200
        await eventually(lambda: service.running == 1)
        if path != "/silent":
            await anext(response.aiter_raw())
    began = time.perf_counter()
    await eventually(lambda: service.running == 0)
    assert time.perf_counter() - began < 2  # 250 ms on an idle machine
    await eventually(lambda: len(mesh.gateway.streams) == 0)
    assert mesh.gateway.lifecycle.inflight == 0


async def test_a_client_that_vanishes_in_its_upload_is_noticed(mesh, service):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(b"POST /hash HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n" + bytes(100_000))
    await writer.drain()
    await eventually(lambda: len(mesh.instances[0].streams) == 1)
    writer.transport.abort()
    await eventually(lambda: len(mesh.instances[0].streams) == 0)
    await eventually(lambda: len(mesh.gateway.streams) == 0)
    assert reader is not None


async def test_a_client_that_stalls_in_its_upload_is_told(nats_url, prefix):
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, gateway={"body_idle_s": 0.2}) as mesh:
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(b"POST /hash HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n" + bytes(100_000))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


async def test_a_silent_stream_and_a_long_one_are_cut_off_where_that_is_wanted(nats_url, prefix):
    for limit in ("stream_idle_s", "stream_total_s"):
        async with Mesh(make(), nats_url=nats_url, prefix=prefix, gateway={limit: 0.3}) as mesh:
            with pytest.raises(httpx.RemoteProtocolError):
                await mesh.http.get("/never")


async def test_a_slow_reader_slows_the_producer(mesh, service):
    """Nobody buffers what is not read: the producer stays within windows and socket buffers of its reader."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port, limit=1024)
    writer.write(b"GET /pieces?size=1000000000 HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readline()
    await eventually(lambda: len(mesh.instances[0].streams) == 1)
    (stream,) = mesh.instances[0].streams._open.values()
    await eventually(lambda: stream.waits)
    assert stream._out.spent < 32 * MIB  # of a gigabyte; what sockets hold in between is the kernel's choice
    writer.transport.abort()
    await eventually(lambda: service.running == 0)


@pytest.mark.parametrize("end", ["killed", "drained"])
async def test_a_producer_that_goes_resets_its_reader(nats_url, prefix, end):
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, settings={"drain_s": 0.2}) as mesh:
        instance = mesh.instances[0]
        async with mesh.http.stream("GET", "/never") as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            if end == "killed":
                await instance.bus.aclose()
            stopping = asyncio.ensure_future(instance.drain())
            with pytest.raises(httpx.RemoteProtocolError):
                await asyncio.wait_for(anext(pieces), 20)
        await stopping


async def test_a_draining_instance_finishes_its_streams(mesh):
    instance = mesh.instances[0]
    async with mesh.http.stream("GET", "/pieces?size=5000000") as response:
        pieces = response.aiter_raw()
        size = len(await anext(pieces))
        stopping = asyncio.ensure_future(instance.drain())
        async for piece in pieces:
            size += len(piece)
    assert size == 5_000_000
    await stopping


async def test_what_was_made_for_the_request_lives_as_long_as_its_stream(nats_url, prefix):
    from typing import Annotated

    from mesh import Depends

    service, order = Service("needs"), []

    async def database() -> AsyncIterator[str]:
        order.append("open")
        yield "rows"
        order.append("close")

    @service.get("/rows")
    async def rows(source: Annotated[str, Depends(database)]) -> AsyncIterator[str]:
        for number in range(2):
            order.append(number)
            yield source

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        assert (await mesh.http.get("/rows")).text == "rowsrows"
        await eventually(lambda: order == ["open", 0, 1, "close"])


async def test_callers_that_take_no_streams_get_one_message(mesh):
    """`nats req`, or a service: what fits in one message is one."""
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.request("files", "jokes"))
        reply = await bus.request(address, b"", timeout=5)
        assert reply.payload == b'{"text":"one"}\n{"text":"two\\nlines"}\n'
        large = bus.address(bus.subjects.request("files", "pieces"))
        reply = await bus.request(large, b'{"size": 2000000}', timeout=5)
        assert b"Mesh-Status: 413" in reply.block


async def test_declarations_that_cannot_be():
    from mesh import DeclarationError

    service = Service("wrong")
    with pytest.raises(DeclarationError, match=r"AsyncIterator\[bytes\]"):

        @service.post("/a")
        async def texts(body: AsyncIterator[str]) -> None: ...

    with pytest.raises(DeclarationError, match="GET request"):

        @service.get("/b")
        async def get(body: AsyncIterator[bytes]) -> None: ...

    with pytest.raises(DeclarationError, match="async def"):

        @service.get("/c")
        def generator():
            yield b""
