"""Somebody publishes in the name of a live instance: gateways know the truth again at once, and it is reported."""

import asyncio
import logging

import msgspec
import pytest

from mesh import Service
from mesh.messages import MAX_COUNT, Announcement, Heartbeat, Route, encode
from mesh.testing import Mesh
from tests.conditions import eventually


def patient(released):
    service = Service("patient")

    @service.get("/now")
    async def now() -> str:
        return "now"

    @service.get("/later")
    async def later() -> str:
        await released.wait()
        return "later"

    return service


@pytest.fixture
async def released():
    return asyncio.Event()


@pytest.fixture
async def mesh(nats_url, prefix, released):
    # So seldom that no heartbeat helps here.
    async with Mesh(patient(released), nats_url=nats_url, prefix=prefix, settings={"heartbeat_ms": 30_000}) as mesh:
        yield mesh


@pytest.fixture
async def forge(mesh):
    """``forge(kind, seq, **facts)`` publishes a message in the instance's name."""
    instance = mesh.instances[0]
    async with mesh.client("thief") as bus:

        def publish(kind, seq, **facts):
            known = {"name": "patient", "id": instance.id, "revision": instance.announcer.revision, "state": "ready"}
            if kind is Announcement:
                known |= {"version": "0.0.1", "started": "", "heartbeat_ms": 30_000}
            subject = (bus.subjects.announce if kind is Announcement else bus.subjects.heartbeat)(
                "patient", instance.id
            )
            bus.publish(bus.address(subject), encode(kind(seq=seq, **{**known, **facts})))

        yield publish


def known(mesh):
    return mesh.gateway.watcher.registry.get("patient", mesh.instances[0].id)


FORGERIES = [
    (Heartbeat, 1, {"state": "stopped"}),
    (Announcement, 1, {"state": "stopped"}),
    (Heartbeat, 1_000_000, {"state": "stopped"}),
    (Heartbeat, 1_000_000, {"state": "draining"}),
    (Announcement, 1_000_000, {}),  # without routes
    (Announcement, 1_000_000, {"revision": "x" * 22, "version": "9.9.9"}),
    (Heartbeat, 1_000_000, {"revision": "x" * 22}),
    (Heartbeat, MAX_COUNT, {"state": "stopped"}),
    (Announcement, MAX_COUNT, {"state": "draining"}),
]


@pytest.mark.parametrize(("kind", "seq", "facts"), FORGERIES)
async def test_gateways_know_the_truth_again_at_once(mesh, forge, released, caplog, kind, seq, facts):
    instance, loop = mesh.instances[0], asyncio.get_running_loop()
    running = asyncio.create_task(mesh.http.get("/later"))
    await eventually(lambda: instance.dispatcher.inflight == 1)
    content = known(mesh).content  # the record itself changes with what is heard
    began = loop.time()
    forge(kind, seq, **facts)
    await eventually(lambda: instance.announcer.contradicted == 1)

    def true():
        found = known(mesh)
        told = found is not None and (found.state, found.content) == ("ready", content)
        return told and found.announced == found.seq == instance.announcer._seq

    await eventually(true, 5)
    assert loop.time() - began < 5
    assert (await mesh.http.get("/now")).json() == "now"
    await asyncio.sleep(0.3)  # a stopped instance's calls are failed 250 ms later; this one's are not
    released.set()
    assert (await running).json() == "later"
    assert "another process speaks for this instance" in caplog.text


@pytest.mark.parametrize(
    "facts",
    [
        {"claimed": (0,)},
        {"connection": MAX_COUNT},
        {"description": "forged"},
        {"metadata": {"forged": "yes"}},
        {"heartbeat_ms": 250},
        {"bundles": False},
    ],
)
@pytest.mark.parametrize("stopped", [True, False])
async def test_what_no_revision_covers_is_put_right_too(mesh, facts, stopped):
    """Where the forged message says all else as it is, heartbeats contradict it in nothing."""
    instance = mesh.instances[0]
    before = known(mesh)
    (name,) = facts
    truth = getattr(before, name)
    said = msgspec.structs.replace(instance.announcer._current(), seq=before.seq + 1000, **facts)
    async with mesh.client("thief") as bus:
        if stopped:
            stop = msgspec.structs.replace(said, seq=said.seq - 1, state="stopped")
            bus.publish(bus.address(bus.subjects.announce("patient", instance.id)), encode(stop))
        bus.publish(bus.address(bus.subjects.announce("patient", instance.id)), encode(said))
        await eventually(lambda: known(mesh) is not None and known(mesh).announced > said.seq)
    assert getattr(known(mesh), name) == truth
    (peer,) = mesh.gateway.caller.peers("patient")
    assert peer.bundle_address
    assert (await mesh.http.get("/now")).json() == "now"


async def test_the_same_false_claim_is_put_right_each_time(mesh, monkeypatch):
    monkeypatch.setattr("mesh.announcer.SAME_CORRECTION_GAP_S", 0.3)
    instance, loop = mesh.instances[0], asyncio.get_running_loop()
    truth, heard = known(mesh).claimed, []
    async with mesh.client("thief") as bus:
        await bus.subscribe(bus.subjects.announce("patient", instance.id), lambda *message: heard.append(message))
        await bus.flush()
        began = loop.time()
        for number in range(6):
            said = msgspec.structs.replace(instance.announcer._current(), seq=known(mesh).seq + 1, claimed=(0,))
            bus.publish(bus.address(bus.subjects.announce("patient", instance.id)), encode(said))
            await eventually(lambda said=said: known(mesh).seq > said.seq)
            assert known(mesh).claimed == truth
            # The first time at once, and no more often than two copies of one process may say it to each other.
            assert loop.time() - began >= 0.28 * number
        assert len(heard) <= 2 * 6 + 1


async def test_under_a_flood_it_says_so_ten_times_a_second_at_most(mesh, forge):
    instance, heard = mesh.instances[0], []
    async with mesh.client() as bus:
        await bus.subscribe(bus.subjects.announce("patient", instance.id), lambda *message: heard.append(message))
        await bus.flush()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for seq in range(1000, 1500):
            forge(Heartbeat, seq, state="draining")
            await asyncio.sleep(0.001)
        await eventually(lambda: instance.announcer.contradicted == 500)
        await eventually(lambda: known(mesh).state == "ready")
        assert 1 <= len(heard) <= 2 + (loop.time() - began) / 0.1


async def test_an_honest_instance_hears_nobody_else(nats_url, prefix, released, caplog):
    async with Mesh(patient(released), nats_url=nats_url, prefix=prefix) as mesh:
        instance, heard = mesh.instances[0], []
        async with mesh.client() as bus:
            await bus.subscribe(bus.subjects.heartbeat("patient", instance.id), lambda *message: heard.append(1))
            for state in ("unready", "ready", "unready", "ready"):
                instance.announcer.declare(state)
            bus.publish(bus.address(bus.subjects.discover()), b"")
            await eventually(lambda: len(heard) >= 3)
        assert instance.announcer.contradicted == mesh.gateway.announcer.contradicted == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_two_processes_with_one_id_do_not_answer_each_other_for_ever(nats_url, prefix, released):
    async with Mesh(patient(released), nats_url=nats_url, prefix=prefix) as mesh:
        from mesh.service import ServiceInstance

        first, heard = mesh.instances[0], []
        twin = ServiceInstance(patient(released), mesh.bus_settings, mesh.service_settings, first.id)
        async with mesh.client() as bus, twin:
            await bus.subscribe(bus.subjects.announce("patient", first.id), lambda *message: heard.append(message))
            beats = []
            await bus.subscribe(bus.subjects.heartbeat("patient", first.id), lambda *message: beats.append(message))
            await eventually(lambda: len(beats) >= 8)
            assert first.announcer.contradicted >= 2
            assert twin.announcer.contradicted >= 2
            assert len(heard) <= 4  # their claims differ, which each corrects once; all else is the same
            assert (await mesh.http.get("/now")).json() == "now"
            # One of them has its second connection now, and the other one its first.
            connections = twin.bus.connections
            twin.bus._fast_transport._transport.abort()
            await eventually(lambda: twin.bus.connected and twin.bus.connections > connections, 5)
            await asyncio.sleep(0.3)
            heard.clear()
            await asyncio.sleep(1)
            assert len(heard) <= 4


@pytest.mark.parametrize("routes", [(), (("GET", "clear"),), (("GET", "read"), ("POST", "clear"))])
async def test_nobody_rewrites_the_routes_of_others_with_their_revision(nats_url, prefix, caplog, routes):
    """An instance that is never picked announces their revision with other routes."""
    service, cleared = Service("notes"), []

    @service.get("/notes")
    async def read() -> str:
        return "read"

    @service.post("/notes")
    async def clear() -> str:
        cleared.append(1)
        await asyncio.sleep(0.2)
        return "cleared"

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh, mesh.client("thief") as bus:
        truth = mesh.instances[0].announcer._current()
        false = msgspec.structs.replace(
            truth,
            id="evil",
            state="unready",
            routes=tuple(
                Route(method=method, path="/notes", endpoint=endpoint, idempotent=True, try_timeout_ms=50)
                for method, endpoint in routes
            ),
            claimed=(),
        )
        bus.publish(bus.address(bus.subjects.announce("notes", "evil")), encode(false))
        await eventually(lambda: mesh.gateway.watcher.registry.get("notes", "evil") is not None)
        mesh.gateway.live_routes.update_now()
        assert [(await mesh.http.get("/notes")).json() for _ in range(5)] == ["read"] * 5
        assert (await mesh.http.post("/notes")).json() == "cleared"
        assert len(cleared) == 1
        async with mesh.ops() as ops:
            assert "\nmesh_revision_clashes_total 1\n" in (await ops.get("/metrics")).text
    assert "notes.evil announces a revision that another instance has with other routes" in caplog.text


async def test_a_forged_seq_does_not_end_the_numbers(mesh, forge):
    """Followed as far as it is believed by others, and never above the largest that may be on the wire."""
    announcer = mesh.instances[0].announcer
    forge(Heartbeat, MAX_COUNT)
    await eventually(lambda: announcer.contradicted == 1)
    assert announcer._seq < 1000
    announcer._seq = MAX_COUNT - 1
    for _ in range(3):
        announcer.announce()
    assert announcer._seq == MAX_COUNT
