"""NATS dies and comes back, or stands still: every request is answered in time, and nothing expired is run."""

import time

import pytest

from tests.chaos.load import alternating
from tests.chaos.record import sound
from tests.chaos.world import World, answers, until

pytestmark = pytest.mark.timeout(300)


async def test_nats_killed_and_restarted_again_and_again(tmp_path, full, figures, grace_s):
    kills, rate = (10, 200) if full else (3, 100)
    async with World(tmp_path, timeout_s=2) as world:
        async with world.load(rate, request=alternating) as load:
            outages = []
            for _ in range(kills):
                await load.run_for(0.5)
                began = time.monotonic()
                await world.nats.kill()
                await load.run_for(0.3)
                await world.nats.start()
                await until(lambda: answers(world.http, "/task/probe", 200), 10)
                outages.append(time.monotonic() - began)
            await load.run_for(0.5)
            report = await load.stop()
        executions = sound(world.record, report)
        figures(
            f"NATS killed and restarted {kills} times",
            requests=len(report),
            met=dict(report.counts()),
            late=len(report.late()),
            slowest_ms=report.quantile_ms(1),
            outage_s=round(max(outages), 2),
        )
        assert report.late(grace_s) == []
        assert all(o.status in (200, 503) for o in report.outcomes)
        # The gateway may be back a moment before the instances are.
        assert {o.reason for o in report.failures()} <= {"bus_unavailable", "no_responders"}
        assert executions.stale(report, grace_s + 0.05) == []
        assert len(report.successes()) > len(report) / 3


async def test_an_outage_of_nats_runs_nothing_late_and_is_answered_at_once(tmp_path, full, figures, grace_s):
    length, rate = (5, 200) if full else (2, 100)
    async with World(tmp_path, timeout_s=2) as world:
        async with world.load(rate, request=alternating) as load:
            await load.run_for(1)
            down = time.monotonic()
            await world.nats.kill()
            await load.run_for(length)
            during = load.report.started_between(down + 0.1, time.monotonic() - 0.2)
            await world.nats.start()
            up = time.monotonic()
            back = await until(lambda: answers(world.http, "/task/probe", 200), 10)
            await load.run_for(2.5)
            report = await load.stop()
        executions = sound(world.record, report)
        after = report.started_between(up + 2, float("inf"))
        figures(
            f"NATS gone for {length} s",
            requests=len(report),
            met=dict(report.counts()),
            expired_requests_run=len(executions.stale(report, grace_s + 0.05)),
            answer_p50_ms=during.quantile_ms(0.5),
            answer_p99_ms=during.quantile_ms(0.99),
            serving_again_s=round(back, 2),
        )
        assert len(during) > rate * (length - 0.5) / 2
        assert set(during.counts()) == {"503 bus_unavailable"}
        assert all(o.executed == "no" and o.retry_after for o in during.outcomes)
        # Beside other tests most of what is measured is how late the generator itself is.
        assert during.quantile_ms(0.9 if full else 0.1) < (50 if full else 250)
        assert executions.stale(report, grace_s + 0.05) == []
        assert report.late(grace_s) == []
        assert back < 2
        assert after.failures() == []
        assert len(after) > 20


async def test_nats_stands_still_and_goes_on(tmp_path, full, figures, grace_s):
    """SIGSTOP, SIGCONT: what was in its sockets is delivered seconds later, and is not run then."""
    length, rate = (10, 200) if full else (6, 50)
    async with World(tmp_path, timeout_s=2) as world:
        async with world.load(rate, request=alternating) as load:
            await load.run_for(1)
            frozen = time.monotonic()
            world.nats.pause()
            await load.run_for(length)
            world.nats.resume()
            thawed = time.monotonic()
            back = await until(lambda: answers(world.http, "/task/probe", 200), 10)
            await load.run_for(6)
            report = await load.stop()
        executions = sound(world.record, report)
        figures(
            f"NATS frozen for {length} s",
            requests=len(report),
            met=dict(report.counts()),
            expired_requests_run=len(executions.stale(report, grace_s + 0.05)),
            last_failure_after_thaw_s=report.last_failure(thawed),
            serving_again_s=round(back, 2),
        )
        assert executions.stale(report, grace_s + 0.05) == []
        assert {o.reason for o in report.failures(until=thawed)} <= {"deadline_exceeded", "bus_unavailable"}
        assert {o.reason for o in report.failures(since=frozen + 5, until=thawed - 0.2)} <= {"bus_unavailable"}
        assert back < 10
        assert report.failures(since=thawed + 5) == []
        assert len(report.started_between(thawed + 5, float("inf"))) > rate / 2
