"""What an application sees is what was matched: no spelling of a path leads to a page that nobody announced."""

import contextlib
import itertools
from urllib.parse import unquote

import pytest
from aiohttp import web
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mesh import DeclarationError, adapt
from mesh.adapters.hidden_routes import ApplicationRoute, ExcludedPaths, HiddenRoutes
from mesh.adapters.route_filter import RouteFilter
from mesh.bridge import Bridge
from mesh.errors import MeshError
from mesh.service import Request as MeshRequest
from mesh.testing import Mesh
from tests.failures.wires import HttpWire
from tests.servers import server

PROTECTED = ("/zz/internal/keys", "/zz/users/7/ssn", "/zz/hidden", "/zz/files/private/a", "/zz/docs")


def spellings(path):
    """Ways to write a path that somebody on the way may take for it."""
    parts = path[1:].split("/")
    slashes = ("/", "%2F", "%2f", "%252F", "%5C", "%5c", "\\", "//", "/./", "/.;/", "/%2e/", ";/", ";x=1/", "/x/../")
    slashes += ("/x/..;/", "/x/%2e%2e/", "/x/%2e%2e;a/", "/x/..%3Ba/", "/%3B/", "%2F%2F", "/%2F", "%2F..%2F", "%2F.%2F")
    for slash in slashes:  # everywhere, and at each place alone
        yield "/" + slash.join(parts)
        for place in range(1, len(parts)):
            yield "/" + "/".join(parts[:place]) + slash + "/".join(parts[place:])
    for end in (
        "",
        "/",
        "//",
        "%2F",
        ";",
        ";a=b",
        "%3B",
        "/.",
        "/..;/",
        "%20",
        "?x=/",
        "%3F",
        "%23",
        ".json",
        "%2e",
        "%09",
    ):
        yield path + end
        yield path.replace("/zz/", "/zz//") + end
    yield path.upper()
    yield path.title()
    for index, letter in enumerate(path):
        if letter != "/":
            yield f"{path[:index]}%{ord(letter):02x}{path[index + 1 :]}"
            yield f"{path[:index]}%25{ord(letter):02X}{path[index + 1 :]}"
    for start in ("/zz/x/..;/..", "/zz/..;/zz", "/;/zz", "/zz;/zz", "/.;x", "//host.example", "/zz/a/%2e%2e;/%2e%2e"):
        yield start + path
    yield f"http://x{path}"
    yield f"http://other.example{path}"


ALL = sorted({spelling for path in PROTECTED for spelling in spellings(path)})


@contextlib.asynccontextmanager
async def asked(mesh, targets):
    """Ask for each target at the gateway, and past it on the bus: at every endpoint, as any client of NATS may."""
    (instance,) = mesh.instances
    statuses = {}
    for target in targets:  # each on a connection of its own: what is refused may be closed
        async with HttpWire(mesh.gateway.port) as wire:
            statuses[target] = (await wire.ask("GET", target)).status
    async with mesh.client() as bus:
        for endpoint, target in itertools.product(instance.endpoints, targets):
            address = bus.address(bus.subjects.to(instance.service.name, instance.id, endpoint))
            block = b"NATS/1.0\r\nMesh-Request: GET %b\r\n\r\n" % target.encode("latin-1")
            await bus.request(address, b"", block, timeout=20)
    yield statuses


def pages(seen):
    """A FastAPI application some of whose pages are not for the world."""
    app = FastAPI(openapi_url="/zz/openapi.json", docs_url="/zz/docs")

    def page(path, **options):
        async def answer(request: Request):
            seen.append((path, request.scope["path"]))
            return path

        app.get(path, name=path.replace("/", "-"), **options)(answer)

    page("/zz/hidden", include_in_schema=False)
    page("/zz/internal/{key}")
    page("/zz/users/{id}/ssn")
    page("/zz/users/{id}")
    page("/zz/files/private/{name:path}", include_in_schema=False)
    page("/zz/files/{path:path}")
    page("/zz/{name}")
    page("/zz/{a}/{b}/{c}")
    page("/zz/{a}/{b}/{c}/{d}")
    page("/{a}/{b}")
    page("/zz/late", include_in_schema=False)  # never picked: /zz/{name} comes before it
    return app


EXCLUDED = ("/zz/internal/*", "/zz/users/*/ssn")


@pytest.mark.parametrize("encoded_slashes", [False, True])
@pytest.mark.parametrize("catch_all", [False, True])
@pytest.mark.timeout(300)
async def test_fastapi_never_serves_what_is_not_announced(nats_url, prefix, encoded_slashes, catch_all):
    seen = []
    options = {"exclude": EXCLUDED, "encoded_slashes": encoded_slashes, "catch_all": catch_all}
    adapted = adapt(pages(seen), name="zz", **options)
    async with Mesh(adapted.service, nats_url=nats_url, prefix=prefix) as mesh, asked(mesh, ALL) as statuses:
        hidden = {"/zz/hidden", "/zz/internal/{key}", "/zz/users/{id}/ssn", "/zz/files/private/{name:path}", "/zz/late"}
        assert len(ALL) >= 200
        assert not [(page, path) for page, path in seen if page in hidden]
        assert all(statuses[path] == 404 for path in PROTECTED)
        seen.clear()
        legitimate = {
            "/zz/ann": "/zz/{name}",
            "/zz/late": "/zz/{name}",
            "/zz/a%20b;v=1": "/zz/{name}",
            "/zz/%252F": "/zz/{name}",
            "/zz/users/7": "/zz/users/{id}",
            "/zz/users/7/mail": "/zz/{a}/{b}/{c}",
            "/zz/files/a/b;c/d..": "/zz/files/{path:path}",
            "/zz/files/privates/x": "/zz/files/{path:path}",
        }
        if encoded_slashes:
            legitimate["/zz/files/a%2Fb%5Cc"] = "/zz/files/{path:path}"
        for path, page in legitimate.items():
            answer = await mesh.http.get(path)
            assert (answer.status_code, answer.json()) == (200, page), path
            assert seen[-1] == (page, unquote(path))
        assert (await mesh.http.get("/zz/files/a%2Fb")).status_code == (200 if encoded_slashes else 400)


async def test_the_applications_own_answers_with_a_catch_all(nats_url, prefix):
    """Redirects for a slash too much, its own 404 and 405: what a gateway would answer itself."""
    app = pages([])

    @app.exception_handler(404)
    async def nowhere(request, error):
        return PlainTextResponse("nowhere to be found", 404)

    service = adapt(app, name="zz", catch_all=True, include=["/zz/docs"]).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        assert (await mesh.http.get("/zz/ann/")).headers["location"].endswith("/zz/ann")
        lost = await mesh.http.get("/zz/a/b/c/d/e/f")
        assert (lost.status_code, lost.text) == (404, "nowhere to be found")
        assert (await mesh.http.delete("/zz/ann")).json() == {"detail": "Method Not Allowed"}
        assert (await mesh.http.get("/zz/docs")).status_code == 200
        assert (await mesh.http.get("/zz/hidden")).json()["reason"] == "no_route"


def excluded_application(seen, interface):
    if interface == "wsgi":

        def app(environ, start_response):
            seen.append(environ["PATH_INFO"])
            start_response("200 OK", [])
            return [b"here"]
    else:

        async def app(scope, receive, send):
            seen.append(scope["path"])
            await PlainTextResponse("here")(scope, receive, send)

    return app


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("encoded_slashes", [False, True])
@pytest.mark.timeout(300)
async def test_no_other_application_gets_what_is_excluded(nats_url, prefix, interface, encoded_slashes):
    """It might collapse slashes, leave out parameters, or fold case: so an excluded path has many spellings."""
    seen = []
    app = excluded_application(seen, interface)
    options = {"prefix": "/", "exclude": [*EXCLUDED, "/zz/hidden"], "encoded_slashes": encoded_slashes}
    service = adapt(app, name="zz", interface=interface, lifespan=False, **options).service
    targets = [target for path in PROTECTED[:3] for target in spellings(path)]
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh, asked(mesh, targets):
        for path in seen:
            parts = [part.partition(";")[0].lower() for part in path.replace("\\", "/").split("/")]
            plain = "/" + "/".join(part for part in parts if part)
            assert plain != "/zz/hidden"
            assert not plain.startswith(("/zz/internal/", "/zz/hidden/"))
            assert not (plain.startswith("/zz/users/") and plain.endswith("/ssn"))
        for path in ("/", "/zz", "/zz/internals/x", "/zz/users/7/ssnx", "/zz/users/7", "/a//b/;c"):
            assert (await mesh.http.get(path)).text == "here", path


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("strip", [False, True])
async def test_patterns_fit_with_and_without_the_prefix(nats_url, prefix, interface, strip):
    seen = []
    app = excluded_application(seen, interface)
    options = {"prefix": "/shop", "strip": strip, "exclude": ["/secret", "/shop/private/*"]}
    service = adapt(app, name="shop", interface=interface, lifespan=False, **options).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        for path in ("/shop/secret", "/shop/secret/x", "/shop/private/x"):
            assert (await mesh.http.get(path)).status_code == 404, path
        assert not seen
        assert (await mesh.http.get("/shop/secrets")).text == "here"


@pytest.mark.timeout(300)
async def test_a_bridge_asks_for_its_routes_alone(nats_url, prefix):
    seen = []

    async def record(request):
        seen.append((request.method, request.raw_path))
        return web.Response(text="here")

    routes = ["GET /zz/{name}", "POST /zz/users/{id}", "GET /zz/files/{path:path}", "WS /zz/ws"]
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(server(web.route("*", "/{tail:.*}", record)))
        bridge = Bridge(url, name="zz", routes=routes)
        service = await bridge.open()
        stack.push_async_callback(bridge.aclose)
        mesh = await stack.enter_async_context(Mesh(service, nats_url=nats_url, prefix=prefix))
        seen.clear()
        hosts = [
            "@127.0.0.1:9/x",
            ":x@127.0.0.1:9/",
            ".example/x",
            "",
            "*",
            "http://127.0.0.1:9/zz/a",
            "/elsewhere",
            "zz/a",
        ]
        async with asked(mesh, [*ALL, *hosts]):
            pass
        async with mesh.client() as bus:
            for method in ("POST", "DELETE", "CONNECT", "TRACE", "get"):
                address = bus.address(bus.subjects.to("zz", mesh.instances[0].id, "zz-name"))
                block = b"NATS/1.0\r\nMesh-Request: %b /zz/ann\r\n\r\n" % method.encode()
                reply = await bus.request(address, b"", block, timeout=20)
                assert b"Mesh-Status: 405" in reply.block, method
        for method, raw in seen:
            parts = unquote(raw.partition("?")[0]).split("/")
            assert method == "GET", (method, raw)
            assert "%2f" not in raw.lower(), raw
            assert not {".", ".."} & {part.partition(";")[0] for part in parts}, raw
            assert (len(parts) == 3 and parts[1] == "zz") or parts[1:3] == ["zz", "files"], raw
        for path in ("/zz/ann", "/zz/a%20b;v=1?x=%2F", "/zz/files/a/b//c"):
            assert (await mesh.http.get(path)).text == "here"
            assert seen[-1] == ("GET", path)


async def test_hidden_websockets_and_mounts(nats_url, prefix):
    seen = []

    async def socket(ws):
        seen.append(ws.url.path)
        await ws.accept()
        await ws.close()

    async def page(request):
        seen.append(request.url.path)
        return PlainTextResponse("here")

    inner = Starlette(routes=[Route("/secret", page, include_in_schema=False), Route("/{x:int}", page)])
    app = Starlette(
        routes=[
            Mount("/in/{tenant}", app=inner),
            Mount("/static", app=PlainTextResponse("static")),
            WebSocketRoute("/ws/admin", socket),
            WebSocketRoute("/ws/{room}", socket),
        ],
        middleware=[Middleware(lambda app: app)],
    )
    service = adapt(app, name="app", prefix="/eu", exclude=["/ws/admin"], catch_all=True).service
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        for path, status in (("/eu/in/a/secret", 404), ("/eu/in/a/5", 200), ("/eu/static/x", 200), ("/eu/in/a/b", 404)):
            assert (await mesh.http.get(path)).status_code == status, path
        base = mesh.url.replace("http", "ws")
        async with connect(f"{base}/eu/ws/lobby"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{base}/eu/ws/admin"):
                pass
        assert refused.value.response.status_code == 404
        assert seen == ["/eu/in/a/5", "/eu/ws/lobby"]


# -- decisions


def test_the_page_is_the_first_that_fits_with_its_method():
    pages = HiddenRoutes(
        [
            ApplicationRoute("/a/{x}", ("POST",), True),
            ApplicationRoute("/a/b", ("GET",), False),
            ApplicationRoute("/{rest:path}", ("GET",), False),
            ApplicationRoute("/n/{n}", ("*",), False, {"n": "[0-9]{3}"}),
        ],
        "/root",
    )
    assert pages.hides("GET", "/root/a/b", False)
    assert pages.hides("HEAD", "/root/a/b", False)
    assert not pages.hides("POST", "/root/a/b", False)
    assert not pages.hides("DELETE", "/root/a/b", False)  # the first is asked, and says 405
    assert pages.hides("GET", "/root/a/c", False)
    assert pages.hides("PUT", "/root/n/123", False)
    assert not HiddenRoutes([ApplicationRoute("/a", ("GET",), True)]).hides("GET", "/a", False)
    assert not HiddenRoutes([ApplicationRoute("/{a}-{b}.c", ("GET",), False)]).hides("GET", "/a-b.d", False)
    assert HiddenRoutes([ApplicationRoute("/{a}-{b}.c", ("GET",), False)]).hides("GET", "/a-b.c", False)


def test_patterns_fit_below_a_mount_too():
    excluded = ExcludedPaths(["/internal/*"], "/legacy")
    for path in ("/internal/x", "/legacy/internal/x", "/legacy//INTERNAL;v=1/x/y"):
        assert excluded.hides("GET", path, False), path
    assert not excluded.hides("GET", "/legacy/x", False)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (None, 400),
        ("GET ", 400),
        ("GET a", 400),
        ("GET /a/%zz", 400),
        ("GET /a/b%00", 400),
        (f"GET /a/{'x' * 9000}", 414),
        ("GET /a/b\u00e9", 400),
        ("GET /a/", 404),
        ("PUT /a/b", 405),
        ("GET /a/b", 0),
        ("HEAD /a/b", 0),
        ("OPTIONS /a/b", 0),
    ],
)
def test_an_entrance(line, status):
    request = MeshRequest(b"NATS/1.0\r\n" + (f"Mesh-Request: {line}\r\n".encode() if line else b"") + b"\r\n", b"")
    route_filter = RouteFilter("/a/{b}", ["GET"])
    if not status:
        route_filter.check(request)
        return
    with pytest.raises(MeshError) as refused:
        route_filter.check(request)
    assert refused.value.status == status
    assert refused.value.executed == "no"
    if status == 405:
        assert refused.value.headers == {"allow": "GET, HEAD, OPTIONS"}


def test_what_says_nothing_of_itself_has_nothing_to_include():
    for options in ({"include": ["/x"]}, {"only": ["/x"]}, {"catch_all": True}):
        with pytest.raises(DeclarationError, match="does not say what it serves"):
            adapt(excluded_application([], "asgi"), name="app", prefix="/x", **options)
