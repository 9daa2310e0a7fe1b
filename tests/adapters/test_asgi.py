"""What an application sees of the mesh: lifespan, disconnects, streams, WebSockets, readiness; and its routes."""

import asyncio
import json
import threading

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh import DeclarationError, adapt
from mesh.adapters.route_discovery import Selection, routes_of, template
from mesh.bus import Bus
from mesh.cli.serve import default_name
from mesh.client import MeshClient
from mesh.testing import Mesh
from tests.adapters import fastapi_app, flask_app, litestar_app
from tests.adapters.fastapi_app import EVENTS
from tests.conditions import eventually
from tests.processes import answers, gateway_for, run, run_python


@pytest.fixture
async def shop(nats_url, prefix):
    EVENTS.clear()
    async with Mesh(adapt(fastapi_app.app, name="shop").service, nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


# -- requests


async def test_the_lifespan_is_around_everything(nats_url, prefix):
    EVENTS.clear()
    adapted = adapt(fastapi_app.app, name="shop", version="2.0.0")
    async with Mesh(adapted.service, nats_url=nats_url, prefix=prefix) as mesh:
        assert EVENTS == ["started"]
        assert (await mesh.http.get("/url")).json()["state"] == "from the lifespan"
        await mesh.http.post("/background")
    assert EVENTS == ["started", "done in the background", "stopped"]  # what is under way ends first


async def test_a_start_that_fails_is_told(nats_url, prefix):
    async def failing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(DeclarationError, match=r"did not start: no database"):
        async with Mesh(adapt(failing, name="app", prefix="/x").service, nats_url=nats_url, prefix=prefix):
            pass


async def test_who_goes_away_is_gone_for_the_application(shop):
    async with shop.http.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
    await eventually(lambda: "events left" in EVENTS)
    await eventually(lambda: shop.instances[0].dispatcher.inflight == 0)


async def test_headers_go_before_a_first_piece_that_is_late(nats_url, prefix):
    go = asyncio.Event()

    async def late(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-early", b"yes")]})
        await go.wait()
        await send({"type": "http.response.body", "body": b"at last"})

    service = adapt(late, name="late", prefix="/late", lifespan=False).service
    async with (
        Mesh(service, nats_url=nats_url, prefix=prefix) as mesh,
        mesh.http.stream("GET", "/late") as response,
    ):
        assert response.headers["x-early"] == "yes"
        go.set()
        assert await response.aread() == b"at last"


async def test_a_body_that_breaks_never_looks_whole(nats_url, prefix):
    async def breaking(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle")

    service = adapt(breaking, name="breaking", prefix="/breaking", lifespan=False).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        with pytest.raises(httpx.RemoteProtocolError):
            await mesh.http.get("/breaking")


async def test_an_application_that_answers_nothing_is_a_500(nats_url, prefix):
    async def silent(scope, receive, send):
        pass

    service = adapt(silent, name="silent", prefix="/silent", lifespan=False).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        response = await mesh.http.get("/silent")
        assert (response.status_code, response.text) == (500, "Internal Server Error")


async def test_dependency_overrides_count(shop):
    fastapi_app.app.dependency_overrides[fastapi_app.user] = lambda: "somebody else"
    try:
        assert (await shop.http.get("/me")).json() == {"user": "somebody else"}
    finally:
        fastapi_app.app.dependency_overrides.clear()
    assert (await shop.http.get("/me")).status_code == 401


async def test_client_scheme_and_mount_are_known(nats_url, prefix):
    service = adapt(fastapi_app.app, name="shop", prefix="/eu").service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        seen = (await mesh.http.get("/eu/url?a=1")).json()
        assert (seen["root"], seen["path"], seen["raw"], seen["query"]) == ("/eu", "/eu/url", "/eu/url", "a=1")
        assert (seen["client"], seen["scheme"], seen["made"]) == ("127.0.0.1", "http", "/eu/items/3")
        assert (await mesh.http.get("/url")).status_code == 404


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"", "0"), ("PUT", b"", "0"), ("PATCH", b"", "0"), ("POST", b"abc", "3"), ("DELETE", b"", None)],
)
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
async def test_the_length_of_a_body_is_known_also_where_it_is_none(nats_url, prefix, interface, method, body, length):
    async def app(scope, receive, send):
        given = dict(scope["headers"]).get(b"content-length")
        await JSONResponse(given and given.decode())(scope, receive, send)

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return [json.dumps(environ.get("CONTENT_LENGTH")).encode()]

    app = wsgi if interface == "wsgi" else app
    service = adapt(app, name="old", prefix="/x", interface=interface, lifespan=False).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        assert (await mesh.http.request(method, "/x", content=body)).json() == length


async def test_wsgi_runs_as_many_requests_as_it_has_threads(nats_url, prefix):
    go, running = threading.Event(), []

    def app(environ, start_response):
        running.append(environ["PATH_INFO"])
        go.wait(20)
        start_response("200 OK", [])
        return [b"done"]

    service = adapt(app, name="old", prefix="/x", interface="wsgi", threads=2).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        asked = [asyncio.ensure_future(mesh.http.get(f"/x/{n}")) for n in range(3)]
        await eventually(lambda: mesh.instances[0].dispatcher.inflight == 3 and len(running) == 2)
        go.set()
        assert [response.text for response in await asyncio.gather(*asked)] == ["done"] * 3
    with pytest.raises(DeclarationError, match="at least one"):
        adapt(app, name="old", prefix="/x", interface="wsgi", threads=0)


async def test_a_wsgi_application_may_have_a_health_page(nats_url, prefix):
    def app(environ, start_response):
        start_response("200 OK" if environ["PATH_INFO"] == "/x/health" else "404 Not Found", [])
        return []

    service = adapt(app, name="old", prefix="/x", interface="wsgi", health="/x/health").service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        assert mesh.instances[0].announcer.state == "ready"


@pytest.mark.parametrize(("strip", "root"), [(False, ""), (True, "/legacy")])
async def test_a_prefix_is_stripped_if_asked(nats_url, prefix, strip, root):
    async def app(scope, receive, send):
        await JSONResponse({"root": scope["root_path"], "path": scope["path"]})(scope, receive, send)

    service = adapt(app, name="old", prefix="/legacy", strip=strip, lifespan=False).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        for path in ("/legacy", "/legacy/", "/legacy/a/b"):
            assert (await mesh.http.get(path)).json() == {"root": root, "path": path}
        assert (await mesh.http.get("/legacyx")).status_code == 404


async def test_a_health_page_is_the_readiness_check(nats_url, prefix):
    well = [True]

    async def health(request):
        return PlainTextResponse("", 200 if well[0] else 503)

    app = Starlette(routes=[Route("/health", health), Route("/x", health)])
    adapted = adapt(app, name="app", health="/health", exclude=["/health"])
    adapted.service.checks[0] = adapted.service.checks[0]._replace(every=0.05)
    async with Mesh(adapted.service, nats_url=nats_url, prefix=prefix) as mesh:
        assert mesh.instances[0].announcer.state == "ready"
        well[0] = False
        await eventually(lambda: mesh.instances[0].announcer.state == "unready")
        well[0] = True
        await eventually(lambda: mesh.instances[0].announcer.state == "ready")


async def test_ten_thousand_slow_requests_lose_nothing_and_heartbeats_go_on(nats_url, prefix):
    """Through the bus, all at once; three instances would be shown as suspect or lost if heartbeats waited."""
    release = asyncio.Event()
    running = 0

    async def slow(request):
        nonlocal running
        running += 1
        await release.wait()
        return PlainTextResponse(request.path_params["n"])

    app = Starlette(routes=[Route("/slow/{n}", slow)])
    settings = {"concurrency": 20_000, "heartbeat_ms": 1000}
    adapted = adapt(app, name="slow")
    async with Mesh(adapted.service, nats_url=nats_url, prefix=prefix, settings=settings) as mesh:
        changes = []
        mesh.gateway.watcher.on_change(lambda found: changes.extend(c.kind for c in found if c.service == "slow"))
        heard = mesh.gateway.watcher.registry.get("slow", mesh.instances[0].id).seq
        async with Bus(mesh.bus_settings) as bus:
            address = bus.address(bus.subjects.to("slow", mesh.instances[0].id, "slow"))

            async def ask(n):
                block = b"NATS/1.0\r\nMesh-Request: GET /slow/%d\r\nMesh-Deadline: 50000\r\n\r\n" % n
                return (await bus.request(address, b"", block, timeout=50)).payload

            asking = []
            for count in range(500, 10_001, 500):  # caller, service and gateway share this process and its event loop
                asking += [asyncio.ensure_future(ask(n)) for n in range(count - 500, count)]
                await eventually(lambda count=count: running == count, 40)
            now = mesh.gateway.watcher.registry.get("slow", mesh.instances[0].id).seq
            await eventually(  # three more heartbeats with all of it under way
                lambda: mesh.gateway.watcher.registry.get("slow", mesh.instances[0].id).seq >= now + 3, 20
            )
            release.set()
            assert await asyncio.gather(*asking) == [b"%d" % n for n in range(10_000)]
        assert now >= heard
        assert not {"lost", "left"} & set(changes)


# -- WebSockets


def ws(mesh, path):
    return mesh.url.replace("http", "ws") + path


async def test_a_websocket_from_handshake_to_close(shop):
    async with connect(ws(shop, "/ws/lobby?q=1"), subprotocols=["v0", "v1"]) as socket:
        assert socket.subprotocol == "v1"
        given = socket.response.headers
        assert (given["x-room"], given.get_all("set-cookie")) == ("lobby", ["a=1", "b=2"])
        assert json.loads(await socket.recv()) == {"room": "lobby", "query": "1", "scheme": "ws"}
        await socket.send("text")
        assert await socket.recv() == "TEXT"
        await socket.send(b"\x00\x01\xff")
        assert await socket.recv() == b"\xff\x01\x00"
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "bye to you")


async def test_a_websocket_that_the_client_closes_or_drops(shop):
    async with connect(ws(shop, "/ws/lobby")) as socket:
        await socket.recv()
        await socket.close(4001, "enough")
    await eventually(lambda: ("left", 4001) in EVENTS)
    socket = await connect(ws(shop, "/ws/lobby"))
    await socket.recv()
    socket.transport.abort()
    await eventually(lambda: any(event in EVENTS for event in (("left", 1006), ("left", 1005))))
    await eventually(lambda: shop.instances[0].dispatcher.inflight == 0)


async def test_a_websocket_that_is_refused(shop):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(ws(shop, "/ws/closed")):
            pass
    assert refused.value.response.status_code == 403
    assert (await shop.http.get("/ws/lobby")).status_code == 426


async def test_any_application_takes_requests_and_websockets_on_one_path(nats_url, prefix):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse("over http")(scope, receive, send)
            return
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "over a socket"})
        await send({"type": "websocket.close"})

    service = adapt(app, name="both", prefix="/both", lifespan=False).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        for path in ("/both", "/both/deep/down"):
            assert (await mesh.http.get(path)).text == "over http"
            async with connect(ws(mesh, path)) as socket:
                assert await socket.recv() == "over a socket"


# -- routes


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("/", "/"),
        ("/items/{item_id}", "/items/{item_id}"),
        ("/items/{item_id:int}/x", "/items/{item_id}/x"),
        ("/files/{path:path}", "/files/{path:path}"),
        ("/files/{path:path}/edit", "/files/{path:path}"),
        ("/reports/{name}.csv", "/reports/{name}"),
        ("/{a}-{b}/c", "/{a}/c"),
        ("/users/", "/users/"),
    ],
)
def test_templates(theirs, ours):
    assert template(theirs) == ours


def page(request):
    """A page of some kind.

    With more text.
    """


def test_routes_of_starlette():
    inner = Starlette(routes=[Route("/deep", page, methods=["POST"])])

    async def other(scope, receive, send): ...

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/hidden", page, include_in_schema=False),
            Mount("/in", app=inner),
            Mount("/other", app=other, name="other"),
            WebSocketRoute("/ws", page),
            Host("api.example.org", inner),
        ]
    )
    found = {(route.path, route.methods): route for route in routes_of(app)}
    assert list(found) == [
        ("/", ("GET",)),
        ("/in/deep", ("POST",)),
        ("/other/{path:path}", ("*",)),
        ("/ws", ()),
        ("/deep", ("POST",)),
    ]
    assert found["/", ("GET",)].summary == "A page of some kind."

    def paths(**patterns):
        return [route.path for route in routes_of(app, Selection(**patterns))]

    assert paths(include=["/hidden"]) == ["/", "/hidden", "/in/deep", "/other/{path:path}", "/ws", "/deep"]
    assert paths(only=["/in/*", "/hidden"]) == ["/in/deep"]
    assert paths(only=["/in/*"], include=["/hidden"]) == ["/hidden", "/in/deep"]
    assert paths(exclude=["/ws", "/other/*"]) == ["/", "/in/deep", "/deep"]
    assert paths(include=["/hidden"], exclude=["*"]) == []


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID:UserWarning")
async def test_facts_of_fastapi_are_announced(shop):
    announced = {(r.method, r.path): r for r in shop.instances[0].service.announced_routes()}
    item = announced["GET", "/items/{item_id}"]
    assert (item.summary, item.tags, item.deprecated, item.endpoint) == ("One thing", ("items",), True, "item")
    assert announced["GET", "/"].summary == "The first page."
    assert announced["GET", "/me"].summary == ""  # it says nothing, and nothing is said for it
    assert not any(route.summary for route in announced.values() if route.stream == "websocket")
    assert announced["DELETE", "/v1/things/{thing}"].tags == ("router",)
    assert ("GET", "/openapi.json") not in announced
    assert ("GET", "/health") not in announced
    assert shop.instances[0].service.description == "sells things"
    async with MeshClient(shop.bus_settings) as client:
        assert (await client.call("shop", "openapi"))["info"]["title"] == "Shop"


async def test_what_overlaps_is_announced_once(nats_url, prefix):
    app = FastAPI()

    @app.get("/a/{x}.csv")
    async def csv(x: str) -> str:
        return f"csv {x}"

    @app.get("/a/{x}")
    async def plain(x: str) -> str:
        return f"plain {x}"

    async with Mesh(adapt(app, name="app").service, nats_url=nats_url, prefix=prefix) as mesh:
        assert (await mesh.http.get("/a/b.csv")).json() == "csv b"
        assert (await mesh.http.get("/a/b")).json() == "plain b"


def test_what_cannot_be_adapted_says_what_to_do():
    with pytest.raises(DeclarationError, match="--prefix /path"):
        adapt(flask_app.app, name="old")
    with pytest.raises(DeclarationError, match="--prefix /path"):
        adapt(litestar_app.app, name="shop")
    with pytest.raises(DeclarationError, match="is everything excluded"):
        adapt(fastapi_app.app, name="shop", exclude=["*"])


# -- commands


APP = """
import mesh
from fastapi import FastAPI

app = FastAPI()


@app.get("/{greeting}/world")
async def hello(greeting: str):
    return greeting


def create():
    return app
"""
JOINED = f"""{APP}
mesh.join(app, name="joined", version="1.2.0")


@app.get("/late")
async def late():
    return "found"
"""


@pytest.fixture
def env(nats_url, prefix):
    return {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_LINGER_MS": "20"}


@pytest.mark.parametrize("target", [("main:app",), ("main.py",), ("main:create", "--factory")])
async def test_mesh_serve(tmp_path, env, target):
    (tmp_path / "main.py").write_text(APP)
    async with (
        run("serve", *target, "--name", "greeter", "--version", "2.0.0", cwd=tmp_path, env=env) as process,
        gateway_for(env) as http,
    ):
        await answers(http, "/hello/world", 200)
        assert (await http.get("/hello/world")).json() == "hello"
        assert (await http.get("/v1/metadata/greeter")).json()["services"]["greeter"][0]["version"] == "2.0.0"
        assert await process.end() == 0


async def test_names_and_timeouts_of_mesh_serve(tmp_path, env):
    """Named after the folder, as ``main`` says nothing; what a route's callers wait for goes along."""
    folder = tmp_path / "greeter"
    folder.mkdir()
    slow = '@app.get("/slow/{n}")\nasync def slow(n: int):\n    import asyncio\n    await asyncio.sleep(30)\n'
    (folder / "main.py").write_text(APP + slow)
    flags = ("--timeout", "30", "--timeout", "/slow/*=0.25")
    async with run("serve", "main:app", *flags, cwd=folder, env=env), gateway_for(env) as http:
        await answers(http, "/hello/world", 200)
        (instance,) = (await http.get("/v1/metadata/greeter")).json()["services"]["greeter"]
        assert instance["state"] == "ready"
        late = await http.get("/slow/1")
        assert (late.status_code, late.json()["reason"]) == (504, "deadline_exceeded")
        assert late.elapsed.total_seconds() < 8  # a gateway waits 10 s where nothing is said


@pytest.mark.parametrize(
    ("title", "module", "name"),
    [
        ("Shop of Things", "shop.main", "shop-of-things"),
        ("FastAPI", "shop.main", "shop"),
        (None, "shop.orders", "orders"),
        (None, "asgi", "folder"),
    ],
)
def test_names_by_default(tmp_path, monkeypatch, title, module, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    app = FastAPI(title=title) if title else object()
    assert default_name(app, module) == name


async def test_mesh_serve_reloads(tmp_path, env):
    main = tmp_path / "main.py"
    main.write_text(APP)
    async with (
        gateway_for(env) as http,
        run("serve", "main:app", "--name", "greeter", "--reload", cwd=tmp_path, env=env) as process,
    ):
        await answers(http, "/hello/world", 200)
        main.write_text(APP.replace("return greeting", "return greeting.upper()"))
        async with asyncio.timeout(20):
            while (answer := await http.get("/hello/world")).json() != "HELLO":
                assert answer.status_code == 200  # the old instance serves until the new one does
        main.write_text("this is not Python")
        assert await process.line("the instance from before goes on")
        assert (await http.get("/hello/world")).json() == "HELLO"
        assert await process.end() == 0


BLOCKING = """
import asyncio, time
from fastapi import FastAPI

app = FastAPI()


@app.get("/blocks/sync")
def sync():
    print("blocks", flush=True)
    time.sleep(55)


@app.get("/blocks/to-thread")
async def to_thread():
    print("blocks", flush=True)
    await asyncio.to_thread(time.sleep, 55)


def wsgi(environ, start_response):
    print("blocks", flush=True)
    time.sleep(55)
    start_response("200 OK", [])
    return []
"""


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/blocks/sync", ("blocking:app",)),
        ("/blocks/to-thread", ("blocking:app",)),
        ("/blocks/wsgi", ("blocking:wsgi", "--prefix", "/blocks")),
    ],
)
async def test_a_thread_that_blocks_does_not_keep_the_process(tmp_path, env, path, flags):
    (tmp_path / "blocking.py").write_text(BLOCKING)
    env = {**env, "MESH_DRAIN_S": "0.5"}
    async with (
        gateway_for(env) as http,
        run("serve", *flags, "--name", "blocking", cwd=tmp_path, env=env) as process,
    ):
        async with asyncio.timeout(20):
            await process.line("runs as")
            asked = asyncio.ensure_future(answers(http, path, 503, 60))
            await process.line("blocks")
            assert await process.end() == 0  # within 30 s
            assert await process.line("threads still run")
            await asked


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere:app", "--name", "a"), 2, "there is no module 'nowhere'"),
        (("main:nothing", "--name", "a"), 2, "main:nothing is no application"),
        (("main:app", "--name", "a b"), 2, "service name 'a b'"),
        (("main:app", "--timeout", "soon"), 2, "'soon' is neither seconds nor PATTERN=seconds"),
        (("main:app", "--timeout", "7200"), 2, "timeout 7200.0 is not between"),
        (("main:app", "--name", "a", "--exclude", "*"), 2, "is everything excluded"),
        (("main:app", "--prefix", "v1"), 2, "prefix 'v1': template"),
        (
            ("main:app", "--factory"),
            2,
            "main:app is a FastAPI already, so it makes no application; leave --factory out",
        ),
        (("main:app", "--health", "nohealth"), 2, "health 'nohealth' is not a path, such as /health"),
        (("main:service",), 2, "main:service is a mesh.Service, which needs no adapter: mesh run main:service"),
        (("main:nothing",), 2, "no application; there is mesh serve main:app, mesh run main:service$"),
    ],
)
async def test_mesh_serve_says_what_is_wrong(tmp_path, env, arguments, code, says):
    (tmp_path / "main.py").write_text(f"{APP}\n\nfrom mesh import Service\n\nservice = Service('main')\n")
    async with run("serve", *arguments, cwd=tmp_path, env=env) as process:
        assert (await process.line(says)).startswith("error: ")
        assert await process.child.wait() == code
    assert not [line for line in process.lines if "Traceback" in line]


async def test_patterns_that_match_no_route_are_named(tmp_path, env):
    (tmp_path / "main.py").write_text(APP)
    flags = ("--exclude", "/nomatch", "--include", "/none/*", "--timeout", "/slow/*=3", "--timeout", "/*=3")
    async with run("serve", "main:app", "--name", "a", "--health", "/gone", *flags, cwd=tmp_path, env=env) as process:
        assert "/gone answers 404" in await process.line("readiness check health fails")
        await process.line("runs as")
        assert [line for line in process.lines if line.startswith("warning: ")] == [
            "warning: --include '/none/*' matches no route\n",
            "warning: --exclude '/nomatch' matches no route\n",
            "warning: --timeout '/slow/*' matches no route\n",
        ]


async def test_one_line_joins_and_the_application_keeps_its_port(tmp_path, env):
    """The way to move: both addresses answer, until the old one is needed no more."""
    (tmp_path / "main.py").write_text(JOINED)
    code = "import uvicorn; uvicorn.run('main:app', port=0)"
    async with gateway_for(env) as http, run_python(code, cwd=tmp_path, env=env) as process:
        assert await process.line("joined 1.2.0 runs as")
        line = await process.line(r"running on http://")
        own = f"http://127.0.0.1:{line.rpartition('127.0.0.1:')[2].split()[0]}"
        await answers(http, "/hello/world", 200)
        assert (await http.get("/late")).json() == "found"  # declared after the line
        async with httpx.AsyncClient() as direct:
            assert (await direct.get(f"{own}/hello/world")).json() == "hello"
        (instance,) = (await http.get("/v1/metadata/joined")).json()["services"]["joined"]
        assert (instance["version"], instance["state"]) == ("1.2.0", "ready")
        await process.end()  # uvicorn ends with the signal itself, after the lifespan
        assert (await http.get("/late")).json()["reason"] == "no_instances"  # it has said goodbye


def test_join_takes_what_it_can_find_routes_in():
    from mesh import join

    with pytest.raises(DeclarationError, match="mesh serve"):
        join(flask_app.app, name="old")


async def test_routers_that_come_later_are_found(nats_url, prefix):
    app, router = FastAPI(), APIRouter(prefix="/r")
    app.include_router(router)

    @router.get("/late")
    async def late(request: Request) -> str:
        return "late"

    async with Mesh(adapt(app, name="app").service, nats_url=nats_url, prefix=prefix) as mesh:
        assert (await mesh.http.get("/r/late")).json() == "late"
