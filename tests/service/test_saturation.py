"""An instance with nothing but abandoned calls in flight is unready until some of them end."""

import asyncio
import logging

import pytest

from mesh import Service
from mesh.service import saturation
from mesh.service.saturation import MAX_SATURATED_S, Saturation
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire


async def test_only_when_abandoned_calls_alone_are_in_flight_for_long():
    abandoned, now = [2], [100.0]
    check = Saturation(lambda: abandoned[0], 3, lambda: now[0]).check
    await check()
    abandoned[0] = 3
    await check()
    now[0] += MAX_SATURATED_S - 0.1
    await check()
    abandoned[0] = 2  # one of them ended
    await check()
    abandoned[0] = 3
    await check()
    now[0] += MAX_SATURATED_S - 0.1
    await check()
    now[0] += 0.2
    with pytest.raises(RuntimeError, match="all 3 calls that may run were given up"):
        await check()
    abandoned[0] = 0
    await check()


async def test_a_saturated_instance_is_unready_until_calls_end(nats_url, prefix, monkeypatch, caplog):
    monkeypatch.setattr(saturation, "MAX_SATURATED_S", 0.1)
    service, go = Service("stuck"), asyncio.Event()

    @service.post("/stuck")
    async def stuck() -> None:
        await go.wait()

    async with Mesh(service, nats_url=nats_url, prefix=prefix, settings={"concurrency": 2, "queue": 0}) as mesh:
        (instance,) = mesh.instances
        wires = [HttpWire(mesh.gateway.port) for _ in range(2)]
        for wire in wires:
            await wire.__aenter__()
            wire.send("POST", "/stuck")
        await eventually(lambda: instance.dispatcher.inflight == 2)
        assert instance.announcer.state == "ready"  # busy, and somebody waits
        for wire in wires:
            await wire.__aexit__()
        with caplog.at_level(logging.WARNING):
            await eventually(lambda: instance.announcer.state == "unready", 20)
        assert "readiness check saturation fails" in caplog.text
        go.set()
        await eventually(lambda: instance.announcer.state == "ready", 20)
