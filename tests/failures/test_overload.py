"""A gateway with more requests than it takes: the rest is refused at once, and those under way are not harmed."""

import asyncio
import io
import json
from contextlib import AsyncExitStack

from mesh import Service
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire

PLACES = 100
TOO_MANY = 400
REFUSED_WITHIN_MS = 20


async def test_beyond_max_inflight_refusals_are_quick_and_harm_nobody(nats_url, prefix):
    service, go = Service("slow"), asyncio.Event()

    @service.get("/slow/{n}")
    async def slow(n: int) -> int:
        await go.wait()
        return n

    settings = {"max_inflight": PLACES, "timeout_ms": 30_000}
    log = io.BytesIO()
    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway=settings) as mesh, AsyncExitStack() as stack:
        mesh.gateway.access._stream, mesh.gateway.access.enabled = log, True
        wires = [await stack.enter_async_context(HttpWire(mesh.gateway.port)) for _ in range(PLACES + TOO_MANY)]
        under_way, others = wires[:PLACES], wires[PLACES:]
        for n, wire in enumerate(under_way):
            wire.send("GET", f"/slow/{n}")
        await eventually(lambda: mesh.instances[0].dispatcher.inflight == PLACES)

        for wire in others:  # all of them at once
            wire.send("GET", "/slow/0")
        for wire in others:
            refused = await wire.receive()
            assert (refused.status, refused.reason, refused.headers["retry-after"]) == (503, "overloaded", "1")
            assert json.loads(refused.body)["executed"] == "no"
        assert mesh.instances[0].dispatcher.inflight == PLACES
        assert (await others[0].ask("GET", "/livez")).status == 200  # its own paths answer all the while
        # HttpWire keeps the connection: a refused client asks again on it, and is served when there is room.
        go.set()
        for n, wire in enumerate(under_way):
            answer = await wire.receive()
            assert (answer.status, answer.body) == (200, b"%d" % n)
        assert (await others[0].ask("GET", "/slow/7")).body == b"7"

        mesh.gateway.access.flush()
        mesh.gateway.access.enabled = False
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    refusals = sorted(entry["duration_ms"] for entry in entries if entry.get("reason") == "overloaded")
    assert len(refusals) == TOO_MANY
    assert refusals[len(refusals) * 99 // 100] < REFUSED_WITHIN_MS
    assert not any("instance" in entry for entry in entries if entry["status"] == 503)  # none of them was sent anywhere
