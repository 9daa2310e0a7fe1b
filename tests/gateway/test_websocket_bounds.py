"""WebSockets of clients that mean harm, or know no better: raw frames, on a socket that is read or is not."""

import asyncio
import logging
import os
import struct

import pytest
from websockets.asyncio.client import connect

from gateway.websocket_connection import WebSocketConnection
from mesh import Service, WebSocket
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.test_framing import answers, get

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def frame(kind, payload=b"", *, fin=True):
    """A client's frame; its mask is zero."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else struct.pack("!BH", 254, size)
    return bytes([fin << 7 | kind]) + length + bytes(4) + payload


def echoing():
    service = Service("chat")
    service.open = 0

    @service.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        service.open += 1
        try:
            async for message in ws:
                await ws.send(message)
        finally:
            service.open -= 1

    @service.websocket("/late")
    async def late(ws: WebSocket) -> None:
        await asyncio.sleep(0.05)
        await ws.accept()

    @service.websocket("/ignored")
    async def ignored(ws: WebSocket) -> None: ...

    @service.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.1)
        return "slow"

    @service.get("/quick")
    async def quick() -> str:
        return "quick"

    return service


@pytest.fixture(params=["direct", "asgi"])
async def mesh(request, nats_url, prefix):
    async with Mesh(echoing(), nats_url=nats_url, prefix=prefix, gateway={"http_lane": request.param}) as mesh:
        yield mesh


async def dial(mesh, path="/echo", limit=1 << 20):
    """An open WebSocket: reader, writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port, limit=limit)
    writer.write(get(path, *HANDSHAKE))
    async with asyncio.timeout(20):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def connection(mesh):
    """The gateway's end of the only WebSocket."""
    (found,) = mesh.gateway._listeners[0].server_state.connections
    return found


async def read_frame(reader):
    """Kind and payload of the next frame."""
    async with asyncio.timeout(20):
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        return first & 15, await reader.readexactly(size)


async def close_code(reader):
    """The code with which the gateway closes; data before that is passed over."""
    while True:
        kind, payload = await read_frame(reader)
        if kind == CLOSE:
            return int.from_bytes(payload[:2])


async def test_pongs_do_not_pile_up_for_a_client_that_does_not_read(mesh, monkeypatch):
    monkeypatch.setattr("gateway.websocket_connection.REST_S", 0.0)
    _, writer = await dial(mesh, limit=1000)
    writer.transport.pause_reading()
    end = connection(mesh)
    pings, sent = frame(PING, bytes(125)) * 500, 0
    while end.writable.is_set() or end.transport.is_reading():
        writer.write(pings)
        sent += len(pings)
        assert sent < 200_000_000
        await asyncio.sleep(0)
    for _ in range(100):  # it goes on, into the buffers of the kernel and then into its own
        writer.write(pings)
        await asyncio.sleep(0)
    assert end.transport.get_write_buffer_size() < 1_000_000
    assert len(end._unread) < 1_000_000
    assert not end.transport.is_reading()
    monkeypatch.setattr("gateway.slow_clients.STALLED_S", 0.2)
    service = mesh.instances[0].service
    await eventually(lambda: service.open == mesh.gateway.lifecycle.inflight == 0, timeout=30)
    assert not mesh.gateway._listeners[0].server_state.connections
    writer.transport.abort()


async def test_a_client_that_reads_on_gets_all_its_pongs(mesh, monkeypatch):
    monkeypatch.setattr("gateway.websocket_connection.REST_S", 0.0)
    reader, writer = await dial(mesh)
    for number in range(20_000):
        writer.write(frame(PING, struct.pack("!I", number) * 25))
    for number in range(20_000):
        assert await read_frame(reader) == (PONG, struct.pack("!I", number) * 25)
    writer.write(frame(TEXT, b"still here"))
    assert await read_frame(reader) == (TEXT, b"still here")
    writer.close()


@pytest.mark.parametrize("kind", [PING, PONG, CONT, TEXT])
async def test_frames_without_content_let_others_have_their_turn(mesh, kind):
    """What such a client sends is read bit by bit, with rests: it does not take the event loop."""
    _, writer = await dial(mesh)
    if kind == CONT:
        writer.write(frame(BINARY, fin=False))
    end, seen = connection(mesh), []
    receive_data = end.conn.receive_data
    end.conn.receive_data = lambda data: (seen.append(len(data)), receive_data(data))
    writer.write(frame(kind, fin=kind != CONT) * 40_000)
    await eventually(lambda: seen)
    turns = len(seen)
    assert (await mesh.http.get("/quick")).status_code == 200
    assert max(seen) <= 2048
    if kind != TEXT:  # a message waits for who takes it, and need not be slowed down
        await eventually(lambda: end._resting is not None)
        assert sum(seen) < 200_000
    assert len(seen) >= turns
    writer.transport.abort()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize("fragment", [b"", b"x"], ids=["empty", "one byte"])
async def test_a_message_of_endless_fragments_is_closed_with_1009(mesh, monkeypatch, fragment):
    monkeypatch.setattr("gateway.websocket_connection.REST_S", 0.0)
    monkeypatch.setattr("gateway.websocket_connection.FRAGMENT_COST", 64 * 1024)
    reader, writer = await dial(mesh)
    writer.write(frame(TEXT, fragment, fin=False) + frame(CONT, fragment, fin=False) * 300)
    assert await close_code(reader) == 1009
    assert await reader.read() == b""
    writer.close()


async def test_many_small_fragments_are_one_message_all_the_same(mesh, monkeypatch):
    monkeypatch.setattr("gateway.websocket_connection.REST_S", 0.0)
    reader, writer = await dial(mesh)
    body = os.urandom(3000)
    writer.write(frame(BINARY, fin=False))
    for byte in body:
        writer.write(frame(CONT, bytes([byte]), fin=False) + frame(PING))
    writer.write(frame(CONT))
    answers = [await read_frame(reader) for _ in range(3001)]
    assert [one for one in answers if one[0] != PONG] == [(BINARY, body)]
    writer.close()


async def test_an_upgrade_waits_for_the_answers_before_it(mesh):
    for first, word in (("/slow", b"slow"), ("/quick", b"quick"), ("/nowhere", b"no_route")):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(get(first) + get("/quick") + get("/echo", *HANDSHAKE))
        async with asyncio.timeout(20):
            data = await reader.readuntil(b" 101 Switching Protocols\r\n")
            before = data[: data.rindex(b"HTTP/1.1 101")]
            found = answers(before, "GET", "GET")
            assert word in found[0][2]
            assert b"quick" in found[1][2]
            await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b"hello"))
        assert await read_frame(reader) == (TEXT, b"hello")
        writer.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_an_upgrade_behind_the_last_request_of_a_connection_is_not_made(mesh):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/slow", "Connection: close") + get("/echo", *HANDSHAKE))
    async with asyncio.timeout(20):
        assert [status for status, _, _ in answers(await reader.read(), "GET")] == [200]
    writer.close()
    await eventually(lambda: not mesh.gateway._listeners[0].server_state.connections)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([*HANDSHAKE, "Cookie: " + "a" * 9000], 431),
        ([*HANDSHAKE, *[f"X-{number}: b" for number in range(130)]], 431),
        ([*HANDSHAKE[:3]], 400),
        ([*HANDSHAKE[:2], "Sec-WebSocket-Version: 12", HANDSHAKE[3]], 426),
    ],
    ids=["a long line", "many headers", "no key", "another version"],
)
async def test_a_handshake_that_the_library_does_not_take_is_answered(mesh, headers, status):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/echo", *headers))
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)
    writer.close()
    await eventually(lambda: not mesh.gateway._listeners[0].server_state.connections)


async def test_a_subprotocol_that_the_client_does_not_offer_is_502(mesh):
    instance = mesh.instances[0]
    send = instance.bus.publish

    def forging(address, payload, block=b"", *rest):
        if b"Mesh-Status: 101" in block:
            block = block[:-2] + b"sec-websocket-protocol: unasked\r\n\r\n"
        return send(address, payload, block, *rest)

    instance.bus.publish = forging
    for offered, status in (([], 502), (["Sec-WebSocket-Protocol: other"], 502)):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(get("/echo", *HANDSHAKE, *offered))
        async with asyncio.timeout(20):
            data = await reader.read()
        assert data.startswith(b"HTTP/1.1 %d " % status)
        assert b'"reason":"bad_reply"' in data
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/echo", *HANDSHAKE, "Sec-WebSocket-Protocol: other, unasked"))
    async with asyncio.timeout(20):
        data = await reader.readuntil(b"\r\n\r\n")
    assert b"sec-websocket-protocol: unasked" in data.lower()
    writer.close()
    await eventually(lambda: instance.service.open == mesh.gateway.lifecycle.inflight == 0)


async def test_clients_that_err_or_leave_are_no_errors_of_the_gateway(mesh, caplog):
    """Refused, left in the middle of the handshake or after it, and text that is no text."""
    caplog.set_level(logging.INFO)
    for path, status in (("/ignored", 403), ("/nowhere", 404)):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(get(path, *HANDSHAKE))
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)
        writer.close()
    for number in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(get("/late", *HANDSHAKE))
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 1)
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
    _, writer = await dial(mesh)
    writer.transport.abort()
    reader, writer = await dial(mesh)
    writer.write(frame(TEXT, b"\xff"))
    assert await close_code(reader) == 1007
    writer.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == mesh.instances[0].service.open == 0)
    noise = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert noise == []


@pytest.fixture(params=["direct", "asgi"])
async def small(request, nats_url, prefix):
    """A gateway with one MiB for all clients."""
    settings = {"http_lane": request.param, "body_memory": 1 << 20}
    async with Mesh(echoing(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


async def test_messages_take_memory_of_all_clients_and_give_it_back(small):
    bodies = small.gateway.lifecycle.body_memory
    readers, writers = zip(*[await dial(small) for _ in range(3)], strict=True)
    for writer in writers[:2]:  # a message in fragments, a frame that is not complete
        for number in range(6):
            writer.write(frame(CONT if number else BINARY, bytes(60_000), fin=False))
    await eventually(lambda: bodies.used == 2 * 6 * 60_000)
    length = struct.pack("!BBQ", 0x82, 128 | 127, 900_000) + bytes(4)
    writers[2].write(length + bytes(400_000))
    kind, payload = await read_frame(readers[2])
    assert (kind, payload[:2]) == (CLOSE, (1013).to_bytes(2))
    await eventually(lambda: bodies.used == 2 * 6 * 60_000)
    # The others go on, and what is echoed is given back.
    writers[0].write(frame(CONT, b"end"))
    async with asyncio.timeout(20):
        await readers[0].readexactly(100_000)
    await eventually(lambda: bodies.used < 6 * 60_000 + 360_003)
    for writer in writers:
        writer.transport.abort()
    await eventually(lambda: bodies.used == 0)


async def test_nothing_is_compressed(mesh):
    """16 KB of a compressed message may be 16 MB in memory."""
    asked = get("/echo", *HANDSHAKE, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(asked)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    assert b"sec-websocket-extensions" not in head.lower()
    writer.close()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_slow_service_does_not_cost_its_client_the_connection(nats_url, prefix, monkeypatch, leaves):
    # One that leaves is seen to do so when all that it sent has arrived: its end comes behind that.
    service, go, most = Service("slow"), asyncio.Event(), 3 if leaves else 40

    @service.websocket("/slow")
    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        await go.wait()
        for _ in range(most):
            await ws.receive()
        await ws.send("all")

    late = 0
    timeout = WebSocketConnection.keepalive_timeout

    def counted(self):
        nonlocal late
        late += 1
        timeout(self)

    monkeypatch.setattr(WebSocketConnection, "keepalive_timeout", counted)
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        config = mesh.gateway._listeners[0].config
        monkeypatch.setattr(config, "ws_ping_interval", 0.2)
        monkeypatch.setattr(config, "ws_ping_timeout", 0.2)
        address = f"ws://127.0.0.1:{mesh.gateway.port}/slow"
        async with connect(address, ping_interval=None, close_timeout=0) as client:

            async def fill():
                for _ in range(most):
                    await client.send(bytes(200_000))

            filling = asyncio.ensure_future(fill())
            await eventually(lambda: late >= 3)
            if leaves:
                client.transport.abort()
                await eventually(lambda: not mesh.gateway._listeners[0].server_state.connections)
            go.set()
            if not leaves:
                async with asyncio.timeout(20):
                    assert await client.recv() == "all"
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
