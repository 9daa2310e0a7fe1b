"""One announcement, or one answer to $SRV, that is made to harm: connection, other services and commands go on."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from mesh import Service
from mesh.bus import Bus
from mesh.foreign import survey
from mesh.foreign.survey import LONGEST_S
from mesh.messages import revision_of
from mesh.settings import BusSettings
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.processes import run

ID = "A" * 22
BIG = 10**400


def good():
    service = Service("good")

    @service.get("/alive")
    async def alive() -> str:
        return "yes"

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    options = {"gateway": {"foreign_s": 0.3}, "settings": {"heartbeat_ms": 2000}}
    async with Mesh(good(), nats_url=nats_url, prefix=prefix, **options) as mesh:
        yield mesh


async def works(mesh):
    for _ in range(20):
        assert (await mesh.http.get("/alive")).json() == "yes"
    assert mesh.gateway.bus.statistics()["reconnects"] == 0
    assert not mesh.instances[0].stop_requested.is_set()


# -- announcements

ROUTE = {"method": "GET", "path": "/nl", "endpoint": "e"}


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoints": [{"name": "e\n", "subject": "x"}], "routes": [{**ROUTE, "endpoint": "e\n"}]},
        {"endpoints": [{"name": "e", "subject": "x"}], "routes": [{**ROUTE, "method": "PUT\n", "path": "/alive"}]},
        {"endpoints": [{"name": "e", "subject": "x"}], "routes": [{**ROUTE, "timeout_ms": BIG}]},
        {"endpoints": [{"name": "e", "subject": "x"}], "routes": [{**ROUTE, "try_timeout_ms": BIG}]},
        {"revision": "x" * 21 + "\n"},
        {"seq": BIG},
        {"seq": 2**53},
    ],
    ids=str,
)
async def test_an_announcement_that_breaks_others_is_refused(mesh, changes):
    document = {"type": "mesh.v1.announcement", "name": "zevil", "id": ID, "version": "1", "seq": 1, "state": "ready"}
    document |= {"revision": "r" * 22, "started": "", "heartbeat_ms": 2000, **changes}
    async with mesh.client() as bus:
        bus.publish(bus.address(bus.subjects.announce("zevil", ID)), json.dumps(document).encode())
        await eventually(lambda: mesh.gateway.watcher.refused == 1)
    assert mesh.gateway.watcher.registry.instances("zevil") == []
    assert (await mesh.http.get("/nl")).status_code == 404
    assert "\n" not in (await mesh.http.put("/alive")).headers["allow"]
    await works(mesh)


@pytest.mark.parametrize("name", ["gateway", "client"])
async def test_a_reserved_name_wins_no_route(mesh, name, caplog):
    endpoints, routes = [{"name": "e", "subject": "x"}], [{**ROUTE, "path": "/alive"}, ROUTE]
    document = {"type": "mesh.v1.announcement", "name": name, "id": ID, "version": "1", "seq": 1, "state": "ready"}
    document |= {"revision": revision_of(name, "1", (), ()), "started": "", "heartbeat_ms": 2000}
    document |= {"endpoints": endpoints, "routes": routes}
    async with mesh.client() as bus:
        bus.publish(bus.address(bus.subjects.announce(name, ID)), json.dumps(document).encode())
        await eventually(lambda: mesh.gateway.watcher.refused == 1)
    assert (await mesh.http.get("/nl")).status_code == 404
    assert f"the name '{name}' is reserved" in caplog.text
    await works(mesh)


# -- answers of micro services


@asynccontextmanager
async def answering(mesh, name, id="F1", *endpoints, **changes):
    """Somebody who answers $SRV and nothing else, as it likes."""
    document = {"name": name, "id": id, "version": "1.0.0", "metadata": {}, "endpoints": list(endpoints), **changes}
    data = json.dumps(document).encode()
    async with Bus(BusSettings(servers=mesh.bus_settings.servers, prefix="other")) as bus:
        for verb in ("PING", "INFO", "STATS"):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{id}"):
                await bus.subscribe(subject, lambda subject, reply, block, payload: bus.publish(reply, data))
        await bus.flush()
        yield bus


def endpoint(subject, path, method="GET", **more):
    return {
        "name": "e" + str(abs(hash(subject))),
        "subject": subject,
        "metadata": {"http.path": path, "http.method": method},
    } | more


async def test_a_foreign_endpoint_is_no_subject_of_the_mesh(mesh, prefix, caplog):
    harmful = {
        "drain": f"{prefix}.ctl.good.drain",
        "announce": f"{prefix}.announce.ghost.x",
        "prefix": prefix,
        "line": "x\n",
        "long": "x" * 5000,
        "system": "$JS.API.INFO",
        "inbox": "_INBOX.x",
        "odd": "\N{SNOWMAN}.x",
    }
    endpoints = [endpoint(subject, f"/deputy/{name}", "POST") for name, subject in harmful.items()]
    sound = endpoint(f"sound.{prefix}", "/sound")
    async with answering(mesh, "deputy", "F1", *endpoints, sound) as bus:
        await bus.subscribe(f"sound.{prefix}", lambda subject, reply, block, payload: bus.publish(reply, b"yes"))
        await eventually(lambda: mesh.gateway.watcher.registry.instances("deputy"))
        assert (await mesh.http.get("/sound")).text == "yes"
        for name in harmful:
            response = await mesh.http.post(f"/deputy/{name}", content=b"{}")
            assert response.status_code == 404, name
        await works(mesh)
    assert "is not one to send requests to" in caplog.text


async def test_a_foreign_service_does_not_join_one_of_the_mesh(mesh, caplog):
    stolen = endpoint("stolen.alive", "/alive")
    async with answering(mesh, "good", "F1", stolen) as bus:
        await bus.subscribe("stolen.alive", lambda subject, reply, block, payload: bus.publish(reply, b"stolen"))
        await eventually(lambda: "'good' is a service of the mesh" in caplog.text)
        await mesh.gateway.foreign.round(all_info=True)
        await works(mesh)
        assert [i.foreign for i in mesh.gateway.watcher.registry.instances("good")] == [False]


async def test_a_number_beyond_all_hides_no_other_service(mesh, prefix):
    figures = {"average_processing_time": BIG, "num_requests": BIG, "num_errors": -1, "data": {"p50_ms": BIG}}
    wild = endpoint("w.w", "/wild", **figures)
    sound = endpoint(f"sound.{prefix}", "/sound")
    async with answering(mesh, "wild", "W1", wild), answering(mesh, "sound", "S1", sound):
        await eventually(lambda: mesh.gateway.watcher.registry.instances("sound"))
        assert (await mesh.http.get("/sound")).status_code == 503  # it is known, and nobody listens


@asynccontextmanager
async def endless(mesh):
    """Somebody who never stops answering."""
    async with Bus(BusSettings(servers=mesh.bus_settings.servers, prefix="other")) as bus:
        asked, tasks = [], set()

        async def answer(reply):
            for number in range(100_000):
                bus.publish(reply, json.dumps({"name": "endless", "id": f"E{number % 5}"}).encode())
                await asyncio.sleep(0.05)

        def begin(subject, reply, block, payload):
            asked.append(subject)
            task = asyncio.create_task(answer(reply))
            tasks.add(task)

        for verb in ("PING", "INFO", "STATS"):
            await bus.subscribe(f"$SRV.{verb}", begin)
        await bus.flush()
        try:
            yield asked
        finally:
            for task in tasks:
                task.cancel()


async def test_a_survey_ends_whoever_goes_on_answering(mesh):
    async with endless(mesh), mesh.client() as bus:
        began = time.monotonic()
        found = await survey(bus, "PING")
        assert LONGEST_S - 1 < time.monotonic() - began < LONGEST_S + 5
        assert len({m.id for m in found if m.name == "endless"}) == 5


async def test_commands_and_gateway_end_their_questions(mesh, prefix, tmp_path):
    figures = {"average_processing_time": BIG, "num_requests": BIG, "last_error": BIG, "data": {"p99_ms": BIG}}
    sound = endpoint(f"sound.{prefix}", "/sound")
    settings = mesh.bus_settings
    env = {"NATS_URL": settings.servers[0], "MESH_PREFIX": settings.prefix}
    commands = (
        ("ls", "--json"),
        ("info", "good"),
        ("stats",),
        ("ping", "--count", "1"),
        ("doctor", "--for", "0.5"),
        ("call", "good", "alive"),
        ("call", "GET", "/alive"),
        ("routes",),
        ("tail", "--once"),
    )

    few = asyncio.Semaphore(3)  # they wait most of the time

    async def ended(arguments):
        async with few, run(*arguments, cwd=tmp_path, env=env) as process:
            await asyncio.wait_for(process.child.wait(), 40)
            await process._reader
            return process.child.returncode, process.lines

    async with (
        endless(mesh) as asked,
        answering(mesh, "wild", "W1", endpoint("w.w", "/wild", **figures)),
        answering(mesh, "sound", "S1", sound),
    ):
        for arguments, (code, lines) in zip(commands, await asyncio.gather(*map(ended, commands)), strict=True):
            assert code == 0, (arguments, lines)
            assert not any("Traceback" in line for line in lines), (arguments, lines)
        await eventually(lambda: mesh.gateway.watcher.registry.instances("sound"), 20)
        assert asked
    await works(mesh)
