"""The sidecar of services that only speak HTTP: nothing of theirs changes on the way."""

import asyncio
import contextlib
import json
import shutil
import socket
import sys

import httpx
import pytest
from aiohttp import web
from multidict import CIMultiDict
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh import DeclarationError
from mesh.bridge import Bridge, parse_routes, routes_of_openapi
from mesh.bridge.proxy import Proxy
from mesh.embedded import free_port
from mesh.testing import Mesh
from tests.adapters.fastapi_app import app as fastapi_app
from tests.adapters.test_parity import FASTAPI, compare, under_uvicorn
from tests.conditions import eventually
from tests.failures.wires import HttpWire
from tests.processes import answers, gateway_for, run
from tests.servers import server, tcp_server


def address(listening):
    """The address of a server as `--to` takes it."""
    return f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def bridged(nats_url, mesh_prefix, to, **options):
    bridge = Bridge(to, name="other", **options)
    service = await bridge.open()
    try:
        async with Mesh(service, nats_url=nats_url, prefix=mesh_prefix) as mesh:
            yield mesh
    finally:
        await bridge.aclose()


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID:UserWarning")
async def test_nothing_changes_on_the_way(nats_url, prefix, monkeypatch):
    """The same table as for the adapter; routes are found in the application's OpenAPI document."""
    table = [row for row in FASTAPI if not row[1].startswith("/sub")]
    headers = {"host": "shop.example", "user-agent": "test"}
    tail = "GET /files/{path:path}"  # OpenAPI has no word for a parameter of several segments
    async with (
        under_uvicorn(fastapi_app) as url,
        bridged(nats_url, prefix, url, openapi="/openapi.json", routes=[tail], encoded_slashes=True) as mesh,
        httpx.AsyncClient(base_url=url, headers=headers) as direct,
        httpx.AsyncClient(base_url=mesh.url, headers=headers) as through,
    ):
        await compare(direct, through, table, monkeypatch)
        item = next(r for r in mesh.instances[0].service.announced_routes() if r.path == "/items/{item_id}")
        assert (item.summary, item.tags, item.deprecated) == ("One thing", ("items",), True)


async def test_streams_flow_and_who_goes_is_gone(nats_url, prefix):
    go, left = asyncio.Event(), asyncio.Event()

    async def events(request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        try:
            await go.wait()
            await response.write(b"data: 2\n\n")
            await asyncio.sleep(3600)
        finally:
            left.set()
        return response

    async def hang(request):
        try:
            await asyncio.sleep(3600)
        finally:
            left.set()

    async with (
        server(web.get("/events", events), web.get("/hang", hang)) as url,
        bridged(nats_url, prefix, url, routes=["GET /events", "GET /hang"]) as mesh,
    ):
        async with mesh.http.stream("GET", "/events") as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "data: 1"
            go.set()
            assert [await anext(lines) for _ in range(2)] == ["", "data: 2"]
        await asyncio.wait_for(left.wait(), 10)
        left.clear()
        with pytest.raises(httpx.ReadTimeout):
            await mesh.http.get("/hang", timeout=0.3)
        await asyncio.wait_for(left.wait(), 10)
        await eventually(lambda: mesh.instances[0].dispatcher.inflight == 0)


async def test_websockets(nats_url, prefix):
    async def echo(request):
        if request.query.get("no"):
            raise web.HTTPUnauthorized
        ws = web.WebSocketResponse(protocols=("v1",))
        await ws.prepare(request)
        async for message in ws:
            if message.data == "bye":
                await ws.close(code=4002, message=b"so long")
            elif message.type is web.WSMsgType.TEXT:
                await ws.send_str(message.data + "!")
            else:
                await ws.send_bytes(message.data[::-1])
        codes.append(ws.close_code)
        return ws

    codes = []
    async with (
        server(web.get("/echo/{room}", echo)) as url,
        bridged(nats_url, prefix, url, routes=["WS /echo/{room}"]) as mesh,
    ):
        address = f"{mesh.url.replace('http', 'ws')}/echo/lobby"
        async with connect(address, subprotocols=["v0", "v1"]) as socket:
            assert socket.subprotocol == "v1"
            await socket.send("text")
            assert await socket.recv() == "text!"
            await socket.send(b"\x00\xff")
            assert await socket.recv() == b"\xff\x00"
            await socket.send("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "so long")
        async with connect(address) as socket:
            await socket.close(4001)
        await eventually(lambda: 4001 in codes)
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{address}?no=1"):
                pass
        assert refused.value.response.status_code == 401


async def test_health_is_asked_here_and_told_by_heartbeats(nats_url, prefix):
    well = [True]

    async def health(request):
        return web.Response(status=200 if well[0] else 500)

    async def hello(request):
        return web.Response(text="hello")

    async with (
        server(web.get("/health", health), web.get("/hello", hello)) as url,
        contextlib.AsyncExitStack() as stack,
    ):
        bridge = Bridge(url, name="other", routes=["GET /hello"], health="/health")
        service = await bridge.open()
        stack.push_async_callback(bridge.aclose)
        service.checks[0] = service.checks[0]._replace(every=0.05)
        mesh = await stack.enter_async_context(Mesh(service, nats_url=nats_url, prefix=prefix))
        assert (await mesh.http.get("/hello")).text == "hello"
        well[0] = False
        (known,) = mesh.gateway.watcher.registry.instances("other")
        await eventually(lambda: known.state == "unready")
        assert mesh.instances[0].readiness.failing["upstream"].endswith("/health answers 500")
        assert (await mesh.http.get("/health")).json()["services"]["other"]["ready"] == 0
        well[0] = True
        await eventually(lambda: known.state == "ready")
        assert (await mesh.http.get("/health")).json()["services"]["other"]["ready"] == 1


async def test_a_service_that_is_away_is_503_and_comes_back(nats_url, prefix, caplog):
    port = free_port(0)

    async def hello(request):
        return web.Response(text="hello")

    async with contextlib.AsyncExitStack() as stack:
        async with server(web.get("/hello", hello), port=port) as url:
            mesh = await stack.enter_async_context(bridged(nats_url, prefix, url, routes=["GET /hello", "POST /hello"]))
            assert (await mesh.http.get("/hello")).text == "hello"
        for method in ("GET", "POST"):
            away = await mesh.http.request(method, "/hello", content=b"x" if method == "POST" else None)
            assert away.status_code == 503
            assert away.json()["detail"] == "the service behind the bridge does not answer"
            assert str(port) not in away.text  # whatever it is, and where: the log has it
            assert f"127.0.0.1:{port}" in caplog.text
            assert away.json()["executed"] == "no"
        async with server(web.get("/hello", hello), port=port):
            assert (await mesh.http.get("/hello")).text == "hello"


async def test_a_server_that_breaks_off(nats_url, prefix):
    """In mid-body: the client's body breaks off too. Before an answer: nobody knows whether it ran."""

    async def serve(reader, writer):
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        if b"half" in line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it")
            await writer.drain()

    async with (
        tcp_server(serve) as listening,
        bridged(nats_url, prefix, address(listening), routes=["GET /half", "POST /none"]) as mesh,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await mesh.http.get("/half")
        broken = await mesh.http.post("/none", content=b"x")
        assert (broken.status_code, broken.json()["executed"]) == (503, "unknown")


@contextlib.asynccontextmanager
async def breaking(answers):
    """A server that answers so many requests, then closes every connection after the next request's head, once.

    Gives its address and the methods that arrived; after the break it takes no connection where ``answers`` is 0.
    """
    seen = []

    async def serve(reader, writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head.split()[0].decode())
            if len(seen) == answers + 1:
                if not answers:
                    listening.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with tcp_server(serve) as listening:
        yield address(listening), seen


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "DELETE", "POST", "WS"])
async def test_a_request_that_was_written_is_not_written_again(nats_url, prefix, method):
    """aiohttp would repeat GET, PUT and DELETE; when the server is gone by then, as if nothing had run."""
    async with breaking(0) as (url, seen), bridged(nats_url, prefix, url, routes=[f"{method} /x"]) as mesh:
        if method == "WS":
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"{mesh.url.replace('http', 'ws')}/x"):
                    pass
            status, problem = refused.value.response.status_code, json.loads(refused.value.response.body)
        else:
            broken = await mesh.http.request(method, "/x")
            status, problem = broken.status_code, broken.json()
        assert (status, problem["executed"]) == (503, "unknown")
        assert seen == ["GET" if method == "WS" else method]


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("DELETE", 503), ("PUT", 503)])
async def test_a_kept_connection_that_the_server_closes(nats_url, prefix, method, status):
    """It may have been closed while it was idle: what is safe is sent once more, anything else is not."""
    async with breaking(1) as (url, seen), bridged(nats_url, prefix, url, routes=["* /x"]) as mesh:
        assert (await mesh.http.get("/x")).status_code == 200
        answer = await mesh.http.request(method, "/x")
        assert answer.status_code == status
        if status == 503:
            assert answer.json()["executed"] == "unknown"
        assert seen == ["GET", method, *([method] if status == 200 else [])]


@pytest.mark.parametrize("kind", ["many", "long"])
async def test_large_heads_of_answers(nats_url, prefix, kind):
    """What is large passes; what is beyond all measure is a 502 that tells nothing of it."""

    async def head(request):
        size = int(request.match_info["size"])
        pairs = [("x-large", "v" * size)] if kind == "long" else [("x-many", str(number)) for number in range(size)]
        return web.Response(text="whole", headers=CIMultiDict(pairs))

    sizes = (300, 900, 2000) if kind == "many" else (9000, 60_000, 100_000)
    async with (
        server(web.get("/head/{size}", head)) as url,
        bridged(nats_url, prefix, url, routes=["GET /head/{size}"]) as mesh,
        HttpWire(mesh.gateway.port) as wire,
    ):
        for size in sizes[:2]:
            answer = await wire.ask("GET", f"/head/{size}")
            assert (answer.status, answer.body) == (200, b"whole")
            assert answer.headers["x-large" if kind == "long" else "x-many"] == (
                "v" * size if kind == "long" else str(size - 1)
            )
        refused = await wire.ask("GET", f"/head/{sizes[2]}")
        assert (refused.status, refused.reason) == (502, "bad_reply")
        problem = json.loads(refused.body)
        assert problem["executed"] == "unknown"
        assert problem["detail"] == "the service behind the bridge gave an unusable answer"


async def test_what_is_no_http_is_a_502(nats_url, prefix):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 secret.internal ESMTP\r\n")
        await writer.drain()

    async with tcp_server(serve) as listening, bridged(nats_url, prefix, address(listening), routes=["GET /x"]) as mesh:
        answer = await mesh.http.get("/x")
        assert (answer.status_code, answer.json()["reason"]) == (502, "bad_reply")
        assert "secret" not in answer.text


async def test_timeouts_are_announced(nats_url, prefix):
    async def slow(request):
        await asyncio.sleep(3600)

    async with (
        server(web.get("/slow", slow)) as url,
        bridged(nats_url, prefix, url, routes=["GET /slow", "GET /x"], timeout={"/s*": 0.3, "*": 40}) as mesh,
    ):
        announced = {route.path: route.timeout_ms for route in mesh.instances[0].service.announced_routes()}
        assert announced == {"/slow": 300, "/x": 40_000}
        assert (await mesh.http.get("/slow")).status_code == 504


def test_the_proxy_asks_no_other_host():
    proxy = Proxy("http://127.0.0.1:1")
    assert str(proxy.url("/a//b@c?d")) == "http://127.0.0.1:1/a//b@c?d"
    for target in ("@127.0.0.1:2/x", ":x@host/", ".example/", "", "x"):
        with pytest.raises(ValueError, match="another host"):
            proxy.url(target)


async def test_everything_below_a_prefix(nats_url, prefix):
    async def seen(request):
        return web.json_response({"method": request.method, "path": request.raw_path})

    async with (
        server(web.route("*", "/{tail:.*}", seen)) as url,
        bridged(nats_url, prefix, url, prefix="/old", encoded_slashes=True) as mesh,
    ):
        for method, path in (("GET", "/old"), ("PUT", "/old/a%2Fb?x=%20"), ("DELETE", "/old/")):
            assert (await mesh.http.request(method, path)).json() == {"method": method, "path": path}


# -- what is served


def test_routes_from_flags():
    found = parse_routes(["GET /jokes/{id}", "/any", "ws /chat", " post  /jokes "])
    assert [(f.path, f.methods, f.name) for f in found] == [
        ("/jokes/{id}", ("GET",), "jokes-id"),
        ("/any", ("*",), "any"),
        ("/chat", (), "chat"),
        ("/jokes", ("POST",), "jokes"),
    ]
    for wrong, says in (
        ("FETCH /x", "'FETCH' is not one of"),
        ("GET x", "--route 'GET x'"),
        ("", "--route ''"),
        ("/x/:id", "--route '/x/:id': .*did you mean '/x/{id}'"),
        ("GET /x/<int:id>", "did you mean 'GET /x/{id}'"),
    ):
        with pytest.raises(DeclarationError, match=says):
            parse_routes([wrong])


def test_routes_from_openapi():
    document = {
        "swagger": "2.0",
        "basePath": "/v2",
        "paths": {
            "/pets/{petId}": {
                "parameters": [],
                "get": {"operationId": "getPet", "summary": "One pet", "tags": ["pets"], "deprecated": True},
                "delete": {},
            },
            "/x.{ext}": {"post": {"description": "first line\nsecond"}},
        },
    }
    found = [(f.path, f.methods, f.name, f.summary, f.tags, f.deprecated) for f in routes_of_openapi(document)]
    assert found == [
        ("/v2/pets/{petId}", ("GET",), "getPet", "One pet", ("pets",), True),
        ("/v2/pets/{petId}", ("DELETE",), "pets-petId", "", (), False),
        ("/v2/{ext}", ("POST",), "x-ext", "first line", (), False),
    ]
    for wrong in (None, [], {}, {"paths": {}}, {"paths": {"/x": {"parameters": []}}}):
        with pytest.raises(DeclarationError, match=r"no paths|no operations"):
            routes_of_openapi(wrong)


@pytest.mark.parametrize("to", ["127.0.0.1:5000", "ftp://h", "http://", "http://h/base"])
def test_addresses(to):
    with pytest.raises(DeclarationError, match="--to"):
        Bridge(to, name="other")


async def test_what_says_nothing_of_itself_has_to_be_described(nats_url):
    async def hello(request):
        return web.Response(text="hello")

    async with server(web.get("/hello", hello)) as url:
        with pytest.raises(DeclarationError, match=r"--route 'GET /path'"):
            await Bridge(url, name="other").open()
        with pytest.raises(DeclarationError, match=r"/hello is no JSON .*--route 'GET /path'"):
            await Bridge(url, name="other", openapi="/hello").open()


async def test_a_bridge_that_cannot_declare_closes_its_session(nats_url):
    """An open session would be a warning, which is an error here."""

    async def hello(request):
        return web.Response(text="hello")

    async with server(web.get("/hello", hello)) as url:
        bridge = Bridge(url, name="other", routes=["GET /hello"], timeout=7200)
        with pytest.raises(DeclarationError, match="timeout"):
            await bridge.open()
        assert bridge._proxy.session.closed


# -- the command

JOKES = """
import http.server, os, signal, sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{os.getpid()}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def env(nats_url, prefix):
    return {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_LINGER_MS": "20"}


async def test_the_bridge_starts_its_service_and_starts_it_again(tmp_path, env):
    (tmp_path / "jokes.py").write_text(JOKES)
    port = free_port(0)
    flags = ("--name", "joke", "--to", f"http://127.0.0.1:{port}", "--route", "GET /joke", "--route", "GET /die")
    command = (sys.executable, "jokes.py", str(port))
    async with (
        run("bridge", *flags, "--", *command, cwd=tmp_path, env=env) as process,
        gateway_for(env) as http,
    ):
        await answers(http, "/joke", 200, 20)
        first = (await http.get("/joke")).text
        await http.get("/die")

        async with asyncio.timeout(20):
            while (again := await http.get("/joke")).status_code != 200 or again.text == first:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert await process.end() == 0
        with socket.socket() as probe:  # nothing of it is left
            assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_the_command_says_what_is_wrong(tmp_path, env):
    for arguments, code, says in (
        (("--name", "a", "--to", "nowhere"), 2, "not the address of an HTTP server"),
        (("--name", "a", "--to", "http://127.0.0.1:1", "--route", "X /a"), 2, "'X' is not one of"),
        (("--name", "a", "--to", "http://127.0.0.1:1", "--health", "x"), 2, "--health 'x' is not a path"),
        (("--name", "a", "--to", "http://127.0.0.1:1", "--prefix", "x"), 2, "error: --prefix 'x'"),
        (
            ("--name", "a", "--to", "http://127.0.0.1:1", "--openapi", "nofile.json"),
            2,
            "nofile.json' cannot be read: No",
        ),
        (("--name", "a", "--to", "http://127.0.0.1:1", "--timeout", "/a=x"), 2, "neither seconds nor"),
        (("--name", "a", "--to", "http://127.0.0.1:1", "--", "./nothing-here"), 1, "nothing-here"),
    ):
        async with run("bridge", *arguments, cwd=tmp_path, env=env) as process:
            assert await process.line(says)
            assert await process.child.wait() == code


async def test_the_command_says_what_it_waits_for(tmp_path, env):
    port = free_port(0)
    flags = ("--name", "joke", "--to", f"http://127.0.0.1:{port}", "--route", "GET /joke", "--timeout", "/joke=3")

    async def joke(request):
        return web.Response(text="ha")

    async with run("bridge", *flags, cwd=tmp_path, env=env) as process:
        assert await process.line(f"waiting for 127.0.0.1:{port}")
        async with server(web.get("/joke", joke), port=port):
            assert await process.line("joke 0.0.1 runs as")
            assert await process.end() == 0


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
async def test_a_service_in_javascript(tmp_path, env):
    """Node's own HTTP server, with nothing installed."""
    port = free_port(0)
    program = (
        "require('http').createServer((q, r) => { r.setHeader('x-many', ['a', 'b']);"
        " r.end(JSON.stringify({ url: q.url, node: true })); })"
        f".listen({port}, '127.0.0.1')"
    )
    flags = ("--name", "node", "--to", f"http://127.0.0.1:{port}", "--prefix", "/node")
    async with (
        run("bridge", *flags, "--", "node", "-e", program, cwd=tmp_path, env=env),
        gateway_for(env) as http,
    ):
        await answers(http, "/node/x?y=1", 200, 20)
        response = await http.get("/node/x?y=1")
        assert json.loads(response.content) == {"url": "/node/x?y=1", "node": True}
        assert response.headers.get_list("x-many") == ["a", "b"]
