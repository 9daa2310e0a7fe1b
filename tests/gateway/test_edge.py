"""What a client may say of itself, what a proxy in front may, and what clients are told; on both lanes."""

import asyncio
import json
import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.header_translation import ResponseHeads, read_head, response
from gateway.problems import refuse, render
from gateway.server import Gateway
from mesh import Request, Response, Service, StreamingResponse, TooManyRequests, WebSocket
from mesh.bus import Reply
from mesh.errors import MeshError, Overloaded
from mesh.messages import Route
from mesh.routes import RouteTable
from mesh.settings import BusSettings, GatewaySettings
from mesh.testing import Mesh
from tests.gateway.test_framing import answers, ask, get
from tests.processes import http_client
from tests.routes.build import Announced

DATE = "Tue, 24 Nov 2026 12:00:00 GMT"


def edge():
    service = Service("edge")

    @service.route("*", "/echo")
    async def echo(request: Request) -> list[list[str]]:
        return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.pairs]

    @service.get("/dated")
    async def dated() -> Response:
        return Response({"a": 1}, headers=[("date", DATE)])

    @service.get("/twice-dated")
    async def twice_dated() -> Response:
        return Response({"a": 1}, headers=[("x-a", "b"), ("date", DATE), ("Date", "today")])

    @service.get("/dated-stream")
    async def dated_stream() -> StreamingResponse:
        async def pieces():
            yield b"a"
            yield b"b"

        return StreamingResponse(pieces(), headers=[("date", DATE)])

    @service.get("/long")
    async def long() -> StreamingResponse:
        async def pieces():
            yield b"a"

        return StreamingResponse(pieces(), headers=[("content-length", "9" * 5000)])

    @service.get("/later")
    async def later() -> None:
        raise TooManyRequests("not so fast", retry_after=1.2)

    @service.websocket("/socket")
    async def socket(ws: WebSocket, request: Request) -> None:
        await ws.accept(headers=[("date", DATE)])
        await ws.send(request.header("mesh-forwarded"))

    return service


@pytest.fixture(params=["direct", "asgi"])
def lane(request):
    return request.param


@pytest.fixture
def settings():
    return {}


@pytest.fixture
async def mesh(nats_url, prefix, lane, settings):
    async with Mesh(edge(), nats_url=nats_url, prefix=prefix, gateway={"http_lane": lane, **settings}) as mesh:
        yield mesh


async def seen(mesh, *headers, **options):
    """The headers that the service gets of a request with those."""
    ((status, _, body),) = answers(await ask(mesh, get("/echo", *headers, "Connection: close", **options)), "GET")
    assert status == 200, body
    return json.loads(body)


ALIASES = [
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix"),
    *("X-Forwarded-Client-Cert", "X-Forwarded-Whatever", "X-Forwarded", "Forwarded", "X-Real-IP", "True-Client-IP"),
    *("X-Client-IP", "CF-Connecting-IP", "X-Original-URL", "X-Rewrite-URL", "X-Original-Host", "X-Cluster-Client-IP"),
    *("Fastly-Client-IP", "X-Envoy-External-Address", "Client-Cert", "X-Client-Cert", "X-SSL-Client-Cert", "Proxy"),
    *("SSL-Client-Verify", "X-ARR-ClientCert", "CloudFront-Viewer-Address", "CloudFront-Forwarded-Proto", "X-Orig-IP"),
    *("Akamai-Client-IP", "X-Source-IP", "X-Forward-For"),
]


def spellings(name):
    yield from (name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_", 1))


@pytest.mark.parametrize("settings", [{}, {"trusted_proxies": ("127.0.0.1",)}], ids=["unknown", "trusted"])
async def test_no_client_says_who_it_is(mesh):
    lines = [f"{name}: 6.6.6.6" for alias in ALIASES for name in spellings(alias)]
    for some in (lines[at : at + 80] for at in range(0, len(lines), 80)):
        for more in ([], ["Connection: close, x-forwarded-for, x-real-ip, host"]):
            found = await seen(mesh, *some, *more)
            assert [name for name, value in found if "6.6.6.6" in value and name != "mesh-forwarded"] == []


async def test_names_with_an_underscore_end_here(mesh):
    found = await seen(mesh, "X_Request_Id: zz", "X_A: b", "_: c", "X-A: d", "A_-b: e", "Mesh_Identity: me")
    assert {name for name, _ in found if "_" in name} == set()
    assert ["x-a", "d"] in found
    assert "zz" not in str(found)


async def test_two_credentials_are_none(mesh):
    twice = ["Authorization: Bearer a", "authorization: Bearer b"]
    found = answers(await ask(mesh, get("/echo", *twice) + get("/echo", twice[0], "Connection: close")), "GET", "GET")
    assert [status for status, _, _ in found] == [400, 200]
    assert json.loads(found[0][2])["reason"] == "invalid_credentials"
    assert ["authorization", "Bearer a"] in json.loads(found[1][2])


async def test_a_trace_goes_on_whole_or_not_at_all(mesh):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    kept = await seen(mesh, "Tracestate: a=1", f"Traceparent: {trace}", "Tracestate: b=2")
    assert [pair for pair in kept if pair[0].startswith("trace")] == [["traceparent", trace], ["tracestate", "a=1,b=2"]]
    for wrong in ([f"Traceparent: {trace}-x"], [f"Traceparent: {trace}"] * 2, []):
        found = await seen(mesh, "Tracestate: a=1", *wrong)
        [(name, value)] = [pair for pair in found if pair[0].startswith("trace")]
        assert (name, len(value)) == ("traceparent", 55)
        assert trace[3:35] not in value


# -- proxies in front

TRUSTED = {"trusted_proxies": ("127.0.0.0/8",)}
FORWARDED = ["X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.test"]


async def forwarded(mesh, *headers, **options):
    return dict(await seen(mesh, *headers, **options))["mesh-forwarded"]


async def test_nobody_is_believed_by_default(mesh):
    assert await forwarded(mesh, *FORWARDED) == 'for=127.0.0.1;proto=http;host="mesh.test"'


@pytest.mark.parametrize("settings", [TRUSTED])
async def test_a_trusted_proxy_is_believed(mesh, tmp_path):
    mesh.gateway.access.enabled = True
    with (tmp_path / "access.log").open("wb") as stream:
        mesh.gateway.access._stream = stream
        assert await forwarded(mesh, *FORWARDED) == 'for=192.0.2.7;proto=https;host="shop.test"'
        mesh.gateway.access.flush()
        mesh.gateway.access.enabled = False
    assert json.loads((tmp_path / "access.log").read_text())["client"] == "192.0.2.7"
    assert await forwarded(mesh) == 'for=127.0.0.1;proto=http;host="mesh.test"'
    assert await forwarded(mesh, "X-Forwarded-For: nonsense") == 'for=127.0.0.1;proto=http;host="mesh.test"'
    assert await forwarded(mesh, "Forwarded: for=192.0.2.9") == 'for=127.0.0.1;proto=http;host="mesh.test"'
    lines = ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 2001:db8::7"]
    assert await forwarded(mesh, *lines) == 'for="[2001:db8::7]";proto=http;host="mesh.test"'


@pytest.mark.parametrize("settings", [{**TRUSTED, "proxy_header": "forwarded"}])
async def test_a_trusted_proxy_that_speaks_rfc_7239(mesh):
    given = 'Forwarded: for=6.6.6.6, For="[2001:db8::7]:81";Proto=https;Host="shop.test:8443"'
    assert await forwarded(mesh, given, *FORWARDED) == 'for="[2001:db8::7]";proto=https;host="shop.test:8443"'
    assert await forwarded(mesh, *FORWARDED) == 'for=127.0.0.1;proto=http;host="mesh.test"'


@pytest.mark.parametrize("settings", [{"trusted_proxies": ("192.0.2.0/24",)}])
async def test_another_proxy_than_the_trusted_is_not_believed(mesh):
    assert await forwarded(mesh, *FORWARDED) == 'for=127.0.0.1;proto=http;host="mesh.test"'


@pytest.mark.parametrize(
    ("settings", "expected"), [(TRUSTED, "for=192.0.2.7;proto=wss"), ({}, "for=127.0.0.1;proto=ws")]
)
async def test_websockets_have_a_client_too(mesh, expected):
    headers = [tuple(line.split(": ")) for line in FORWARDED]
    async with connect(f"ws://127.0.0.1:{mesh.gateway.port}/socket", additional_headers=headers) as ws:
        assert (await ws.recv()).startswith(expected)
        assert len(ws.response.headers.get_all("date")) == 1


@pytest.mark.parametrize(
    ("settings", "headers", "shown"),
    [
        ({}, {}, True),
        ({}, {"x-forwarded-for": "127.0.0.1"}, False),
        ({}, {"x_real_ip": "127.0.0.1"}, False),
        ({}, {"forwarded": "for=127.0.0.1"}, False),
        ({}, {"via": "1.1 cache"}, False),
        ({}, {"host": "evil.test"}, False),
        (TRUSTED, {}, False),
        (TRUSTED, {"x-forwarded-for": "127.0.0.1"}, True),
        (TRUSTED, {"x-forwarded-for": "192.0.2.7"}, False),
        ({"show_routes": "always"}, {"x-forwarded-for": "192.0.2.7", "host": "evil.test"}, True),
        ({"show_routes": "never"}, {}, False),
    ],
)
async def test_routes_are_shown_to_this_machine_alone(mesh, headers, shown):
    health = await mesh.http.get("/health?include_routes=true", headers=headers)
    assert ("routes" in health.json()) is shown
    missed = await mesh.http.get("/ecko", headers=headers)
    assert (missed.status_code, "nearest" in missed.json()) == (404, shown)


# -- one Date, no end of a length


@pytest.mark.parametrize(
    ("path", "date"),
    [
        ("/dated", DATE),
        ("/twice-dated", DATE),
        ("/dated-stream", DATE),
        ("/echo", None),
        ("/nowhere", None),
        ("/livez", None),
    ],
)
async def test_a_response_has_one_date(mesh, path, date):
    requests = [get(path), get(path), get(path, method="HEAD"), get("/echo", "Connection: close")]
    data = await ask(mesh, *requests)
    answers(data, "GET", "GET", "HEAD", "GET")
    heads = data.split(b"HTTP/1.1 ")[1:]
    dates = [[line[6:] for line in head.split(b"\r\n") if line.lower().startswith(b"date: ")] for head in heads]
    assert [len(found) for found in dates] == [1] * 4
    if date is not None:
        assert [found[0].decode() for found in dates[:3]] == [date] * 3


async def test_a_length_that_is_none_is_502_and_ends_nothing(mesh):
    for method in ("GET", "HEAD"):
        found = answers(await ask(mesh, get("/long", method=method), get("/echo", "Connection: close")), method, "GET")
        assert [status for status, _, _ in found] == [502, 200]
        if method == "GET":
            problem = json.loads(found[0][2])
            assert (problem["reason"], "999" in str(problem)) == ("bad_reply", False)


# -- what clients are told


async def test_seconds_are_rounded_up(mesh):
    assert (await mesh.http.get("/later")).headers["retry-after"] == "2"


def test_seconds_of_the_gateways_own_errors_too():
    for seconds, said in ((0.2, b"1"), (1.0, b"1"), (1.2, b"2"), (2.5, b"3")):
        _, out, _ = render(Overloaded("busy", retry_after=seconds), "id", "gateway", "GET")
        assert (b"retry-after", said) in out


def test_titles_have_one_form():
    titles = {status: refuse(status, "reason", "detail").title for status in (400, 404, 405, 408, 413, 414, 421, 431)}
    assert titles == {
        400: "Bad request",
        404: "Not found",
        405: "Method not allowed",
        408: "Request timeout",
        413: "Content too large",
        414: "Target too long",
        421: "Misdirected request",
        431: "Headers too large",
    }


def test_no_header_of_a_problem_breaks_the_response():
    error = refuse(405, "method_not_allowed", "detail", {"allow": "GET, PUT\n, HEAD", "x-a": "b", "x b": "c"})
    _, out, _ = render(error, "id", "gateway", "GET")
    assert [name for name, _ in out if name not in (b"content-type", b"content-length", b"cache-control")] == [b"x-a"]


async def test_announced_methods_that_are_none_are_not_written(mesh, monkeypatch):
    methods = ["GET", "PUT\n", "POST\r\nx: y", "PATCH"]
    routes = tuple(Route(method=method, path="/forged", endpoint="e") for method in methods)
    table = RouteTable().replace("forger", [Announced("r", routes)], 0.0)
    monkeypatch.setattr(mesh.gateway.live_routes, "table", table)
    for method, status in (("DELETE", 405), ("OPTIONS", 204)):
        found = answers(await ask(mesh, get("/forged", "Connection: close", method=method)), method)
        assert [(status, headers[b"allow"]) for status, headers, _ in found] == [(status, b"GET, HEAD, OPTIONS, PATCH")]


async def test_problems_of_own_paths_have_what_all_have(mesh):
    response = await mesh.http.get("/readyz/nobody", headers={"x-request-id": "find-me"})
    assert (response.status_code, response.json()["request_id"]) == (404, "find-me")
    mesh.gateway.health.draining = True
    response = await mesh.http.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_an_error_of_a_foreign_service_has_its_request_id_every_time():
    heads = ResponseHeads()
    reply = Reply(b"NATS/1.0\r\nNats-Service-Error: no\r\nNats-Service-Error-Code: 404\r\n\r\n", b"")
    for number in (b"one", b"two"):
        status, lines, body = heads.render(reply, "GET", number)
        assert (status, json.loads(body)["request_id"]) == (404, number.decode())
        assert b"content-length: %d\r\n" % len(body) in lines
        assert json.loads(response(reply, "GET", number)[2])["request_id"] == number.decode()
    withheld = Reply(reply.block, b"text")
    assert heads.render(withheld, "GET", b"id")[2] == b"text"
    assert json.loads(heads.render(reply, "GET", b"three")[2])["request_id"] == "three"


async def test_who_runs_it_is_told_why_and_clients_are_not(nats, prefix, lane, caplog):
    await nats.stop()
    settings = GatewaySettings(port=0, ops_port=0, window_ms=0, access_log=False, http_lane=lane)
    gateway = Gateway(BusSettings(servers=(nats.url,), prefix=prefix), settings)
    with caplog.at_level(logging.WARNING, "mesh.gateway"):
        async with gateway, http_client(base_url=f"http://127.0.0.1:{gateway.port}") as http:
            async with asyncio.timeout(20):
                while not gateway.bus.last_error:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            for _ in range(2):
                response = await http.get("/anything")
                assert (response.status_code, response.json()["reason"]) == (503, "bus_unavailable")
                assert response.json()["detail"] == "the gateway has no connection to the services"
            assert "NATS" not in (await http.get("/readyz")).text
    [told] = [record for record in caplog.records if "bus_unavailable" in record.getMessage()]
    assert "NATS" in told.getMessage()


@pytest.mark.parametrize("error", [MeshError("NATS at 10.0.0.7 said no"), Overloaded("NATS reads slower than this")])
async def test_no_error_of_the_bus_says_more(mesh, error):
    lifecycle = mesh.gateway.lifecycle
    request = lifecycle.begin("GET", b"/", b"", read_head([]), "127.0.0.1", "http")
    response = lifecycle.responses.of(request, error)
    lifecycle.responses.finish(request)
    assert json.loads(response.body)["detail"] == error.title


# -- the operator's plane


@pytest.mark.parametrize("settings", [{"ops_hosts": ("ops.example.org",)}])
async def test_the_operators_plane_goes_by_names_that_no_page_has(mesh):
    async with mesh.ops() as ops:
        for host in (
            "localhost:1",
            "127.0.0.1",
            "[::1]:8081",
            "192.0.2.7",
            "gateway:8081",
            "a.localhost",
            "OPS.example.org",
        ):
            assert (await ops.get("/api/gateway", headers={"host": host})).status_code == 200, host
        for host in ("evil.test", "evil.test:8081", "127.0.0.1.evil.test", "localhost.evil.test", "[::1].evil.test"):
            for path in ("/metrics", "/api/gateway", "/openapi.json", "/nowhere"):
                refused = await ops.get(path, headers={"host": host})
                assert (refused.status_code, refused.json()["reason"]) == (421, "unknown_host"), host


async def test_head_of_the_operators_plane(mesh):
    async with mesh.ops() as ops:
        for path in ("/metrics", "/api/gateway", "/"):
            head, got = await ops.head(path), await ops.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == got.headers["content-type"]


# -- WebSockets and the pages that open them


ALLOWED = {"cors_origins": ("https://app.test",)}


@pytest.mark.parametrize(
    ("settings", "origin", "opens"),
    [
        ({}, "https://evil.test", True),
        (ALLOWED, None, True),
        (ALLOWED, "https://app.test", True),
        (ALLOWED, "http://127.0.0.1", True),
        (ALLOWED, "https://evil.test", False),
        (ALLOWED, "http://app.test", False),
        (ALLOWED, "null", False),
        (ALLOWED, "http://[", False),
        ({"cors_origins": ("*",)}, "https://evil.test", True),
    ],
)
async def test_origins_of_websockets(mesh, origin, opens):
    if origin == "http://127.0.0.1":
        origin = f"http://127.0.0.1:{mesh.gateway.port}"
    headers = {"origin": origin} if origin else {}
    opening = connect(f"ws://127.0.0.1:{mesh.gateway.port}/socket", additional_headers=headers)
    if opens:
        async with opening as ws:
            await ws.recv()
        return
    with pytest.raises(InvalidStatus) as caught:
        async with opening:
            pass
    assert caught.value.response.status_code == 403
    assert b"origin_not_allowed" in caught.value.response.body
