"""Foreign NATS micro services: two lines of metadata make an HTTP route, and nobody has to tell a gateway."""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import nats
import nats.micro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.micro.request import ServiceError

from mesh import Context, MeshClient, Service
from mesh.bus import Reply
from mesh.embedded import NatsServer
from mesh.errors import NoInstances, NoResponders, NotFound
from mesh.foreign.routes import announcement_of
from mesh.foreign.survey import MicroEndpoint, MicroInstance, survey
from mesh.messages import Route
from mesh.registry import Registry
from mesh.settings import BusSettings
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.processes import run


async def jokes(request):
    path = request.headers.get("Mesh-Request", "")
    number = (request.headers.get("Mesh-Params") or "=").partition("=")[2]
    if number == "13":
        raise ServiceError("404", "no joke 13")
    document = {"joke": number, "body": request.data.decode(), "asked": path, "x": request.headers.get("x-seen")}
    await request.respond(json.dumps(document).encode(), headers={"content-type": "application/json"})


async def refuse(request):
    raise ServiceError("404", "no joke today")


@asynccontextmanager
async def foreign(url, *endpoints, name="joker", version="1.0.0", group="jokes", handler=jokes):
    """A micro service of nats-py: (name, metadata) for each endpoint."""
    client = await nats.connect(url)
    service = await nats.micro.add_service(client, name=name, version=version)
    group = service.add_group(name=group)
    for endpoint, metadata in endpoints:
        await group.add_endpoint(name=endpoint, handler=handler, metadata=metadata)
    await client.flush()
    try:
        yield client
    finally:
        if not client.is_closed:
            await service.stop()
            await client.close()


ONE = ("one", {"http.method": "GET", "http.path": "/jokes/{id}", "http.summary": "One joke", "http.timeout_ms": "700"})
NEW = ("new", {"http.method": "post", "http.path": "/jokes"})


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway={"foreign_s": 0.3}) as mesh:
        yield mesh


async def served(mesh, path, status=200):
    async with asyncio.timeout(10):
        while (response := await mesh.http.get(path)).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return response


async def test_metadata_makes_routes(mesh, nats_url):
    async with foreign(nats_url, ONE, NEW, ("plain", {})):
        found = (await served(mesh, "/jokes/7?x=1")).json()
        assert (found["joke"], found["asked"]) == ("7", "GET /jokes/7?x=1")
        made = await mesh.http.post("/jokes", content=b"knock", headers={"x-seen": "yes"})
        assert (made.status_code, made.json()["body"], made.json()["x"]) == (200, "knock", "yes")
        assert made.headers["content-type"] == "application/json"
        missing = await mesh.http.get("/jokes/13")  # its own error code, and its words
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (missing.json()["detail"], missing.json()["origin"]) == ("no joke 13", "service")
        assert (await mesh.http.delete("/jokes/7")).status_code == 405
        async with mesh.ops() as ops:
            routes = {(r["method"], r["path"]): r for r in (await ops.get("/api/routes")).json()["routes"]}
        assert routes["GET", "/jokes/{id}"]["service"] == "joker"
        health = (await mesh.http.get("/health")).json()
        assert health["services"]["joker"]["ready"] == 1
        (row,) = (await mesh.http.get("/v1/metadata/joker")).json()["services"]["joker"]
        assert row["foreign"] is True
    gone = await served(mesh, "/jokes/7", 503)
    assert gone.json()["reason"] in ("no_instances", "no_responders")
    await eventually(lambda: not mesh.gateway.watcher.registry.instances("joker"))


@pytest.fixture
async def client(nats_url, prefix):
    async with MeshClient(BusSettings(servers=(nats_url,), prefix=prefix)) as client:
        yield client


async def test_calls_by_name_find_them(client, mesh, nats_url):
    with pytest.raises(NoResponders):
        await client.call("joker", "plain")
    async with foreign(nats_url, ("plain", {})):
        assert (await client.call("joker", "plain", question="why"))["body"] == '{"question":"why"}'
        pieces = [piece async for piece in client.stream("joker", "plain")]
        assert json.loads(pieces[0])["body"] == "{}"
        with pytest.raises(NotFound, match="no endpoint 'other'"):
            await client.call("joker", "other")
        teller = Service("teller")

        @teller.get("/told")
        async def told(ctx: Context) -> dict[str, str | None]:
            return await ctx.call("joker", "plain", returns=dict[str, str | None])

        await mesh.start(teller)
        assert (await mesh.http.get("/told")).json()["body"] == "{}"
    # It has gone, and somebody else of that name listens elsewhere.
    with pytest.raises((NoInstances, NoResponders)):
        await client.call("joker", "plain")
    async with foreign(nats_url, ("plain", {}), group="puns"):
        assert (await client.call("joker", "plain"))["body"] == "{}"


async def test_a_foreign_error_is_a_callers_error(client, nats_url):
    async with foreign(nats_url, ("plain", {}), handler=refuse):
        with pytest.raises(NotFound) as caught:
            await client.call("joker", "plain")
    assert (caught.value.status, caught.value.detail) == (404, "no joke today")


async def test_a_name_that_the_mesh_has_is_never_looked_for_elsewhere(client, mesh, nats_url):
    native = Service("joker")

    @native.endpoint()
    async def plain() -> str:
        return "native"

    async with foreign(nats_url, ("plain", {})):
        await mesh.start(native)
        assert [await client.call("joker", "plain") for _ in range(5)] == ["native"] * 5


@pytest.mark.parametrize("subject", ["$JS.API.STREAM.NAMES", "_INBOX.x", "a.*", "a b", ""])
async def test_a_call_goes_to_no_subject_that_is_not_a_services(client, nats_url, subject):
    """Whoever answers for a name says where requests go: not into NATS itself."""
    info = {"name": "joker", "id": "X1", "version": "1.0.0", "endpoints": [{"name": "plain", "subject": subject}]}
    hostile = await nats.connect(nats_url)

    async def answer(message):
        await message.respond(json.dumps(info).encode())

    await hostile.subscribe("$SRV.INFO.joker", cb=answer)
    await hostile.flush()
    with pytest.raises((NoInstances, NoResponders)):
        await client.call("joker", "plain")
    await hostile.close()


async def test_a_survey_ends_when_it_is_cancelled_with_an_answer_just_there():
    """Python 3.11's wait_for forgets such a cancellation, and a gateway would never end."""

    class OneAnswer:
        replies = asyncio.Queue()

        def address(self, subject):
            return subject.encode()

        @asynccontextmanager
        async def gather(self, address, payload):
            yield self.replies

    asking = asyncio.create_task(survey(OneAnswer(), "PING", first=60, quiet=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    OneAnswer.replies.put_nowait(Reply(b"", b"{}"))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(asking), 5)


async def test_who_dies_is_gone_with_the_first_request_that_finds_nobody(nats_url, prefix):
    """Long before the next round."""
    settings = {"foreign_s": 3000}
    async with (
        Mesh(nats_url=nats_url, prefix=prefix, gateway=settings) as mesh,
        foreign(nats_url, ONE) as client,
    ):
        await mesh.gateway.foreign.round()
        assert (await mesh.http.get("/jokes/1")).status_code == 200
        await client.close()  # without a word
        assert (await served(mesh, "/jokes/1", 503)).json()["executed"] == "no"
        await eventually(lambda: not mesh.gateway.watcher.registry.instances("joker"))
        assert (await mesh.http.get("/jokes/1")).json()["reason"] == "no_instances"


async def test_two_of_them_share_the_work_and_one_may_go(mesh, nats_url):
    async with foreign(nats_url, ONE):
        async with foreign(nats_url, ONE):
            await eventually(lambda: len(mesh.gateway.watcher.registry.instances("joker")) == 2)
            await served(mesh, "/jokes/1")
        for _ in range(20):
            assert (await mesh.http.get("/jokes/1")).status_code == 200
        await eventually(lambda: len(mesh.gateway.watcher.registry.instances("joker")) == 1)


async def test_an_outage_of_nats_dismisses_nobody(prefix):
    async with (
        NatsServer() as server,
        Mesh(nats_url=server.url, prefix=prefix, gateway={"foreign_s": 0.3}) as mesh,
        foreign(server.url, ONE),
    ):
        await served(mesh, "/jokes/1")
        heard = []
        mesh.gateway.watcher.on_change(lambda found: heard.extend(c.kind for c in found if c.service == "joker"))
        await server.kill()
        await eventually(lambda: not mesh.gateway.bus.connected)
        clock = asyncio.get_running_loop().time
        over = clock() + 1  # three rounds would have been
        await eventually(lambda: clock() > over)
        assert heard == []
        assert (await mesh.http.get("/jokes/1")).json()["reason"] == "bus_unavailable"
        await server.start()
        await served(mesh, "/jokes/1")


async def test_services_of_a_mesh_are_not_foreign(mesh, nats_url, prefix):
    service = Service("own")

    @service.get("/own")
    async def own() -> str:
        return "own"

    await mesh.start(service)
    async with Mesh(service, nats_url=nats_url, prefix=f"{prefix}-other"):
        await mesh.gateway.foreign.round(all_info=True)
        assert [i.foreign for i in mesh.gateway.watcher.registry.instances("own")] == [False]


async def test_mesh_tail_and_ls_show_them(mesh, tmp_path, nats_url, prefix):
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix}
    async with run("tail", "--json", "--foreign", "0.2", cwd=tmp_path, env=env) as tail:
        await tail.line('"service":"gateway"')
        async with foreign(nats_url, ONE, name="shown"):
            joined = json.loads(await tail.line('"kind":"joined".*"service":"shown"'))
            assert "GET /jokes/{id}" in json.dumps(joined)
            async with run("ls", "--json", cwd=tmp_path, env=env) as ls:
                assert await ls.line('"shown"')
        assert await tail.line('"kind":"left".*"service":"shown"')
        assert await tail.end() == 0


# -- metadata that is wrong


def micro(*endpoints, name="joker", id="A1"):
    return MicroInstance(name, id, version="1.0.0", endpoints=list(endpoints))


@pytest.mark.parametrize(
    ("metadata", "subject", "says"),
    [
        ({"http.path": "no-slash"}, "jokes.one", "http.path 'no-slash'"),
        ({"http.path": "/x", "http.method": "GE T"}, "jokes.one", "http.method"),
        ({"http.path": "/x", "http.timeout_ms": "soon"}, "jokes.one", "http.timeout_ms 'soon'"),
        ({"http.path": "/x", "http.retry": "no"}, "jokes.one", "http.retry 'no'"),
        ({"http.path": "/x"}, "jokes.*", "the subject 'jokes.\\*'"),
        ({"http.path": "/x"}, "$SYS.REQ", "the subject"),
        ({"http.path": "/x"}, "_INBOX.x", "the subject"),
        ({"http.path": "/x"}, "a b", "the subject"),
        ({"http.path": "/x"}, "", "the subject"),
    ],
)
def test_a_wrong_endpoint_is_left_out_and_told(metadata, subject, says):
    problems = []
    good = MicroEndpoint("good", "jokes.good", metadata={"http.path": "/good"})
    found = announcement_of(micro(MicroEndpoint("one", subject, metadata=metadata), good), "mesh", problems)
    assert [route.path for route in found.routes] == ["/good"]
    assert len(problems) == 1
    assert "joker, endpoint 'one'" in problems[0]
    assert re.search(says, problems[0])


def test_what_an_endpoint_says_is_in_its_route():
    metadata = {"http.path": "/x", "http.summary": "An x", "http.auth": "key", "http.timeout_ms": "250"}
    (route,) = announcement_of(micro(MicroEndpoint("x", "x.y", metadata=metadata)), "mesh", []).routes
    expected = Route(method="GET", path="/x", endpoint="x.y", summary="An x", auth="key", timeout_ms=250)
    assert route == expected
    assert route.retry
    for said, retry in (("false", False), ("False", False), ("true", True)):
        (route,) = announcement_of(
            micro(MicroEndpoint("x", "x.y", metadata={**metadata, "http.retry": said})), "mesh", []
        ).routes
        assert route.retry is retry


def test_a_name_that_is_none_is_nobody():
    problems = []
    assert announcement_of(micro(name="a b"), "mesh", problems) is None
    assert problems


TEXT = st.text(max_size=20)


@given(
    st.lists(
        st.builds(
            MicroEndpoint,
            TEXT | st.sampled_from(["a", "b"]),
            TEXT | st.just("a.b"),
            TEXT,
            st.dictionaries(
                st.sampled_from(["http.path", "http.method", "http.timeout_ms", "http.auth", "http.retry"]), TEXT
            ),
        ),
        max_size=5,
    )
)
def test_any_metadata_is_survived(endpoints):
    registry = Registry()
    found = announcement_of(micro(*endpoints), "mesh", [])
    assert found is not None
    first = registry.adopt(found, 0.0)
    assert [change.kind for change in first] == ["joined"]
    assert registry.adopt(found, 1.0) == []  # the same again is no news
    assert registry.expire(10_000.0) == []  # silence says nothing
    assert [change.kind for change in registry.dismiss("joker", "A1")] == ["left"]
    assert registry.dismiss("joker", "A1") == []
    assert len(registry) == 0


def test_what_changes_is_told():
    registry = Registry()
    old = announcement_of(micro(MicroEndpoint("a", "s.a", metadata={"http.path": "/a"})), "mesh", [])
    new = announcement_of(micro(MicroEndpoint("a", "s.a", metadata={"http.path": "/b"})), "mesh", [])
    registry.adopt(old, 0.0)
    (change,) = registry.adopt(new, 1.0)
    assert (change.kind, change.added, change.removed) == ("changed", new.routes, old.routes)
