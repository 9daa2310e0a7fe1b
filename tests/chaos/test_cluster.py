"""A node of a cluster of three dies, stands still, or retires: everybody connected to it finds another one."""

import time

import pytest

from tests.chaos.load import Report, alternating
from tests.chaos.record import sound
from tests.chaos.world import World, retire

pytestmark = pytest.mark.timeout(300)

HOMES = (0, 1, 2)
"""The gateway on one node, each of two instances on another: at first every failure hits one of them alone."""


def around(report: Report, moment: float) -> Report:
    """Requests started in the second around it."""
    return report.started_between(moment - 0.5, moment + 0.5)


async def home_of(world: World, whose: str):
    return await world.home_of(whose if whose == "gateway" else f"work.{world.instances[0].id}")


@pytest.mark.parametrize("whose", ["gateway", "service"])
async def test_a_node_is_killed(tmp_path, full, figures, grace_s, whose):
    rate, kills = (300, 5) if full else (150, 1)
    async with World(tmp_path, nodes=3, timeout_s=2, homes=HOMES) as world:
        async with world.load(rate, request=alternating) as load:
            moments = []
            for _ in range(kills):
                await load.run_for(1)
                node = await home_of(world, whose)
                moments.append(time.monotonic())
                await node.kill()
                await load.run_for(1.5)
                await node.start()
                await world.meshed()
            report = await load.stop()
        executions = sound(world.record, report)
        worst = max((around(report, moment) for moment in moments), key=lambda r: len(r.failures()) / len(r))
        share = len(worst.failures()) / len(worst)
        figures(
            f"killed: the node of a {whose}, {kills} times",
            requests=len(report),
            met=dict(report.counts()),
            gets_failed=f"{len(report.of('GET').failures())} of {len(report.of('GET'))}",
            posts_failed_in_the_worst_second=f"{len(worst.failures())} of {len(worst)}",
            repeated=len(executions.repeated()),
            last_failure_s=max(report.started_between(m - 1, m + 1.5).last_failure(m) for m in moments),
        )
        assert executions.stale(report, grace_s + 0.05) == []
        assert report.late(grace_s) == []
        assert report.of("GET").failures() == []
        # A POST that was in flight on the node fails at once, by design: nobody knows whether it ran.
        assert share <= (0.05 if full else 0.15)
        assert [o for m in moments for o in report.failures(since=m + (0.5 if full else 1.0), until=m + 1.5)] == []


@pytest.mark.parametrize("whose", ["gateway", "service"])
async def test_a_node_stands_still(tmp_path, full, figures, grace_s, whose):
    rate, frozen_s = (300, 10) if full else (100, 4)
    async with World(tmp_path, nodes=3, timeout_s=2, homes=HOMES) as world:
        async with world.load(rate, request=alternating) as load:
            await load.run_for(1)
            node = await home_of(world, whose)
            frozen = time.monotonic()
            node.pause()
            await load.run_for(frozen_s)
            node.resume()
            thawed = time.monotonic()
            await world.meshed()
            await load.run_for(max(0.0, thawed + (3 if full else 1) - time.monotonic()))
            report = await load.stop()
        executions = sound(world.record, report)
        figures(
            f"frozen: the node of a {whose}, for {frozen_s} s",
            requests=len(report),
            met=dict(report.counts()),
            last_failure_s=report.last_failure(frozen),
            failures_after_thaw=len(report.failures(since=thawed)),
            expired_requests_run=len(executions.stale(report, grace_s + 0.05)),
        )
        assert executions.stale(report, grace_s + 0.05) == []
        assert report.late(grace_s) == []
        assert report.failures(since=frozen + 3) == []


@pytest.mark.parametrize("whose", ["gateway", "service"])
async def test_a_node_retires(tmp_path, full, figures, whose):
    """Lame duck mode (SIGUSR2): it tells its clients to go, and closes their connections a while later."""
    rate, seconds = (300, 5) if full else (150, 1.5)
    async with World(tmp_path, nodes=3, timeout_s=2, homes=HOMES) as world:
        async with world.load(rate, request=alternating) as load:
            await load.run_for(1)
            node = await home_of(world, whose)
            retired = time.monotonic()
            retire(node)
            await load.run_for(seconds)
            report = await load.stop()
            assert (await home_of(world, whose)) is not node
        sound(world.record, report)
        figures(
            f"lame duck: the node of a {whose}",
            requests=len(report),
            met=dict(report.counts()),
            last_failure_s=report.last_failure(retired),
            p99_ms=report.quantile_ms(0.99),
        )
        # NATS drops what another node has sent towards a subscription in the moment in which that is given up.
        assert len(report.failures()) <= (0 if full else 2)
