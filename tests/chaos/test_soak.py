"""Faults without end under load: what the processes hold neither grows nor stays behind.

`make soak` runs it for ten minutes; the short form tries one fault of each kind, which tells that the soak works.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from typing import NamedTuple

import pytest

from tests.chaos.load import alternating
from tests.chaos.record import sound
from tests.chaos.world import World, descriptors, resident_kib, until
from tests.processes import http_client

pytestmark = pytest.mark.timeout(1200)

QUICK = {"MESH_HEARTBEAT_MS": "500", "MESH_DRAIN_S": "2"}
SLOPE_KIB = 1024
"""How much more memory ten minutes may cost."""


class Sample(NamedTuple):
    at: float
    gateway_kib: int
    service_kib: int


async def kill_an_instance(world, load):
    world.instances.pop().kill()
    await world.start_instance()


async def replace_an_instance(world, load):
    old = world.instances.pop()
    await world.start_instance()
    assert await old.drain() == 0


async def freeze_an_instance(world, load):
    world.instances[-1].pause()
    await load.run_for(2.5)  # longer than it takes to be suspected
    world.instances[-1].resume()


async def restart_nats(world, load):
    await world.nats.kill()
    await world.nats.start()


async def freeze_nats(world, load):
    world.nats.pause()
    await load.run_for(1.5)
    world.nats.resume()


FAULTS = (kill_an_instance, restart_nats, replace_an_instance, freeze_an_instance, freeze_nats)


async def baseline(world, ops):
    """Tasks and descriptors of the gateway, and descriptors of the instance that lives through all of it, at rest."""
    text = (await ops.get("/metrics")).text
    tasks = int(re.search(r"^mesh_gateway_tasks (\d+)", text, re.M)[1])
    return tasks, descriptors(world.gateway.worker), descriptors(world.instances[0].pid)


def slope_kib(samples, kib):
    """Growth in 10 minutes, by linear regression over the samples of the later half."""
    later = samples[len(samples) // 2 :]
    return statistics.linear_regression([s.at for s in later], [kib(s) for s in later]).slope * 600


async def test_soak(tmp_path, soak_s, figures):
    async with World(tmp_path, timeout_s=2, service=QUICK) as world:
        address = re.search(r"http://\S+:\d+", await world.gateway.process.line("operator"))[0]
        async with http_client(base_url=address) as ops:
            before = await baseline(world, ops)
            samples, faults = [], itertools.cycle(FAULTS)
            began = time.monotonic()
            done = 0
            async with world.load(100, request=alternating) as load:
                while done < len(FAULTS) or time.monotonic() - began < soak_s:
                    await next(faults)(world, load)
                    done += 1
                    await world.ready(2)
                    await load.run_for(2 if soak_s else 0.2)
                    samples.append(
                        Sample(
                            time.monotonic() - began,
                            resident_kib(world.gateway.worker),
                            resident_kib(world.instances[0].pid),
                        )
                    )
                report = await load.stop()
            sound(world.record, report)

            async def at_rest():
                return all(now <= then + 1 for now, then in zip(await baseline(world, ops), before, strict=True))

            try:
                await until(at_rest, 15)
            except TimeoutError:
                assert await baseline(world, ops) == before
            after = await baseline(world, ops)
        figures(
            f"soak: {done} faults in {time.monotonic() - began:.0f} s",
            requests=len(report),
            met=dict(report.counts()),
            tasks=f"{before[0]} -> {after[0]}",
            descriptors_gateway=f"{before[1]} -> {after[1]}",
            descriptors_service=f"{before[2]} -> {after[2]}",
            gateway_kib=f"{samples[0].gateway_kib} -> {samples[-1].gateway_kib}",
            service_kib=f"{samples[0].service_kib} -> {samples[-1].service_kib}",
            gateway_slope_kib=round(slope_kib(samples, lambda s: s.gateway_kib)),
            service_slope_kib=round(slope_kib(samples, lambda s: s.service_kib)),
        )
        assert report.late(0.5) == []
        assert len(report.successes()) > len(report) / 2
        if soak_s >= 300:
            assert slope_kib(samples, lambda s: s.gateway_kib) <= SLOPE_KIB
            assert slope_kib(samples, lambda s: s.service_kib) <= SLOPE_KIB
