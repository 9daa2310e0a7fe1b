"""HTTP framing at the gateway's socket: one table, on both lanes. What is one request, where it ends, what is none."""

import asyncio
import contextlib
import json

import h11
import pytest

from gateway.http_connection import SLICE
from mesh import Request, Response, Service
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.memory import Client, Peer

HOST = b"Host: mesh.test\r\n"


class Hung:
    """What the handler that never ends on its own tells."""

    def __init__(self):
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()


def frames(hung):
    service = Service("frames")

    @service.route("*", "/echo/{name}")
    async def echo(name: str, request: Request) -> Response:
        seen = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in request.pairs]
        document = {"name": name, "method": request.method, "target": request.target, "headers": seen}
        return Response({**document, "body": request.body.decode("latin-1")})

    @service.get("/hang")
    async def hang() -> None:
        hung.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            hung.cancelled.set()

    @service.get("/early")
    async def early() -> Response:
        return Response("hints", 103)

    @service.get("/endless")
    async def endless():
        while True:
            yield bytes(60_000)

    @service.get("/large")
    async def large() -> bytes:
        return bytes(30_000_000)

    service.silent = 0

    @service.get("/silent")
    async def silent():
        service.silent += 1
        try:
            yield b"begins"
            await asyncio.Event().wait()
        finally:
            service.silent -= 1

    @service.get("/lines")
    async def lines():
        yield b"one\n"
        yield b"two\n"

    return service


@pytest.fixture(params=["direct", "asgi"])
def lane(request):
    return request.param


@pytest.fixture
def hung():
    return Hung()


@pytest.fixture
async def mesh(nats_url, prefix, lane, hung):
    # Deadlines that no test but those of slowness meets.
    settings = {"http_lane": lane, "head_s": 60, "body_idle_s": 60}
    async with Mesh(frames(hung), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


async def ask(mesh, *pieces, end=False):
    """Everything that comes back on one connection until it is closed, or as soon as all requests are answered.

    Each piece is sent when what is answered before has been read; ``end`` closes our half of the connection then.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port, limit=1 << 24)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def answers(data, *methods):
    """The responses in ``data``, which must be whole ones and nothing more: (status, headers, body) of each."""
    found = []
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        if not data:
            break
        client.receive_data(b"")
        status, headers, body = 0, {}, b""
        while True:
            event = client.next_event()
            if isinstance(event, h11.InformationalResponse):
                found.append((event.status_code, {}, b""))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        assert isinstance(event, h11.EndOfMessage), (event, data[:300])
        found.append((status, headers, body))
        data = client.trailing_data[0]
    assert not data, data[:300]
    return found


def get(path, *headers, method="GET", version="1.1", host=HOST):
    return b"%b %b HTTP/%b\r\n%b%b\r\n" % (
        method.encode(),
        path.encode(),
        version.encode(),
        host,
        b"".join(header.encode("latin-1") + b"\r\n" for header in headers),
    )


LAST = get("/echo/last", "Connection: close")
"""Ends the connection, so that everything before it can be read to the end."""


async def test_one_after_the_other_and_pipelined(mesh):
    requests = [get(f"/echo/{i}") for i in range(5)]
    for pieces in ([*requests, LAST], [b"".join([*requests, LAST])]):
        found = answers(await ask(mesh, *pieces), *["GET"] * 6)
        assert [status for status, _, _ in found] == [200] * 6
        assert [json.loads(body)["name"] for _, _, body in found] == ["0", "1", "2", "3", "4", "last"]
        assert b"connection" not in found[0][1]
        assert found[-1][1][b"connection"] == b"close"


async def test_a_pipeline_of_all_kinds_is_answered_in_order(mesh):
    chunked = get("/echo/chunked", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n"
    kinds = [
        ("GET", get("/echo/a"), 200),
        ("GET", get("/livez"), 200),
        ("HEAD", get("/echo/b", method="HEAD"), 200),
        ("GET", get("/nowhere"), 404),
        ("POST", chunked, 200),
        ("GET", get("/lines"), 200),
        ("POST", get("/echo/c", "Content-Length: 4", method="POST") + b"body", 200),
        ("OPTIONS", get("/lines", method="OPTIONS"), 204),
        ("DELETE", get("/lines", method="DELETE"), 405),
        ("GET", LAST, 200),
    ]
    found = answers(await ask(mesh, b"".join(raw for _, raw, _ in kinds)), *[method for method, _, _ in kinds])
    assert [status for status, _, _ in found] == [status for _, _, status in kinds]
    assert found[2][2] == b""
    assert int(found[2][1][b"content-length"]) > 0
    assert json.loads(found[4][2])["body"] == "abc"
    assert found[5][2] == b"one\ntwo\n"
    assert json.loads(found[6][2])["body"] == "body"


async def test_thousands_in_one_piece_are_answered_and_hold_nothing(mesh):
    number = 5000
    data = await ask(mesh, get("/echo/first") + get("/nowhere") * number + LAST)
    assert data.count(b"HTTP/1.1 404 ") == number
    assert data.count(b"HTTP/1.1 200 ") == 2
    assert mesh.gateway.lifecycle.inflight == 0


async def test_wherever_the_stream_is_cut(mesh):
    stream = (
        get("/echo/a?x=1", "X-A: b")
        + get("/echo/b", "Content-Length: 5", method="POST")
        + b"12345"
        + get("/echo/c", "Transfer-Encoding: chunked", method="PUT")
        + b"2;a=b\r\nxy\r\n1\r\nz\r\n0\r\nT: u\r\n\r\n"
        + LAST
    )
    clients = []
    for cut in range(1, len(stream)):
        clients.append(client := Client(mesh))
        client.send(stream[:cut], stream[cut:])
    await eventually(lambda: all(client.wire.closed for client in clients))
    for client in clients:
        found = answers(client.wire.sent, "GET", "POST", "PUT", "GET")
        assert [status for status, _, _ in found] == [200] * 4
        assert [json.loads(body)["body"] for _, _, body in found] == ["", "12345", "xyz", ""]
    for client in clients:
        client.close()


REFUSED = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /echo/a\r\n\r\n",
    "a version that is none": get("/echo/a", version="1.x"),
    "bare line feeds": b"GET /echo/a HTTP/1.1\nHost: x\n\n",
    "a bare line feed after one header": b"GET /echo/a HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n",
    "a line that goes on in the next (obs-fold)": get("/echo/a", "X-A: b\r\n c"),
    "a blank before the colon": get("/echo/a", "X-A : b"),
    "a name that is no token": get("/echo/a", "X(A): b"),
    "no name": get("/echo/a", ": b"),
    "NUL in a value": get("/echo/a", "X-A: b\0c"),
    "a carriage return in a value": get("/echo/a", "X-A: b\rc"),
    "no host": get("/echo/a", host=b""),
    "two hosts": get("/echo/a", "Host: other.test"),
    "two lengths that differ": get("/echo/a", "Content-Length: 4", "Content-Length: 5", method="POST") + b"abcde",
    "two lengths alike": get("/echo/a", "Content-Length: 5", "Content-Length: 5", method="POST") + b"abcde",
    "a list of lengths": get("/echo/a", "Content-Length: 5, 5", method="POST") + b"abcde",
    "a length with a sign": get("/echo/a", "Content-Length: +5", method="POST") + b"abcde",
    "a negative length": get("/echo/a", "Content-Length: -5", method="POST") + b"abcde",
    "a hexadecimal length": get("/echo/a", "Content-Length: 0x5", method="POST") + b"abcde",
    "an endless length": get("/echo/a", "Content-Length: 99999999999999999999999", method="POST"),
    "length and chunks": get("/echo/a", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST")
    + b"0\r\n\r\n",
    "chunks and length": get("/echo/a", "Transfer-Encoding: chunked", "Content-Length: 5", method="POST")
    + b"0\r\n\r\n",
    "an encoding that hides the length": get("/echo/a", "Transfer-Encoding: gzip", method="POST") + b"x",
    "chunked, but not at last": get("/echo/a", "Transfer-Encoding: chunked, gzip", method="POST") + b"0\r\n\r\n",
    "nearly chunked": get("/echo/a", "Transfer-Encoding: xchunked", method="POST") + b"0\r\n\r\n",
    "a chunk size that is none": get("/echo/a", "Transfer-Encoding: chunked", method="POST") + b"zz\r\nab\r\n0\r\n\r\n",
    "a chunk longer than its size": get("/echo/a", "Transfer-Encoding: chunked", method="POST")
    + b"2\r\nabc\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": get("/echo/a", "Transfer-Encoding: chunked", method="POST") + b"2\nab\n0\n\n",
    "a fragment": get("/echo/a#f"),
    "an empty fragment": get("/echo/a?x=#"),
    "a host with a blank": get("/echo/a", host=b"Host: a b\r\n"),
    "a host with a path": get("/echo/a", host=b"Host: a/b\r\n"),
    "a host with a user": get("/echo/a", host=b"Host: a@b\r\n"),
    "a host in quotes": get("/echo/a", host=b'Host: "a"\r\n'),
    "a host with a port that is none": get("/echo/a", host=b"Host: a:99999\r\n"),
    "a host with two ports": get("/echo/a", host=b"Host: a:1:2\r\n"),
    "a URL as a host": get("/echo/a", host=b"Host: http://a/\r\n"),
    "a host that is not ASCII": get("/echo/a", host=b"Host: \xff\r\n"),
    "an open bracket": get("/echo/a", host=b"Host: [::1\r\n"),
    "two hosts in one": get("/echo/a", host=b"Host: a, b\r\n"),
    "another host in the target": get("http://other.test/echo/a"),
    "another port in the target": get("http://mesh.test:81/echo/a"),
    "a user in the target": get("http://a@mesh.test/echo/a"),
    "a URL of another scheme": get("ftp://mesh.test/echo/a"),
    "a URL without a host": get("http:///echo/a"),
    "a WebSocket of HTTP/1.0": get(
        *("/echo/a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        version="1.0",
    ),
    "a WebSocket that is a POST": get(
        *("/echo/a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        method="POST",
    ),
    "a tunnel": get("mesh.test:443", method="CONNECT"),
    "a method that nobody has": get("/echo/a", method="A" * 5000),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_request_is_400_and_ends_the_connection(mesh, name):
    found = answers(await ask(mesh, REFUSED[name] + LAST), "GET")
    assert [status for status, _, _ in found] == [400]
    _, headers, body = found[0]
    assert headers[b"connection"] == b"close"
    problem = json.loads(body)
    assert problem["reason"] in ("bad_request", "bad_target")
    assert problem["executed"] == "no"
    assert problem["request_id"] == headers[b"x-request-id"].decode()


@pytest.mark.parametrize("codings", [["gzip, chunked"], ["x", "chunked"], ["identity, chunked"]], ids=str)
async def test_a_coding_that_nobody_undoes_is_501(mesh, codings):
    headers = [f"Transfer-Encoding: {coding}" for coding in codings]
    request = get("/echo/a", *headers, method="POST") + b"3\r\nabc\r\n0\r\n\r\n"
    ((status, headers, body),) = answers(await ask(mesh, request + LAST), "POST")
    assert (status, json.loads(body)["reason"], headers[b"connection"]) == (501, "not_implemented", b"close")


@pytest.mark.parametrize(
    "host", ["", "a", "a:", "a:80", "A.b-c_d", "127.0.0.1:8080", "[::1]", "[::1]:80", "a%20b", "~!$&'()*+;="]
)
async def test_a_valid_host_is_taken(mesh, host):
    request = get("/echo/a", "Connection: close", host=f"Host: {host}\r\n".encode())
    ((status, _, _),) = answers(await ask(mesh, request), "GET")
    assert status == 200


async def test_a_target_in_absolute_form_is_the_path_in_it(mesh):
    requests = {
        "http://mesh.test/echo/a?x=1": "/echo/a?x=1",
        "HTTP://MESH.test/echo/a": "/echo/a",
        "https://mesh.test/echo/a?": "/echo/a",
    }
    found = answers(await ask(mesh, b"".join(map(get, requests)) + LAST), *["GET"] * 4)
    assert [json.loads(body)["target"] for _, _, body in found[:-1]] == list(requests.values())
    # Without a header, as HTTP/1.0 allows, the target says which host it is.
    ((status, _, body),) = answers(await ask(mesh, get("http://a.test/echo/a", version="1.0", host=b"")), "GET")
    assert status == 200
    assert ["host", "a.test"] in json.loads(body)["headers"]
    ((status, _, _),) = answers(await ask(mesh, get("http://mesh.test", "Connection: close")), "GET")
    assert status == 404


@pytest.mark.parametrize("zeros", [1, 5000])
async def test_a_length_of_many_digits_is_what_it_says(mesh, zeros):
    length = "0" * zeros + "4"
    request = get("/echo/a", f"Content-Length: {length}", method="POST") + b"body"
    found = answers(await ask(mesh, request + LAST), "POST", "GET")
    assert [status for status, _, _ in found] == [200, 200]
    assert json.loads(found[0][2])["body"] == "body"


async def test_a_request_whose_body_comes_behind_an_answer_is_answered(mesh, hung):
    """Its head came with the request before it, its body comes when that is answered."""
    head = get("/echo/b", "Content-Length: 10", "Connection: close", method="POST")
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/echo/a") + head)
    async with asyncio.timeout(20):
        assert b" 200 " in await reader.readline()
        writer.write(b"0123456789")
        assert (await reader.read()).endswith(b'"body":"0123456789"}')
    writer.close()


async def test_who_leaves_before_the_body_of_a_waiting_request_leaves_nothing(mesh):
    waiting = get("/echo/a") + get("/echo/b", "Content-Length: 10", method="POST")
    state = mesh.gateway._listeners[0].server_state
    for number in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        writer.write(waiting + b"01234"[: number % 5])
        assert b" 200 " in await reader.readline()
        writer.close()
    await eventually(lambda: (mesh.gateway.lifecycle.inflight, len(state.connections), len(state.tasks)) == (0, 0, 0))


async def test_the_body_of_a_waiting_request_has_a_deadline(nats_url, prefix, lane, hung):
    settings = {"http_lane": lane, "head_s": 60, "body_idle_s": 0.2}
    async with Mesh(frames(hung), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        found = answers(
            await ask(mesh, get("/echo/a") + get("/echo/b", "Content-Length: 10", method="POST") + b"abc"),
            "GET",
            "POST",
        )
        assert [status for status, _, _ in found] == [200, 408]
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_a_waiting_request_that_turns_out_broken_is_refused_in_its_place(mesh):
    broken = get("/echo/b", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\nzz\r\n"
    found = answers(await ask(mesh, get("/echo/1") + get("/echo/2") + broken + LAST), "GET", "GET", "POST")
    assert [status for status, _, _ in found] == [200, 200, 400]
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Role", "Host", "X-Request-Id", "TE"])
async def test_trailers_are_no_headers(mesh, name):
    """Who passes requests on checks or removes headers by name, and does not look at trailers."""
    head = get("/echo/a", "Transfer-Encoding: chunked", "Connection: close", method="POST")
    body = b"3\r\nabc\r\n0\r\n%b: forged\r\n\r\n" % name.encode()
    for pieces in ([head + body], [head, body], [head + body[:-2], b"\r\n"]):
        ((status, _, answer),) = answers(await ask(mesh, *pieces), "POST")
        assert status == 200
        assert "forged" not in answer.decode()


@pytest.mark.parametrize(
    "trailer",
    ["Connection: close", "connection: keep-alive", "Proxy-Connection: close", "Upgrade: x", "Content-Length: 5"],
)
@pytest.mark.parametrize("path", ["/echo/a", "/nowhere", "/livez"])
async def test_a_trailer_does_not_change_how_the_connection_goes_on(mesh, path, trailer):
    """The parser obeys it, and would drop all that follows without a word: nobody would answer the next request."""
    request = get(path, "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n"
    trailers = b"X-A: b\r\n%b\r\n\r\n" % trailer.encode()
    ((status, headers, _),) = answers(await ask(mesh, request + trailers + LAST), "POST")
    assert (status, headers[b"connection"]) == (400, b"close")
    # Where the answer is out before the trailer comes, the connection ends.
    client = Client(mesh)
    client.send(request)
    if path != "/echo/a":
        await client.answer()
        client.send(trailers)
        assert client.wire.closed
        assert client.wire.sent == b""
    client.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize(
    "last",
    [
        get("/echo/a", "Connection: close"),
        get("/nowhere", "Connection: close"),
        get("/livez", "Connection: close"),
        get("/echo/a", version="1.0"),
        get("/echo/a", "Connection: keep-alive", version="1.0"),
        get("/nowhere", "Connection: Upgrade", "Upgrade: h2c"),
        get("/echo/a", method="CONNECT"),
        get("/nowhere", method="CONNECT"),
        get("/nowhere", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 1", method="POST") + b"a",
        get("/nowhere", "Transfer-Encoding: chunked", "Connection: close", method="POST") + b"1\r\na\r\n0\r\n\r\n",
    ],
)
async def test_after_the_last_request_the_connection_ends(mesh, last):
    """And never stays open with nobody who reads what comes, however late that is."""
    method = "POST" if last.startswith(b"POST") else "GET"  # a success of CONNECT has no end for h11
    for pieces in ([last], [last + LAST], [last[:-1], last[-1:]], [last, LAST * 1000]):
        ((status, headers, _),) = answers(await ask(mesh, *pieces), method)
        assert status in (200, 404)
        assert headers[b"connection"] == b"close"
    client = Client(mesh)
    client.send(last[:-1])
    await asyncio.sleep(0)
    client.send_more(last[-1:])
    await eventually(lambda: client.wire.closed)
    client.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"a" * 100, b"a: " + b"b" * 100], ids=["lines", "name", "value"])
async def test_trailers_without_end_are_431(mesh, trailer):
    """As are chunk sizes that go on and on."""
    head = get("/echo/a", "Transfer-Encoding: chunked", method="POST")
    for start in (b"3\r\nabc\r\n0\r\n" + trailer[:3], b"3;"):
        client = Client(mesh)
        client.send(head + start)
        sent = 0
        while not client.wire.closed:
            client.connection.data_received(trailer * 50)
            sent += len(trailer) * 50
            assert sent < 100_000
        ((status, _, _),) = answers(client.wire.sent, "POST")
        assert status in (400, 431)
        assert status == 431 or start == b"3;"
        client.close()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_requests_that_wait_are_not_read_ahead(mesh, hung):
    """A request that waits takes thirty times the bytes that it came in."""
    peer = Peer(mesh, [get("/hang"), b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 20_000])
    await hung.started.wait()
    await eventually(lambda: not peer.reads)
    assert len(peer.connection.pipeline) <= SLICE // 20
    peer.close()
    await peer.ended.wait()
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_an_error_does_not_overtake_the_answers_before_it(mesh, hung):
    found = answers(await ask(mesh, get("/echo/1") + get("/echo/2") + b"GARBAGE\r\n\r\n"), "GET", "GET", "GET")
    assert [status for status, _, _ in found] == [200, 200, 400]


@pytest.mark.parametrize(
    ("request_", "status", "closed"),
    {
        "a long target": (get("/echo/a?" + "q" * 9000), 414, False),
        "a target without end": (b"GET /" + b"a" * 300_000, 414, True),
        "a target of 100 KB": (get("/echo/" + "a" * 100_000), 414, True),
        "a large header": (get("/echo/a", "X-A: " + "b" * 33_000), 431, False),
        "many headers": (get("/echo/a", *[f"X-{i}: b" for i in range(120)]), 431, False),
        "a header without end": (get("/echo/a")[:-2] + b"X-A: " + b"b" * 300_000, 431, True),
        "headers without end": (get("/echo/a")[:-2] + b"X-A: b\r\n" * 50_000, 431, True),
    }.values(),
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
async def test_what_is_too_large(mesh, request_, status, closed):
    found = answers(await ask(mesh, request_ if closed else request_ + LAST), *["GET"] * (1 if closed else 2))
    assert found[0][0] == status
    assert json.loads(found[0][2])["reason"] == ("target_too_long" if status == 414 else "headers_too_large")


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n" + LAST,
        LAST.replace(b"GET /", b"GET http://mesh.test/"),
        get("/echo/last?a=b", "connection: Close"),
        get("/echo/last", version="1.0"),
        get("/echo/last", version="1.0", host=b""),
        get("/echo/last", "Connection: keep-alive, X-A", "X-A: b", "X-Last: 1", "Connection: close"),
        get("/echo/last", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        get("/echo/last", "Expect: something-else", "Connection: close"),
        get("/echo/last", "Content-Length: 0", "Connection: close"),
        get("/echo/last", "Accept:", "X-A:\t b \t", "Connection: close"),
    ],
)
async def test_unusual_but_sound(mesh, request_):
    ((status, headers, body),) = answers(await ask(mesh, request_), "GET")
    assert status == 200
    assert headers[b"connection"] == b"close"
    seen = json.loads(body)
    assert seen["name"] == "last"
    assert "h2c" not in str(seen["headers"])
    if b"keep-alive, X-A" in request_:
        assert not any(name == "x-a" for name, _ in seen["headers"])
        assert ["x-last", "1"] in seen["headers"]


@pytest.mark.parametrize(
    "target", ["//echo/a", "/echo/a?", "/echo/a?b?c=/d", "/echo/a;b", "/echo/%61?x=%20", "/echo/a|b"]
)
async def test_a_target_crosses_as_it_is(mesh, target):
    ((status, _, body),) = answers(await ask(mesh, get(target, "Connection: close")), "GET")
    if target.startswith("//"):
        assert status == 404
    else:
        assert status == 200
        assert json.loads(body)["target"] == target.removesuffix("?")


async def test_head_has_the_length_and_no_body(mesh):
    found = answers(await ask(mesh, get("/echo/a", method="HEAD") + LAST), "HEAD", "GET")
    assert [status for status, _, _ in found] == [200, 200]
    assert int(found[0][1][b"content-length"]) > 0


async def test_a_service_cannot_send_an_interim_response(mesh):
    found = answers(await ask(mesh, get("/early") + LAST), "GET", "GET")
    assert [status for status, _, _ in found] == [502, 200]


async def test_continue_is_sent_for_a_body_that_is_wanted_only(mesh):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    head = get("/echo/a", "Expect: 100-continue", "Content-Length: 4", "Connection: close", method="POST")
    writer.write(head)
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        ((status, _, body),) = answers(await reader.read(), "POST")
    assert status == 200
    assert json.loads(body)["body"] == "body"
    writer.close()
    found = answers(await ask(mesh, head.replace(b"/echo/a", b"/nowhere"), b"body"), "POST")
    assert [status for status, _, _ in found] == [404]


async def test_a_client_of_http_1_0_is_told_nothing_before_its_answer(mesh):
    """It takes an interim response for the answer (RFC 9110 section 15.2)."""
    head = get("/echo/a", "Expect: 100-continue", "Content-Length: 4", method="POST", version="1.0")
    ((status, _, body),) = answers(await ask(mesh, head + b"body"), "POST")
    assert (status, json.loads(body)["body"]) == (200, "body")
    client = Client(mesh)
    client.send(head)
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 1)
    client.send_more(b"body")
    assert [status for status, _ in await client.answer()] == [200]
    client.close()


async def test_a_stream_for_a_client_of_http_1_0_ends_with_the_connection(mesh):
    data = await ask(mesh, get("/lines", version="1.0"))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"one\ntwo\n"


async def test_a_client_that_closes_its_half_gets_what_comes_at_once(mesh):
    requests = [get("/echo/1"), get("/lines"), get("/echo/2", "Content-Length: 4", method="POST") + b"body"]
    found = answers(await ask(mesh, b"".join(requests), end=True), "GET", "GET", "POST")
    assert [status for status, _, _ in found] == [200, 200, 200]
    assert found[-1][1][b"connection"] == b"close"
    assert len(answers(await ask(mesh, requests[0] + requests[2][:-2], end=True), "GET")) == 1
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_a_client_that_closes_its_half_has_gone(mesh, hung):
    """It may have, and what takes longer is not done for nobody."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/hang"))
    async with asyncio.timeout(10):
        await hung.started.wait()
        writer.write_eof()
        assert await reader.read() == b""
        await hung.cancelled.wait()
    writer.close()
    assert await ask(mesh, get("/echo/a", "Content-Length: 10", method="POST") + b"abc", end=True) == b""
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_headers_and_bodies_that_take_too_long(nats_url, prefix, lane, hung):
    settings = {"http_lane": lane, "head_s": 0.2, "body_idle_s": 0.2}
    async with Mesh(frames(hung), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        slow = [
            ask(mesh, get("/echo/a")[:-2]),
            ask(mesh, get("/echo/a") + b"GET /echo"),
            ask(mesh, get("/echo/a", "Content-Length: 9", method="POST") + b"abc"),
            ask(mesh, get("/echo/a", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab"),
            ask(mesh, get("/echo/a", "Content-Length: 9000000", method="POST") + b"abc"),
        ]
        head, after, body, chunk, stream = await asyncio.gather(*slow)
        for data in (head, body, chunk, stream):
            ((status, headers, _),) = answers(data, "GET")
            assert (status, headers[b"connection"]) == (408, b"close")
        assert [status for status, _, _ in answers(after, "GET", "GET")] == [200, 408]
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


async def test_who_leaves_a_stream_with_a_request_behind_it_is_noticed(mesh, hung):
    """Nothing is read then, and a stream that is silent writes nothing either."""
    service = mesh.instances[0].service
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(get("/silent") + get("/echo/a") * 2)
    assert b" 200 " in await reader.readline()
    assert service.silent == 1
    writer.close()
    await eventually(lambda: service.silent == mesh.gateway.lifecycle.inflight == 0)


async def test_who_takes_nothing_of_an_answer_is_given_up(mesh, monkeypatch):
    monkeypatch.setattr("gateway.slow_clients.STALLED_S", 0.5)
    state = mesh.gateway._listeners[0].server_state
    for last in (get("/endless"), get("/endless") + get("/echo/a"), get("/large", "Connection: close")):
        _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port, limit=1000)
        writer.transport.pause_reading()
        writer.write(last)
        await eventually(lambda: state.connections)
        await eventually(lambda: (mesh.gateway.lifecycle.inflight, len(state.connections)) == (0, 0), timeout=30)
        writer.transport.abort()


async def test_who_does_not_read_his_answers_is_not_read_either(mesh):
    """The gateway holds no more for such a client than the answers to what it has let in."""
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port, limit=1000)
    request, sent = get("/echo/" + "x" * 4000), 0
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(1.5):
            while sent < 200_000_000:
                writer.write(request * 100)
                sent += len(request) * 100
                await writer.drain()
    assert sent < 100_000_000
    assert mesh.gateway.lifecycle.inflight <= 1
    (connection,) = mesh.gateway._listeners[0].server_state.connections
    assert len(connection.pipeline) < 2000
    assert connection.transport.get_write_buffer_size() < 1_000_000
    writer.transport.abort()
    await eventually(lambda: not mesh.gateway._listeners[0].server_state.connections)
