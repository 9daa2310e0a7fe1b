"""Why is this instance not picked? The operator's plane, the metrics and the log say so, of a real gateway."""

import asyncio
from datetime import UTC, datetime

import aiohttp
import httpx
import pytest

from mesh import Context, Service, WebSocket
from mesh.balancer import RetryBudget
from mesh.testing import Mesh
from tests.conditions import eventually

PATIENT = {"heartbeat_ms": 30_000}
"""Of instances whose silence tells nothing while a test lasts."""


@pytest.fixture
async def mesh(nats_url, prefix):
    gateway = {"timeout_ms": 1200}
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway=gateway, settings={"drain_s": 0.1}) as mesh:
        yield mesh


@pytest.fixture
async def ops(mesh):
    async with httpx.AsyncClient(base_url=mesh.ops_url) as ops:
        yield ops


async def report(ops, service="pets"):
    return (await ops.get("/api/peers", params={"service": service})).json()[service]


async def metric(ops, name, **labels):
    """The value of one sample of a service's metric."""
    text = ",".join(f'{key}="{value}"' for key, value in {"service": "pets", **labels}.items())
    (line,) = [line for line in (await ops.get("/metrics")).text.splitlines() if line.startswith(f"{name}{{{text}}} ")]
    return float(line.split()[-1])


def logged(caplog, logger):
    return [record.getMessage() for record in caplog.records if record.name == logger]


def pets():
    service = Service("pets")
    service.stuck = set()

    @service.get("/pets")
    async def all_pets(ctx: Context) -> str:
        if ctx.instance in service.stuck:
            await asyncio.Event().wait()
        return ctx.instance

    @service.get("/quick-pets", try_timeout=0.1)
    async def quick(ctx: Context) -> str:
        return await all_pets(ctx)

    return service


async def two(mesh):
    service = pets()
    return service, await mesh.start(service, **PATIENT), await mesh.start(service, **PATIENT)


async def test_an_instance_that_fails_five_times_is_seen_ejected(mesh, ops, caplog):
    service, stuck, sound = await two(mesh)
    service.stuck.add(stuck.id)
    with caplog.at_level("DEBUG", "mesh.balancer"):
        responses = await asyncio.gather(*(mesh.http.get("/pets") for _ in range(10)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [504] * 5

    instances = {instance["id"]: instance for instance in (await report(ops))["instances"]}
    shown = instances[stuck.id]
    until = datetime.fromisoformat(shown.pop("ejected_until"))
    assert 5 < (until - datetime.now(UTC)).total_seconds() < 10
    assert shown == {
        "id": stuck.id,
        "state": "ejected",
        "why": "5 calls in a row failed, the last one: timeout",
        "inflight": 0,
        "failures_in_a_row": 0,
        "last_failure": "timeout",
        "skipped_since": None,
    }
    assert (instances[sound.id]["state"], instances[sound.id]["why"]) == ("ready", "")
    assert (await report(ops))["ejections"]["timeout"] == 1

    (line,) = logged(caplog, "mesh.balancer")
    assert line == f"pets.{stuck.id} is ejected for 10 s: 5 calls in a row failed, the last one: timeout"
    assert await metric(ops, "mesh_gateway_instances", state="ejected") == 1
    assert await metric(ops, "mesh_gateway_instances", state="ready") == 1
    assert await metric(ops, "mesh_gateway_ejections_total", reason="timeout") == 1


async def test_a_handshake_that_fails_counts_like_a_request(mesh, ops, prefix):
    """An impostor accepts WebSockets in an instance's name, with a stream that leads out of the mesh."""
    service = Service("pets")

    @service.websocket("/live-pets")
    async def live(ws: WebSocket) -> None: ...

    instance = await mesh.start(service, **PATIENT)
    await instance.bus.unsubscribe(*instance._requests)

    def accept(subject, reply, block, payload):
        instance.bus.reply(reply, b"", b"NATS/1.0\r\nMesh-Stream: elsewhere\r\n\r\n")

    await instance.bus.subscribe(f"{prefix}.to.pets.{instance.id}.*", accept)
    await instance.bus.flush()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="502"):
            await session.ws_connect(mesh.url + "/live-pets")
    (shown,) = (await report(ops))["instances"]
    assert (shown["failures_in_a_row"], shown["last_failure"], shown["inflight"]) == (1, "bad_reply", 0)


async def test_failures_without_an_ejection_are_seen(mesh, ops):
    service = pets()
    only = await mesh.start(service, **PATIENT)
    service.stuck.add(only.id)
    await asyncio.gather(*(mesh.http.get("/pets") for _ in range(6)))
    (shown,) = (await report(ops))["instances"]
    assert (shown["state"], shown["failures_in_a_row"]) == ("ready", 6)
    assert shown["why"].startswith("6 calls in a row failed, the last one: timeout; it still gets calls")
    assert (await report(ops))["without_instance"] == 0  # no retry was permitted, so none missed an instance


async def test_an_instance_at_whose_address_nobody_listens_is_seen_skipped_until_it_is_heard(mesh, ops, caplog):
    _, deaf, sound = await two(mesh)
    await deaf.bus.unsubscribe(*deaf._requests)
    with caplog.at_level("DEBUG", "mesh.balancer"):
        for _ in range(6):
            assert (await mesh.http.get("/pets")).json() == sound.id
        shown = {instance["id"]: instance for instance in (await report(ops))["instances"]}[deaf.id]
        assert shown["state"] == "skipped"
        assert shown["why"].endswith("s ago that nothing listens at its address")
        assert abs((datetime.fromisoformat(shown["skipped_since"]) - datetime.now(UTC)).total_seconds()) < 5
        assert await metric(ops, "mesh_gateway_instances", state="skipped") == 1
        deaf.announcer.announce()
        await eventually(lambda: not mesh.gateway.caller.services["pets"].balancer.is_skipped(deaf.id))
    skipped, heard = logged(caplog, "mesh.balancer")  # one line each, whatever the number of requests
    assert skipped.startswith(f"pets.{deaf.id} is skipped: NATS said 0.0 s ago")
    assert heard == f"pets.{deaf.id} is heard again and no longer skipped"
    assert await metric(ops, "mesh_gateway_instances", state="ready") == 2


async def test_retries_are_seen_with_their_reason_and_instances(mesh, ops):
    service, stuck, sound = await two(mesh)
    service.stuck.add(stuck.id)
    seen = await report(ops)
    while not seen["last_retries"]:  # the first request may go to either
        assert (await mesh.http.get("/quick-pets")).json() == sound.id
        seen = await report(ops)
    assert seen["retries"] == {"no_responders": 0, "timeout": 1, "instance_lost": 0, "connection_lost": 0}
    (retry,) = seen["last_retries"]
    assert abs((datetime.fromisoformat(retry.pop("at")) - datetime.now(UTC)).total_seconds()) < 5
    assert retry == {"reason": "timeout", "failed": stuck.id, "chosen": sound.id}
    assert seen["retry_budget"] == {"left": 99, "refused": 0}
    assert await metric(ops, "mesh_gateway_retries_total", reason="timeout") == 1
    assert await metric(ops, "mesh_gateway_retry_budget_left") == 99


async def test_an_empty_retry_budget_is_seen(mesh, ops, caplog, monkeypatch):
    service, stuck, _ = await two(mesh)
    service.stuck.add(stuck.id)
    called = mesh.gateway.caller.services["pets"]
    monkeypatch.setattr(called, "budget", RetryBudget(ratio=0, per_second=0))
    with caplog.at_level("DEBUG", "mesh.client"):
        responses = await asyncio.gather(*(mesh.http.get("/quick-pets") for _ in range(4)))
    assert sorted(response.status_code for response in responses) == [200, 200, 504, 504]
    assert (await report(ops))["retry_budget"] == {"left": 0, "refused": 2}
    assert await metric(ops, "mesh_gateway_retry_budget_empty_total") == 2
    assert logged(caplog, "mesh.client") == ["no retry at pets after timeout: the retry budget is empty"]


async def test_that_no_instance_is_left_is_seen(mesh, ops, caplog):
    service = pets()
    deaf = await mesh.start(service, **PATIENT)
    await deaf.bus.unsubscribe(*deaf._requests)
    with caplog.at_level("DEBUG", "mesh.balancer"):
        for _ in range(3):
            assert (await mesh.http.get("/pets")).status_code == 503
    _, line = logged(caplog, "mesh.balancer")
    assert line == "no instance of pets for an attempt: known 1 skipped; tried 1"
    assert (await report(ops))["without_instance"] == 3
    assert await metric(ops, "mesh_gateway_without_instance_total") == 3


async def test_instances_that_are_suspect_or_not_ready_are_seen(mesh, ops, caplog):
    with caplog.at_level("DEBUG", "mesh.balancer"):
        silent = await mesh.start(pets(), heartbeat_ms=300)
        silent.announcer.beat = lambda *_: None
        busy = await mesh.start(pets(), **PATIENT)
        busy.announcer.declare("draining")
        silent.bus.publish = lambda *_: None
        await eventually(lambda: any("suspect" in line for line in logged(caplog, "mesh.balancer")))
        shown = {instance["id"]: instance for instance in (await report(ops))["instances"]}
    assert (shown[silent.id]["state"], shown[silent.id]["why"]) == ("suspect", "its heartbeats are late")
    assert (shown[busy.id]["state"], shown[busy.id]["why"]) == ("unready", "it says that it is draining")


async def test_of_a_service_that_nobody_knows_there_is_nothing(mesh, ops):
    assert (await ops.get("/api/peers?service=nobody")).status_code == 404
    await mesh.start(pets())
    assert list((await ops.get("/api/peers")).json()) == ["gateway", "pets"]


async def test_replies_that_nobody_waits_for_are_counted(mesh, ops):
    instance = await mesh.start(pets())
    bus = mesh.gateway.bus
    reply = bus.requests.new_reply()
    instance.bus.reply(reply, b"", b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n")
    await eventually(lambda: bus.statistics()["late_replies"] == 1)
    text = (await ops.get("/metrics")).text
    assert "\nmesh_bus_late_replies_total 1\n" in text
    assert "\nmesh_bus_ignored_replies_total 0\n" in text
