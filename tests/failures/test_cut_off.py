"""NATS away for a while: nothing is judged meanwhile, refusals are quick, and all is well soon after its return."""

import asyncio
import io
import json
from time import monotonic

import pytest

from gateway.server import Gateway
from mesh import Service
from mesh.service import ServiceInstance
from mesh.settings import BusSettings, GatewaySettings, ServiceSettings
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire
from tests.processes import http_client
from tests.registry.simulation import TICK, World

BACK_WITHIN_S = 2.0
MARGIN = 2.0  # busy machines
QUICK_MS = 50


def sleeper() -> Service:
    service = Service("sleeper")

    @service.get("/sleep/{seconds}")
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    return service


async def serves(url, path, timeout):
    """Seconds until ``path`` answers 200; every answer before is a 503 with Retry-After."""
    began = monotonic()
    async with http_client(base_url=url) as http:
        while (response := await http.get(path)).status_code != 200:
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert monotonic() - began < timeout, response.text
            await asyncio.sleep(0.01)
    return monotonic() - began


async def test_gateway_and_service_started_before_nats_serve_soon_after_it(nats, prefix, figures):
    await nats.stop()
    bus = BusSettings(servers=(nats.url,), prefix=prefix)
    instance = ServiceInstance(sleeper(), bus, ServiceSettings(linger_ms=0))
    await instance.start()
    async with Gateway(bus, GatewaySettings(port=0, ops_port=0, access_log=False, linger_ms=0)) as gateway:
        async with HttpWire(gateway.port) as http:
            refused = await http.ask("GET", "/sleep/0")
            assert (refused.status, refused.reason) == (503, "bus_unavailable")
        # Long enough for every backing off to be at its longest.
        await eventually(lambda: gateway.bus.last_error and instance.bus.last_error)
        outage = asyncio.get_running_loop().time() + 2.5
        await eventually(lambda: asyncio.get_running_loop().time() > outage)
        await nats.start()
        took = await serves(f"http://127.0.0.1:{gateway.port}", "/sleep/0", 10)
        figures("started before NATS", serving_after_s=round(took, 2))
        assert took < BACK_WITHIN_S * MARGIN
    await instance.drain()


async def test_while_nats_is_away_refusals_are_quick_and_the_table_stands(nats, prefix, figures):
    log = io.BytesIO()
    async with Mesh(sleeper(), nats_url=nats.url, prefix=prefix) as mesh, HttpWire(mesh.gateway.port) as http:
        mesh.gateway.access._stream, mesh.gateway.access.enabled = log, True
        waiting = [HttpWire(mesh.gateway.port) for _ in range(20)]
        for wire in waiting:
            await wire.__aenter__()
            wire.send("GET", "/sleep/2.5")
        await eventually(lambda: mesh.instances[0].dispatcher.inflight == len(waiting))
        changes = []
        mesh.gateway.watcher.on_change(changes.extend)

        killed = monotonic()
        await nats.kill()
        for wire in waiting:
            answer = await wire.receive()
            assert (answer.status, answer.reason) == (503, "bus_unavailable")
            assert json.loads(answer.body)["executed"] == "unknown"
        failed = monotonic() - killed
        figures("NATS goes away: calls in flight", all_ended_after_ms=round(failed * 1000))
        assert failed < 1.0
        for wire in waiting:
            await wire.__aexit__()

        for n in range(100):
            refused = await http.ask("GET", "/sleep/0", headers=[(b"x-request-id", b"refused-%d" % n)])
            assert (refused.status, refused.reason) == (503, "bus_unavailable")
            assert (refused.headers["retry-after"], json.loads(refused.body)["executed"]) == ("1", "no")
        ready = await http.ask("GET", "/readyz")
        assert (ready.status, ready.reason) == (503, "bus_unavailable")
        health = json.loads((await http.ask("GET", "/health")).body)
        assert health["status"] == "stale"
        assert health["services"]["sleeper"]["instances"] == 1
        assert (await http.ask("GET", "/nowhere")).status == 404  # the table still says what exists
        # Longer than any instance may be silent.
        over = asyncio.get_running_loop().time() + 1.5
        await eventually(lambda: asyncio.get_running_loop().time() > over)
        assert mesh.gateway.watcher.registry.get("sleeper", mesh.instances[0].id) is not None

        await nats.start()
        took = await serves(mesh.url, "/sleep/0", 10)
        figures("NATS returns", serving_after_s=round(took, 2))
        assert took < BACK_WITHIN_S * MARGIN
        await eventually(lambda: mesh.gateway.health.status() == "ok")
        assert (await http.ask("GET", "/readyz")).status == 200  # the same connection all the while
        assert not [change for change in changes if change.kind in ("lost", "left", "joined", "suspect")]
        mesh.gateway.access.flush()
        mesh.gateway.access.enabled = False
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    durations = sorted(e["duration_ms"] for e in entries if e["request_id"].startswith("refused-"))
    figures("NATS is away: refusals", p99_ms=durations[98])
    assert durations[98] < QUICK_MS


async def test_who_died_meanwhile_is_lost_one_timeout_after_the_return_and_nobody_else(nats, prefix, figures, full):
    """A real server away for twelve heartbeats of its services and more."""
    async with Mesh(sleeper(), nats_url=nats.url, prefix=prefix) as mesh:
        dying = [await mesh.start(sleeper()) for _ in range(2)]
        heard = []
        clock = asyncio.get_running_loop().time
        mesh.gateway.watcher.on_change(lambda changes: heard.extend((clock(), c.kind, c.instance) for c in changes))
        await nats.kill()
        await eventually(lambda: mesh.gateway.watcher.stale)
        for instance in dying:
            await instance.announcer.aclose(stopped=False)  # as if killed: it says nothing any more
            await instance.bus.aclose()
        over = clock() + (30 if full else 3)
        await eventually(lambda: clock() > over, 40)
        assert heard == []
        await nats.start()
        await eventually(lambda: not mesh.gateway.watcher.stale)
        back = clock()
        await mesh.until(lambda: len(mesh.gateway.watcher.registry.instances("sleeper")) == 1)
        timeout = 4 * 0.25
        lost = {instance: at - back for at, kind, instance in heard if kind == "lost"}
        assert set(lost) == {instance.id for instance in dying}
        figures("died while NATS was away", lost_s_after_return=sorted(round(s, 2) for s in lost.values()))
        assert all(0.8 * timeout < seconds < timeout + 1.0 for seconds in lost.values())
        living = mesh.instances[0].id
        assert not [kind for _, kind, instance in heard if instance == living and kind in ("lost", "joined", "left")]


@pytest.mark.parametrize("how", ["cut", "silence", "stall"])
@pytest.mark.parametrize("seed", range(20))
def test_thirty_seconds_away_change_nothing_but_for_the_dead(seed, how):
    """In simulated time: cut off, connected to a frozen server, or stalled itself."""
    world = World(seed, mishaps=(), calm=True)
    for _ in range(3):
        world.start()
    receiver = world.receivers[0]
    heard = []
    follow = receiver._follow
    receiver._follow = lambda change: (heard.append((world.time, change.kind, change.instance)), follow(change))
    settled = world.time + 10
    while world.time < settled:
        world.step()
    assert world.settled()
    heard.clear()

    receiver.connected, receiver.silent = how != "cut", how == "silence"
    if how == "stall":
        receiver.stalled_until = world.time + 30
    receiver.clock.advance(world.time, receiver.last_bytes, receiver.connected)
    back, half = world.time + 30, world.time + 15
    dead = world.nodes[::3]
    while world.time < back:
        world.step()
        if world.time >= half:
            for node in dead:
                node.alive = False
    # On a silent connection the clock runs for a second longer: enough to suspect, and never to condemn.
    assert {kind for _, kind, _ in heard} <= ({"suspect"} if how == "silence" else set())
    if how != "stall":
        assert receiver.clock.stale

    receiver.connected, receiver.silent = True, False
    if how == "cut":
        receiver.queue.clear()
        world.ask(None)
    while world.time < back + 15:
        world.step()
    assert world.settled()
    lost = {instance: at - back for at, kind, instance in heard if kind == "lost"}
    assert set(lost) == {node.id for node in dead}
    for node in dead:
        timeout = 4 * node.heartbeat_ms / 1000
        assert timeout - TICK <= lost[node.id] <= timeout + 10 * TICK
    of_the_living = [kind for _, kind, instance in heard if instance not in lost]
    assert set(of_the_living) <= ({"suspect", "recovered"} if how == "silence" else set())
