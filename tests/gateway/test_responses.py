"""Every way in which a request can end, on every lane: what its client, the access log and the metrics get of it."""

import asyncio
import io
import json
import logging
from collections import Counter

import pytest

from gateway import responses
from mesh import Event, Response, Service, WebSocket
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.test_framing import answers, ask, get

ORIGIN = "https://shop.test"
HANDSHAKE = [
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


def make():
    service = Service("shop")

    @service.get("/things")
    async def things() -> str:
        return "things"

    @service.get("/broken")
    async def broken() -> Response:
        return Response({"reason": "mine"}, 500)

    @service.get("/ticks")
    async def ticks():
        for number in range(1000):
            yield Event(str(number))

    @service.websocket("/socket")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()

    @service.websocket("/fails")
    async def fails(ws: WebSocket) -> None:
        raise RuntimeError("before it was accepted")

    return service


@pytest.fixture(params=["direct", "asgi", "websocket"])
def lane(request):
    return request.param


@pytest.fixture
async def mesh(nats_url, prefix, lane):
    settings = {"http_lane": "asgi" if lane == "asgi" else "direct", "cors_origins": (ORIGIN,)}
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        mesh.gateway.lifecycle.responses.draining = True
        yield mesh


@pytest.fixture
def log(mesh):
    """The lines of the access log so far."""
    access, stream = mesh.gateway.access, io.BytesIO()
    access._stream, access.enabled = stream, True

    def lines():
        access.flush()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield lines
    access.enabled = False


def crash(*_):
    raise RuntimeError("nobody expected this")


ENDS = {
    # What is asked for, and what must come of it: status, reason and origin in the access log, the label of the route.
    "ok": ("GET", "/things", 200, None, None, "/things"),
    "refusal": ("GET", "/nowhere", 404, "no_route", "gateway", "-"),
    "another method": ("DELETE", "/things", 405, "method_not_allowed", "gateway", "-"),
    "crash": ("GET", "/things", 500, "internal", "gateway", "-"),
    "service error": ("GET", "/broken", 500, "service_error", "service", "/broken"),
    "own path": ("GET", "/livez", 200, None, None, "/livez"),
    "refusal of an own path": ("POST", "/livez", 405, "method_not_allowed", "gateway", "/livez"),
    "preflight": ("OPTIONS", "/things", 204, None, None, "-"),
    "stream": ("GET", "/ticks", 200, None, None, "/ticks"),
}
HANDSHAKE_ENDS = {
    "ok": ("GET", "/socket", 101, None, None, "/socket"),
    "refusal": ("GET", "/nowhere", 404, "no_route", "gateway", "-"),
    "crash": ("GET", "/socket", 500, "internal", "gateway", "-"),
    "service error": ("GET", "/fails", 500, "service_error", "service", "/fails"),
    "own path": ("GET", "/livez", 200, None, None, "/livez"),
}


def check_head(head, status):
    """All that a response has: its request's id, CORS for an origin that is allowed, and the end of its connection."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    counts, given = Counter(name for name, _ in found), dict(found)
    assert first.split()[1] == b"%d" % status
    assert counts[b"x-request-id"] == counts[b"connection"] == counts[b"date"] == 1
    assert given[b"x-request-id"] == b"mine-1"
    assert given[b"connection"] == b"close"
    assert given[b"access-control-allow-origin"] == ORIGIN.encode()
    assert given[b"access-control-allow-credentials"] == b"true"
    assert given[b"vary"] == b"origin"


@pytest.mark.parametrize("end", ENDS)
async def test_every_end_has_all_that_a_response_has(mesh, lane, log, monkeypatch, end):
    if lane == "websocket" and end not in HANDSHAKE_ENDS:
        pytest.skip("a handshake cannot end so")
    method, path, status, reason, origin, route = (HANDSHAKE_ENDS if lane == "websocket" else ENDS)[end]
    if end == "crash":
        checks = mesh.gateway.lifecycle.checks
        monkeypatch.setattr(checks, "for_handshakes" if lane == "websocket" else "for_requests", [crash])
    headers = ["x-request-id: mine-1", f"Origin: {ORIGIN}", "Access-Control-Request-Method: GET"]
    if lane == "websocket":
        headers += HANDSHAKE
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get(path, *headers, method=method))
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        if status == 101:
            assert (await reader.readexactly(1)) == b"\x88"  # the frame that closes it
            assert head.lower().count(b"x-request-id: mine-1\r\n") == 1
            assert head.startswith(b"HTTP/1.1 101 ")
        else:
            if end == "stream":
                await reader.readuntil(b"999")
            else:
                body = await reader.read()
            check_head(head, status)
    if reason is not None and origin == "gateway":
        assert b"\r\ncontent-type: application/problem+json\r\n" in head
        assert b"\r\ncache-control: no-store\r\n" in head
        document = json.loads(body)
        assert (document["reason"], document["request_id"]) == (reason, "mine-1")
    writer.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
    (line,) = log()
    assert (line["status"], line["request_id"], line["method"]) == (status, "mine-1", method)
    if end != "stream":  # which its client may have left
        assert (line.get("reason"), line.get("origin")) == (reason, origin)
    assert line.get("route", "-") == route
    metrics = "\n".join(mesh.gateway.metrics.lines())
    assert f'mesh_gateway_requests_total{{method="{method}",route="{route}",status="{status}"}} 1' in metrics
    if reason is not None:
        assert f'mesh_gateway_errors_total{{reason="{reason}"}} 1' in metrics
    assert not mesh.gateway.lifecycle.limits._inflight
    await eventually(lambda: len(mesh.gateway.streams) == 0)


@pytest.mark.parametrize("lane", ["direct", "asgi"], indirect=True)
@pytest.mark.parametrize("path", ["/things", "/nowhere", "/livez"])
async def test_a_connection_stays_open_where_nothing_ends_it(mesh, path):
    mesh.gateway.lifecycle.responses.draining = False
    found = answers(await ask(mesh, get(path) * 2 + get(path, "Connection: close")), "GET", "GET", "GET")
    assert [headers.get(b"connection") for _, headers, _ in found] == [None, None, b"close"]


async def test_no_cors_for_other_origins(mesh, lane):
    upgrade = HANDSHAKE if lane == "websocket" else []
    ((status, headers, _),) = answers(await ask(mesh, get("/nowhere", "Origin: https://evil.test", *upgrade)), "GET")
    assert status == (403 if lane == "websocket" else 404)  # a page must not open a WebSocket at all
    assert b"access-control-allow-origin" not in headers
    assert headers[b"vary"] == b"origin"


async def test_a_crash_is_logged_with_its_request_id(mesh, lane, monkeypatch, caplog):
    monkeypatch.setattr(mesh.gateway.live_routes, "table", None)
    upgrade = HANDSHAKE if lane == "websocket" else []
    await ask(mesh, get("/things", "x-request-id: look-here", *upgrade))
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.request_id, record.exc_info[0]) == ("look-here", AttributeError)


@pytest.mark.parametrize("lane", ["direct", "asgi"], indirect=True)
@pytest.mark.parametrize("path", ["/things", "/ticks"])
async def test_a_reply_that_cannot_be_translated_is_abandoned(mesh, log, monkeypatch, path):
    for name in ("response", "ResponseHeads.render"):
        monkeypatch.setattr(f"gateway.responses.{name}", crash)
    ((status, headers, body),) = answers(await ask(mesh, get(path, f"Origin: {ORIGIN}")), "GET")
    assert (status, json.loads(body)["reason"]) == (500, "internal")
    assert headers[b"x-request-id"] == json.loads(body)["request_id"].encode()
    assert headers[b"access-control-allow-origin"] == ORIGIN.encode()
    assert headers[b"connection"] == b"close"
    await eventually(lambda: len(mesh.gateway.streams) == 0 == len(mesh.instances[0].streams))
    (line,) = log()
    assert (line["status"], line["reason"], line["route"]) == (500, "internal", path)
    assert (line["instance"], line["attempts"]) == (mesh.instances[0].id, 1)


@pytest.mark.parametrize("lane", ["asgi"], indirect=True)
async def test_a_crash_in_the_middle_of_a_response_cuts_it_off(mesh, log, monkeypatch):
    monkeypatch.setattr("gateway.asgi_lane.send_stream", crash)
    data = await ask(mesh, get("/ticks"))
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"HTTP/1.1") == 1
    await eventually(lambda: len(mesh.gateway.streams) == 0 == len(mesh.instances[0].streams))
    (line,) = log()
    assert (line["status"], line["reason"], line["origin"]) == (200, "internal", "gateway")


@pytest.mark.parametrize("lane", ["websocket"], indirect=True)
async def test_a_crash_of_an_open_websocket_closes_it(mesh, log, monkeypatch):
    monkeypatch.setattr("gateway.websocket_relay.WebSocketRelay.run", crash)
    data = await ask(mesh, get("/socket", *HANDSHAKE))
    assert data.startswith(b"HTTP/1.1 101 ")
    assert data.partition(b"\r\n\r\n")[2][:4] == b"\x88" + bytes([data.partition(b"\r\n\r\n")[2][1]]) + b"\x03\xf3"
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
    (line,) = log()
    assert (line["status"], line["reason"], line["origin"]) == (101, "internal", "gateway")


FRAMING = {
    "no method": (b"nonsense\r\n\r\n", 400, False),
    "two hosts": (get("/things", "Host: other", f"Origin: {ORIGIN}"), 400, True),
    "a bad chunk": (
        get("/things", "Transfer-Encoding: chunked", f"Origin: {ORIGIN}", method="POST") + b"no number\r\n",
        400,
        True,
    ),
    "no handshake": (get("/socket", *HANDSHAKE[:3], f"Origin: {ORIGIN}"), 400, True),
}


@pytest.mark.parametrize("lane", ["direct", "asgi"], indirect=True)
@pytest.mark.parametrize("name", FRAMING)
async def test_refused_framing_ends_in_the_same_way(mesh, log, name):
    request, expected, has_origin = FRAMING[name]
    # A request before it has an origin of its own.
    mesh.gateway.lifecycle.responses.draining = False
    before = get("/nowhere", f"Origin: {ORIGIN}")
    _, (status, headers, body) = answers(await ask(mesh, before + request), "GET", "GET")
    assert (status, headers[b"connection"]) == (expected, b"close")
    assert headers[b"x-request-id"] == json.loads(body)["request_id"].encode()
    assert (headers.get(b"access-control-allow-origin") == ORIGIN.encode()) is has_origin
    assert headers[b"vary"] == b"origin"
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
    [line] = [line for line in log() if line["method"] == "-"]
    assert (line["status"], line["origin"]) == (expected, "gateway")
    assert line["request_id"] == headers[b"x-request-id"].decode()


def test_x_request_id_is_written_in_one_place():
    """Both forms of a response come from `gateway.responses`."""
    from pathlib import Path

    folder = Path(responses.__file__).parent
    writers = {path.name for path in folder.glob("*.py") if 'b"x-request-id", request.request_id' in path.read_text()}
    assert writers == {"responses.py"}
