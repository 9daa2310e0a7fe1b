"""WebSockets over the bus, with the `websockets` and aiohttp clients."""

import asyncio
import json
import time

import aiohttp
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh import Context, Forbidden, Request, Response, Service, Unauthorized, WebSocket, WebSocketClosed
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.test_framing import answers, ask, get


def make() -> Service:
    service = Service("chat")
    service.open, service.ended = 0, []

    @service.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    @service.websocket("/rooms/{room}")
    async def room(ws: WebSocket, room: str, ctx: Context, loud: bool = False) -> None:
        chosen = "v2" if "v2" in ws.subprotocols else ""
        forged = [("connection", "close"), ("sec-websocket-accept", "x"), ("mesh-status", "200")]
        await ws.accept(chosen, [("set-cookie", "a=1"), ("set-cookie", "b=ü"), ("X-Room", room), *forged])
        await ws.send({"room": room, "loud": loud, "id": ctx.request_id})
        service.open += 1
        try:
            while True:
                message = await ws.receive()
                if message == "close":
                    await ws.close(4001, "as asked")
                elif message == "fail":
                    raise RuntimeError("a fault of ours")
                elif message == "forbid":
                    raise Forbidden("not here")
                elif message == "flood":
                    while True:
                        await ws.send(bytes(100_000))
        except WebSocketClosed as closed:
            service.ended.append((closed.code, closed.reason))
        finally:
            service.open -= 1

    @service.websocket("/denied")
    async def denied(ws: WebSocket) -> None:
        raise Unauthorized("who are you?")

    @service.websocket("/ignored")
    async def ignored(ws: WebSocket) -> None: ...

    @service.get("/plain")
    async def plain() -> str:
        return "no socket"

    return service


@pytest_asyncio.fixture
async def mesh(nats_url, prefix):
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, settings={"drain_s": 2.0}) as mesh:
        yield mesh


@pytest.fixture
def service(mesh):
    return mesh.instances[0].service


def at(mesh, path):
    return f"ws://127.0.0.1:{mesh.gateway.port}{path}"


@pytest.mark.parametrize("message", ["", "grüße", "x" * 70_000, b"", b"\x00\xff", bytes(1_000_000)])
async def test_messages_come_back_unchanged(mesh, message):
    async with connect(at(mesh, "/echo")) as ws:
        await ws.send(message)
        assert await ws.recv() == message


async def test_many_messages_keep_their_order(mesh):
    async with connect(at(mesh, "/echo")) as ws:
        sending = asyncio.ensure_future(_send_all(ws, 500))
        assert [await ws.recv() for _ in range(500)] == [str(n) for n in range(500)]
        await sending


async def _send_all(ws, count):
    for number in range(count):
        await ws.send(str(number))


async def test_a_fragmented_message_is_one(mesh):
    async with connect(at(mesh, "/echo")) as ws:
        await ws.send(["a", "b", "c"])
        assert await ws.recv() == "abc"


async def test_parameters_and_subprotocols(mesh):
    async with connect(at(mesh, "/rooms/blue?loud=true"), subprotocols=["v1", "v2"]) as ws:
        assert ws.subprotocol == "v2"
        assert '"room":"blue","loud":true' in await ws.recv()
        given = ws.response.headers
        assert given["x-request-id"]
        assert (given.get_all("set-cookie"), given["x-room"]) == (["a=1", "b=ü"], "blue")
        assert given["connection"].lower() == "upgrade"
        assert "x" not in given.get_all("sec-websocket-accept")
        assert "mesh-status" not in given
    async with connect(at(mesh, "/rooms/blue"), subprotocols=["v1"]) as ws:
        assert ws.subprotocol is None


async def test_pings_are_answered(mesh):
    async with connect(at(mesh, "/echo")) as ws:
        pong = await ws.ping()
        assert await asyncio.wait_for(pong, 5) >= 0


async def test_close_codes_cross_both_ways(mesh, service):
    async with connect(at(mesh, "/rooms/a")) as ws:
        await ws.recv()
        await ws.close(4321, "enough")
    await eventually(lambda: service.ended == [(4321, "enough")])
    for word, code, reason in (("close", 4001, "as asked"), ("fail", 1011, "failed"), ("forbid", 1011, "not here")):
        async with connect(at(mesh, "/rooms/a")) as ws:
            await ws.recv()
            await ws.send(word)
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert caught.value.rcvd.code == code
            assert reason in caught.value.rcvd.reason
    await eventually(lambda: service.open == 0)
    await eventually(lambda: len(mesh.gateway.streams) == len(mesh.instances[0].streams) == 0)


@pytest.mark.parametrize(("path", "status"), [("/denied", 401), ("/ignored", 403), ("/nowhere", 404), ("/plain", 400)])
async def test_a_handshake_that_is_refused_is_a_response(mesh, path, status):
    with pytest.raises(InvalidStatus) as caught:
        async with connect(at(mesh, path)):
            pass
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    assert caught.value.response.headers["x-request-id"]


async def test_a_plain_request_to_a_websocket_says_what_is_wanted(mesh):
    response = await mesh.http.get("/echo")
    assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
    assert response.json()["reason"] == "upgrade_required"


async def test_a_slow_reader_slows_the_sender(mesh, service):
    async with aiohttp.ClientSession() as session, session.ws_connect(at(mesh, "/rooms/a")) as ws:
        await ws.receive()
        await ws.send_str("flood")
        (stream,) = mesh.instances[0].streams._open.values()
        await eventually(lambda: stream.waits)
        assert stream._out.spent < 64 * 1024 * 1024
        assert (await ws.receive()).data == bytes(100_000)
        ws._response.connection.transport.abort()
    await eventually(lambda: service.open == 0)


async def test_a_client_that_vanishes_ends_the_handler(mesh, service):
    ws = await connect(at(mesh, "/rooms/a"))
    await ws.recv()
    ws.transport.abort()
    began = time.perf_counter()
    await eventually(lambda: service.open == 0)
    assert time.perf_counter() - began < 2
    assert service.ended
    await ws.wait_closed()


async def test_a_service_that_drains_sends_its_clients_elsewhere(mesh, service):
    async with connect(at(mesh, "/rooms/a")) as ws:
        await ws.recv()
        draining = asyncio.ensure_future(mesh.instances[0].drain())
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(ws.recv(), 10)
        assert caught.value.rcvd.code == 1012
    await draining
    assert service.ended[0][0] == 1012


async def test_a_gateway_that_drains_says_so_to_both(mesh, service):
    async with connect(at(mesh, "/rooms/a")) as ws:
        await ws.recv()
        draining = asyncio.ensure_future(mesh.gateway.drain())
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(ws.recv(), 10)
        assert caught.value.rcvd.code in (1001, 1012)
        await eventually(lambda: service.ended)
        assert service.ended[0][0] == 1001
    await draining


async def test_a_service_that_dies_closes_its_connections(nats_url, prefix):
    async with (
        Mesh(make(), nats_url=nats_url, prefix=prefix, settings={"drain_s": 0.1}) as mesh,
        connect(at(mesh, "/rooms/a")) as ws,
    ):
        await ws.recv()
        await mesh.instances[0].bus.aclose()
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(ws.recv(), 20)
        assert caught.value.rcvd.code == 1012


async def test_a_connection_that_lasts_too_long_is_ended(nats_url, prefix):
    async with (
        Mesh(make(), nats_url=nats_url, prefix=prefix, gateway={"stream_total_s": 0.3}) as mesh,
        connect(at(mesh, "/echo")) as ws,
    ):
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(ws.recv(), 10)
        assert caught.value.rcvd.code == 1000


async def test_middleware_may_refuse(nats_url, prefix):
    service = make()

    @service.middleware
    async def guard(request: Request, context: Context, call_next) -> Response:
        if request.header("x-key") != "right":
            return Response({"error": "key"}, 401)
        return await call_next(request, context)

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(at(mesh, "/echo")):
                pass
        assert caught.value.response.status_code == 401
        async with connect(at(mesh, "/echo"), additional_headers={"x-key": "right"}) as ws:
            await ws.send("in")
            assert await ws.recv() == "in"


async def test_the_access_log_has_one_line_for_a_connection(mesh, tmp_path):
    import json

    path = tmp_path / "access.log"
    with path.open("wb") as stream:
        mesh.gateway.access._stream, mesh.gateway.access.enabled = stream, True
        async with connect(at(mesh, "/echo")) as ws:
            await ws.send("12345")
            await ws.recv()
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
        mesh.gateway.access.flush()
        mesh.gateway.access.enabled = False
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["status"], line["route"], line["service"]) == (101, "/echo", "chat")
    assert (line["bytes_in"], line["bytes_out"]) == (5, 5)


async def test_declarations_that_cannot_be():
    from mesh import DeclarationError

    service = Service("wrong")
    with pytest.raises(DeclarationError, match="takes a WebSocket"):

        @service.websocket("/a")
        async def nothing() -> None: ...

    with pytest.raises(DeclarationError, match=r"handlers of websocket\(\) only"):

        @service.get("/b")
        async def get(ws: WebSocket) -> None: ...


async def test_wrong_codes_and_subprotocols_are_mistakes_of_the_handler(nats_url, prefix):
    service, raised = Service("wrong"), []

    @service.websocket("/a")
    async def handler(ws: WebSocket) -> None:
        for attempt in (
            lambda: ws.accept("unasked"),
            lambda: ws.accept(headers={"x": "a\r\nb: c"}),
            lambda: ws.close(1005),
            lambda: ws.close(999),
        ):
            try:
                await attempt()
            except ValueError as error:
                raised.append(str(error))
        await ws.accept()
        try:
            await ws.accept()
        except RuntimeError as error:
            raised.append(str(error))

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        async with connect(at(mesh, "/a")) as ws:
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert caught.value.rcvd.code == 1000
        assert len(raised) == 5


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = "Sec-WebSocket-Version: 13"


def handshake(*headers):
    return get("/echo", "Connection: Upgrade", "Upgrade: websocket", *headers)


NO_HANDSHAKES = {
    "no key": (handshake(VERSION), 400),
    "a key that is none": (handshake(VERSION, "Sec-WebSocket-Key: abc"), 400),
    "a short key": (handshake(VERSION, "Sec-WebSocket-Key: AAAA"), 400),
    "two keys": (handshake(VERSION, KEY, KEY), 400),
    "no version": (handshake(KEY), 426),
    "another version": (handshake(KEY, "Sec-WebSocket-Version: 8"), 426),
    "two versions": (handshake(KEY, VERSION, VERSION), 426),
    "a body": (handshake(KEY, VERSION, "Content-Length: 5") + b"hello", 400),
    "a body in chunks": (handshake(KEY, VERSION, "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "a frame behind it": (handshake(KEY, VERSION) + b"\x89\x80abcd", 400),
    "a request behind it": (handshake(KEY, VERSION) + get("/plain"), 400),
    "far more behind it": (handshake(KEY, VERSION) + bytes(100_000), 400),
}


@pytest.mark.parametrize("lane", ["direct", "asgi"])
@pytest.mark.parametrize("before", [b"", get("/plain")], ids=["alone", "behind a request"])
async def test_what_is_no_handshake_is_a_problem_and_ends_the_connection(nats_url, prefix, lane, before):
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, gateway={"http_lane": lane}) as mesh:
        for name, (request, expected) in NO_HANDSHAKES.items():
            *_, found = answers(await ask(mesh, before + request), *["GET"] * (2 if before else 1))
            check_refused(name, found, expected)


def check_refused(name, found, expected):
    status, headers, body = found
    assert (status, headers[b"connection"]) == (expected, b"close"), name
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["request_id"] == headers[b"x-request-id"].decode()
    if status == 426:  # RFC 6455 section 4.4
        assert (headers[b"sec-websocket-version"], headers[b"upgrade"]) == (b"13", b"websocket")


async def test_a_handshake_may_say_that_it_has_no_body(mesh):
    async with connect(at(mesh, "/echo"), additional_headers={"Content-Length": "0"}) as ws:
        await ws.send("a")
        assert await ws.recv() == "a"
