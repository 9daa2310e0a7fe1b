"""Clients that go, or break their own request, while it is being answered: they are told once, counted once as what
they are, and no fault of the gateway."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from mesh import Service
from mesh.testing import Mesh
from tests.conditions import eventually

CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"
NO_CHUNK = b"ZZ\r\n"


class Handler:
    """What the handler that waits tells."""

    def __init__(self):
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.streams = 0


def waits(handler):
    service = Service("waits")

    @service.route("*", "/wait")
    async def wait() -> str:
        handler.started.set()
        await handler.go_on.wait()
        return "done"

    @service.route("*", "/stream")
    async def stream() -> AsyncIterator[bytes]:
        handler.streams += 1
        handler.started.set()
        try:
            await handler.go_on.wait()
            yield b"first"
            await asyncio.Event().wait()
        finally:
            handler.streams -= 1

    @service.post("/echo")
    async def echo(body: bytes) -> bytes:
        return body

    return service


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture(params=["direct", "asgi"])
async def mesh(request, nats_url, prefix, handler):
    settings = {"http_lane": request.param}
    async with Mesh(waits(handler), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


@pytest.fixture
def counted(mesh, caplog):
    """What the metrics say of all requests: "method status", sorted; nothing may have been logged as an error."""

    async def counted(number):
        lifecycle, found = mesh.gateway.lifecycle, []

        def all_counted():
            found[:] = lifecycle.metrics._counts.items()
            return lifecycle.inflight == 0 and sum(count for _, count in found) == number

        await eventually(all_counted)
        await asyncio.sleep(0.05)  # a task that fails says so later
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert errors == []
        assert "internal" not in lifecycle.metrics._reasons
        return sorted(f"{method} {status}" for (method, _, status), count in found for _ in range(count))

    return counted


def post(path, *headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def ask(mesh, data):
    """Everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("expect", [(), (EXPECT,)], ids=["", "expects"])
@pytest.mark.parametrize("path", ["/nope", "/echo", "/wait", "/livez"])
async def test_a_request_broken_in_its_first_segment_is_a_400_and_nothing_else(mesh, counted, path, expect):
    said = await ask(mesh, post(path, *expect, CHUNKED) + NO_CHUNK)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1  # no 100 after the refusal, nor the answer that would have been
    # What could be read of the request is counted, and what could not.
    assert await counted(2) == ["OTHER 400", "POST 400"]


async def test_a_request_broken_after_its_first_segment_is_a_400_too(mesh, counted):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(post("/echo", EXPECT, CHUNKED))
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(NO_CHUNK)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert await counted(2) == ["OTHER 400", "POST 400"]


BODIES = {
    "nobody": b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunked": post("/wait", CHUNKED) + b"1\r\na\r\n0\r\n\r\n",
    "expects": post("/wait", EXPECT, "Content-Length: 1") + b"a",
    "half": post("/wait", "Content-Length: 2") + b"a",
}


@pytest.mark.parametrize("request_", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("answers", [True, False])
async def test_a_client_that_resets_its_connection_is_499(mesh, handler, counted, monkeypatch, request_, answers):
    """Also where the answer comes before anybody has looked whether the client is there."""
    if answers:
        monkeypatch.setattr("gateway.asgi_lane.WATCH_S", 60)
    monkeypatch.setattr("mesh.service.replies.FIRST_PIECE_S", 60)
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(request_)
    async with asyncio.timeout(20):
        if request_ != BODIES["half"]:
            await handler.started.wait()
        else:
            await eventually(lambda: mesh.gateway.lifecycle.inflight == 1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    connections = mesh.gateway._listeners[0].server_state.connections
    await eventually(lambda: not connections)
    if answers:
        handler.go_on.set()
    method = request_.split()[0].decode()
    assert await counted(1) == [f"{method} 499"]
    assert mesh.gateway.lifecycle.metrics._reasons == {"client_gone": 1}


async def test_a_stream_that_begins_when_its_client_has_gone_is_closed(mesh, handler, counted, monkeypatch):
    """The gateway is the one that reads it: left open, it would be kept alive for ever."""
    monkeypatch.setattr("gateway.asgi_lane.WATCH_S", 60)
    monkeypatch.setattr("mesh.service.replies.FIRST_PIECE_S", 60)
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    # A body without a known length is for an ASGI call on both lanes, which looks for its client after the head alone.
    writer.write(post("/stream", CHUNKED) + b"1\r\na\r\n0\r\n\r\n")
    async with asyncio.timeout(20):
        await handler.started.wait()
    writer.transport.abort()
    connections = mesh.gateway._listeners[0].server_state.connections
    await eventually(lambda: not connections)
    assert handler.streams == 1
    handler.go_on.set()
    assert await counted(1) == ["POST 499"]
    await eventually(lambda: handler.streams == 0)
