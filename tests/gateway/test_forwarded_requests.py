"""What an HTTP client sees, through a real gateway, a real NATS server and real services."""

import asyncio
import json
import socket

import msgspec
import pytest

from mesh import Conflict, Context, Request, Response, Service
from mesh.testing import Mesh
from tests.conditions import eventually


class Pet(msgspec.Struct):
    name: str
    age: int


def pets() -> Service:
    service = Service("pets", version="1.2.3")

    @service.get("/pets/{pet_id}")
    async def get_pet(pet_id: int, verbose: bool = False) -> dict[str, object]:
        return {"id": pet_id, "verbose": verbose}

    @service.post("/pets", status=201)
    async def add_pet(body: Pet) -> Pet:
        if body.name == "taken":
            raise Conflict("there is one of that name")
        return body

    @service.get("/files/{path:path}")
    async def get_file(path: str) -> dict[str, str]:
        return {"path": path}

    @service.route("*", "/echo")
    async def echo(request: Request) -> Response:
        seen = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.pairs]
        document = {
            "method": request.method,
            "target": request.target,
            "headers": seen,
            "body": request.body.decode("latin-1"),
        }
        return Response(document, 200, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-text", "caf\xe9")])

    @service.get("/boom")
    async def boom() -> None:
        raise RuntimeError("a secret of the service")

    @service.get("/nothing")
    async def nothing() -> None:
        return None

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(pets(), nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


async def test_typed_parameters(mesh):
    response = await mesh.http.get("/pets/7?verbose=true")
    assert response.status_code == 200
    assert response.json() == {"id": 7, "verbose": True}
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("GET", "/pets/seven", None), "path.pet_id"),
        (("GET", "/pets/7?verbose=perhaps", None), "query.verbose"),
        (("POST", "/pets", {"name": "Rex"}), "body.age"),
        (("POST", "/pets", {"name": "Rex", "age": "old"}), "body.age"),
        (("POST", "/pets", None), "body"),
    ],
)
async def test_a_wrong_argument_is_422_and_named(mesh, call, field):
    method, path, body = call
    response = await mesh.http.request(method, path, json=body)
    assert response.status_code == 422
    problem = response.json()
    assert [error["field"] for error in problem["errors"]] == [field]
    assert problem["executed"] == "no"
    assert problem["origin"] == "service"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"name":"a","age":1,"x":' + b"[" * 100_000, "application/json", 400),
        (b"name=Rex", "application/x-www-form-urlencoded", 415),
    ],
)
async def test_a_body_that_is_no_json(mesh, content, kind, status):
    response = await mesh.http.post("/pets", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_raised_mesh_error_is_its_problem(mesh):
    response = await mesh.http.post("/pets", json={"name": "taken", "age": 1})
    assert response.status_code == 409
    assert response.json()["detail"] == "there is one of that name"
    assert (await mesh.http.post("/pets", json={"name": "Rex", "age": 1})).status_code == 201


async def test_an_unexpected_exception_is_500_with_a_request_id_and_nothing_else(mesh, caplog):
    response = await mesh.http.get("/boom", headers={"x-request-id": "find-me"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert response.json()["request_id"] == "find-me" == response.headers["x-request-id"]
    record = next(r for r in caplog.records if r.name == "mesh.service")
    assert "a secret of the service" in str(record.exc_info[1])
    assert (await mesh.http.get("/pets/1")).status_code == 200


async def test_headers_cross_both_ways_unharmed(mesh):
    response = await mesh.http.get(
        "/echo",
        headers=[
            ("x-one", "1"),
            ("x-one", "2"),
            ("cookie", "k=v"),
            ("x-latin", b"caf\xe9"),
            ("te", "trailers"),
            ("mesh-identity", "me"),
            ("mesh_status", "999"),
            ("Nats-Service-Error", "x"),
            ("status", "503"),
            ("connection", "keep-alive, x-once"),
            ("x-once", "gone"),
            ("x-forwarded-for", "6.6.6.6"),
        ],
    )
    assert response.status_code == 200
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert dict(response.headers.raw)[b"x-text"] == b"caf\xe9"
    seen = response.json()["headers"]
    assert [v for n, v in seen if n == "x-one"] == ["1", "2"]
    assert ["cookie", "k=v"] in seen
    assert ["x-latin", "caf\xe9"] in seen
    names = {n for n, _ in seen}
    assert not names & {"te", "mesh-identity", "mesh_status", "nats-service-error", "status", "connection", "x-once"}
    assert "x-forwarded-for" not in names
    forwarded = next(v for n, v in seen if n == "mesh-forwarded")
    assert forwarded == f'for=127.0.0.1;proto=http;host="127.0.0.1:{mesh.gateway.port}"'


async def test_method_target_and_body_cross_untouched(mesh):
    response = await mesh.http.request("PATCH", "/echo?a=%2F&b=+%20&a=2", content=b"\x00\xffraw")
    document = response.json()
    assert (document["method"], document["target"]) == ("PATCH", "/echo?a=%2F&b=+%20&a=2")
    assert document["body"] == "\x00\xffraw"


async def test_tails(mesh):
    assert (await mesh.http.get("/files/a/b%2Fc/")).json() == {"path": "a/b/c/"}
    assert (await mesh.http.get("/files/")).json() == {"path": ""}
    assert (await mesh.http.get("/files")).status_code == 404


async def test_head_from_get(mesh):
    get, head = await mesh.http.get("/pets/7"), await mesh.http.head("/pets/7")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


async def test_204_has_no_body_and_no_length(mesh):
    response = await mesh.http.get("/nothing")
    assert response.status_code == 204
    assert "content-length" not in response.headers


async def test_no_such_path(mesh):
    response = await mesh.http.get("/petz/7")
    assert response.status_code == 404
    problem = response.json()
    assert (problem["reason"], problem["origin"], problem["executed"]) == ("no_route", "gateway", "no")
    assert "GET /pets/{pet_id}" in problem["nearest"]  # on loopback


async def test_other_methods(mesh):
    response = await mesh.http.delete("/pets/7")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    options = await mesh.http.options("/pets/7")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_bodies_beyond_the_limit_are_413_and_nothing_was_published(nats_url, prefix):
    service = Service("eater")

    @service.post("/eat")
    async def eat(body: bytes) -> int:
        return len(body)

    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway={"max_request_body": 1_000_000}) as mesh:
        before = mesh.instances[0].bus.statistics()["in_msgs"]
        response = await mesh.http.post("/eat", content=b"x" * 1_000_001)
        assert (response.status_code, response.json()["executed"]) == (413, "no")
        assert mesh.instances[0].bus.statistics()["in_msgs"] - before < 5
        assert (await mesh.http.post("/eat", content=b"x" * 1_000_000)).json() == 1_000_000


async def test_too_many_headers_and_a_long_target(mesh):
    assert (await mesh.http.get("/pets/7", headers=[(f"x-{i}", "v") for i in range(120)])).status_code == 431
    assert (await mesh.http.get("/pets/7", headers={"x-big": "v" * 40_000})).status_code == 431
    response = await mesh.http.get("/pets/7?" + "q" * 9000)
    assert (response.status_code, response.json()["reason"]) == (414, "target_too_long")


@pytest.mark.parametrize("path", ["/pets/%zz", "/pets/%00", "/files/%2e%2e/x", "/files/../x", "/pets/%ff"])
async def test_bad_targets_are_400(mesh, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"reason":"bad_target"' in answer


async def test_expect_100_is_answered_only_after_route_and_limits(mesh):
    async def first_line(path: str, length: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line

    assert await first_line("/echo", 5) == b"HTTP/1.1 100 Continue\r\n"
    assert (await first_line("/nowhere", 5)).startswith(b"HTTP/1.1 404 ")


async def test_request_ids_and_traces(mesh):
    own = await mesh.http.get("/echo", headers={"x-request-id": "abc-1.2_3"})
    assert own.headers["x-request-id"] == "abc-1.2_3"
    replaced = await mesh.http.get("/echo", headers={"x-request-id": "no spaces allowed"})
    assert replaced.headers["x-request-id"] != "no spaces allowed"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen = dict((await mesh.http.get("/echo", headers={"traceparent": trace})).json()["headers"])
    assert seen["traceparent"] == trace
    fresh = dict((await mesh.http.get("/echo", headers={"traceparent": "nonsense"})).json()["headers"])
    assert len(fresh["traceparent"]) == 55


async def test_routes_appear_change_and_vanish(mesh):
    late = Service("late")

    @late.get("/late")
    async def hello() -> str:
        return "here"

    assert (await mesh.http.get("/late")).status_code == 404
    instance = await mesh.start(late)
    assert (await mesh.http.get("/late")).json() == "here"
    await instance.drain()
    await mesh.until(lambda: mesh.gateway.watcher.registry.get("late", instance.id) is None)
    gone = await mesh.http.get("/late")
    assert (gone.status_code, gone.json()["reason"], gone.headers["retry-after"]) == (503, "no_instances", "1")


async def test_a_service_under_a_prefix(mesh):
    mounted = Service("analytics", prefix="/api/v1/analytics")

    @mounted.get("/metrics")
    async def metrics() -> list[int]:
        return [1]

    await mesh.start(mounted)
    assert (await mesh.http.get("/api/v1/analytics/metrics")).json() == [1]


async def test_versions_side_by_side(mesh):
    def make(version: str, path: str) -> Service:
        service = Service("sided", version=version)

        @service.get(path)
        async def which(request: Request) -> str:
            return f"{version} {request.path_params}"

        @service.get("/sided/both")
        async def both() -> str:
            return version

        return service

    await mesh.start(make("1.0.0", "/sided/old/{a}"))
    await mesh.start(make("2.0.0", "/sided/new/{b}"))
    for _ in range(4):
        assert (await mesh.http.get("/sided/old/x")).json() == "1.0.0 {'a': 'x'}"
        assert (await mesh.http.get("/sided/new/x")).json() == "2.0.0 {'b': 'x'}"
    assert {(await mesh.http.get("/sided/both")).json() for _ in range(6)} == {"1.0.0", "2.0.0"}


async def test_a_client_that_goes_away_cancels_the_handler(mesh):
    slow = Service("slow")
    started, ended = asyncio.Event(), asyncio.Event()

    @slow.get("/slow")
    async def wait(ctx: Context) -> None:
        started.set()
        try:
            await ctx.cancelled.wait()
        finally:
            ended.set()

    instance = await mesh.start(slow)
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.gateway.port)
    writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(started.wait(), 5)
    writer.close()
    await asyncio.wait_for(ended.wait(), 5)
    assert await instance.dispatcher.finish(5) == 0
    await eventually(lambda: len(mesh.gateway.bus.requests) == 0)  # a probe may be open for a moment


async def test_a_handler_that_hangs_is_504_and_is_told(mesh):
    hanging = Service("hanging")
    told = asyncio.Event()

    @hanging.post("/hang", timeout=0.2)
    async def hang(ctx: Context) -> None:
        await ctx.cancelled.wait()
        told.set()

    await mesh.start(hanging)
    response = await mesh.http.post("/hang")
    assert response.status_code == 504
    problem = response.json()
    assert (problem["reason"], problem["executed"], problem["origin"]) == ("deadline_exceeded", "unknown", "mesh")
    await asyncio.wait_for(told.wait(), 5)


async def test_replies_that_are_no_replies(mesh, prefix):
    """A responder that is no mesh instance answers in a mesh instance's name."""
    fake = Service("fake")

    @fake.get("/fake", timeout=0.3)
    async def answer() -> None: ...

    instance = await mesh.start(fake)
    await instance.bus.unsubscribe(*instance._requests)
    replies = {"block": b""}

    def respond(subject, reply, block, payload):
        instance.bus.reply(reply, b"x", replies["block"])

    await instance.bus.subscribe(f"{prefix}.to.fake.{instance.id}.*", respond)
    await instance.bus.flush()
    assert (await mesh.http.get("/fake")).status_code == 504  # without Mesh-Status it is ignored
    for bad in (b"abc", b"42", b"999", b"101"):
        replies["block"] = b"NATS/1.0\r\nMesh-Status: %b\r\n\r\n" % bad
        response = await mesh.http.get("/fake")
        assert (response.status_code, response.json()["reason"]) == (502, "bad_reply")
    (peer,) = mesh.gateway.caller.peers("fake")
    assert peer.failures_in_a_row == 4  # garbage counts towards ejection, an attempt of less than a second does not


async def test_the_access_log_says_what_happened(mesh, nats_url, prefix, tmp_path):
    path = tmp_path / "access.log"
    with path.open("wb") as stream:
        mesh.gateway.access._stream = stream
        mesh.gateway.access.enabled = True
        await mesh.http.get("/pets/7?secret=hunter2", headers={"authorization": "Bearer hunter2"})
        await mesh.http.get("/unknown-path?secret=hunter2")
        mesh.gateway.access.flush()
        mesh.gateway.access.enabled = False
    text = path.read_text()
    assert "hunter2" not in text
    good, bad = map(json.loads, text.splitlines())
    assert (good["route"], good["status"], good["service"], good["attempts"]) == ("/pets/{pet_id}", 200, "pets", 1)
    assert good["instance"] == mesh.instances[0].id
    assert good["duration_ms"] >= good["upstream_ms"] > 0
    assert len(good["trace"]) == 32
    assert (bad["path"], bad["status"], bad["reason"], bad["origin"]) == ("/unknown-path", 404, "no_route", "gateway")


async def test_metrics_are_labelled_by_template_only(mesh):
    from prometheus_client.parser import text_string_to_metric_families

    for i in range(10):
        await mesh.http.get(f"/pets/{i}")
        await mesh.http.get(f"/unknown/{i}")
        await mesh.http.request("PURGE", f"/purge/{i}")
        await mesh.http.get(f"/health/unknown-{i}")
    async with mesh.ops() as ops:
        text = (await ops.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["mesh_gateway_requests"].samples
    by_labels = {(s.labels["method"], s.labels["route"], s.labels["status"]): s.value for s in samples}
    assert by_labels["GET", "/pets/{pet_id}", "200"] == 10
    assert by_labels["GET", "-", "404"] == 10
    assert by_labels["GET", "/health", "404"] == 10
    assert len(by_labels) == 4
    counts = {
        s.labels["route"]: s.value
        for s in families["mesh_gateway_request_duration_seconds"].samples
        if s.name.endswith("_count")
    }
    assert counts["/pets/{pet_id}"] == 10
    assert families["mesh_routes"].samples[0].value == 6


async def test_cors(nats_url, prefix):
    async with Mesh(pets(), nats_url=nats_url, prefix=prefix, gateway={"cors_origins": ("https://app.test",)}) as mesh:
        response = await mesh.http.get("/pets/1", headers={"origin": "https://app.test"})
        assert response.headers["access-control-allow-origin"] == "https://app.test"
        assert response.headers["vary"] == "origin"
        other = await mesh.http.get("/pets/1", headers={"origin": "https://evil.test"})
        assert "access-control-allow-origin" not in other.headers
        preflight = await mesh.http.options(
            "/pets",
            headers={
                "origin": "https://app.test",
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-a",
            },
        )
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"] == "x-a"


async def test_a_busy_port_is_an_error_that_names_it(mesh):
    from mesh.settings import GatewaySettings

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        from gateway.server import Gateway

        gateway = Gateway(mesh.bus_settings, GatewaySettings(port=port, ops_port=0))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await gateway.start()
