"""The parts of the failure suite that decide: a report that miscounts would pass everything."""

import asyncio

from tests.chaos.load import Load, Outcome, Report, alternating, peak, problem
from tests.chaos.record import Executions

OUTCOMES = [
    Outcome("a-0", 10.0, 10.1, 200),
    Outcome("a-1", 11.0, 13.05, 504, "deadline_exceeded", "unknown"),
    Outcome("a-2", 12.0, 12.01, 503, "bus_unavailable", "no"),
    Outcome("a-3", 13.0, 15.2, 0, "TimeoutError"),
]
REPORT = Report(OUTCOMES, timeout_s=2.0)


def ids(outcomes):
    return [outcome.id for outcome in outcomes]


def test_failures_are_answers_that_are_errors_and_no_answers():
    assert ids(REPORT.failures()) == ["a-1", "a-2", "a-3"]
    assert ids(REPORT.failures(since=11.5)) == ["a-2", "a-3"]
    assert ids(REPORT.failures(until=12.0)) == ["a-1"]
    assert ids(REPORT.successes()) == ["a-0"]


def test_what_started_between_includes_its_begin_only():
    assert ids(REPORT.started_between(11.0, 13.0).outcomes) == ["a-1", "a-2"]


def test_late_is_later_than_deadline_and_grace():
    assert ids(REPORT.late(0.1)) == ["a-3"]
    assert ids(REPORT.late(0.01)) == ["a-1", "a-3"]


def test_in_flight_last_failure_and_quantiles():
    assert ids(REPORT.in_flight_at(12.005)) == ["a-1", "a-2"]
    assert REPORT.last_failure(10.5) == 2.5
    assert REPORT.last_failure(14) == 0
    assert REPORT.quantile_ms(0) == 10.0
    assert REPORT.quantile_ms(1) == 2200.0
    assert Report([]).quantile_ms(0.5) == 0


def test_counts_name_status_and_reason():
    assert REPORT.counts() == {"200": 1, "504 deadline_exceeded": 1, "503 bus_unavailable": 1, "TimeoutError": 1}


def test_a_problem_tells_reason_and_executed():
    assert problem(b'{"reason": "overloaded", "executed": "no"}') == ("overloaded", "no")
    assert problem(b"<html>") == problem(b"[]") == ("", "")


def test_executions_that_should_not_be():
    runs = "a-0 10.05 one GET", "a-1 11.2 one POST", "a-1 11.3 two POST", "a-2 12.0 one GET", "a-3 15.3 two GET"
    executions = Executions("\n".join(runs))
    assert executions.repeated() == executions.too_often() == ["a-1"]
    assert executions.stale(REPORT) == ["a-3"]
    assert executions.denied(REPORT) == ["a-2"]
    assert executions.unrecorded(REPORT) == []
    assert Executions("").unrecorded(REPORT) == ["a-0"]


def test_a_get_may_run_twice_and_no_more():
    runs = ["a-0 10.05 one GET", "a-0 10.1 two GET"]
    assert Executions("\n".join(runs)).repeated() == ["a-0"]
    assert Executions("\n".join(runs)).too_often() == []
    assert Executions("\n".join([*runs, "a-0 10.2 one GET"])).too_often() == ["a-0"]


def test_the_peak_is_of_the_busiest_window():
    assert peak([0.1, 0.2, 0.3, 1.5, 1.6, 1.7, 1.8], 0.5) == 8
    assert peak([], 1) == 0


async def test_requests_start_on_schedule_whatever_the_server_does():
    """A server that answers nothing for a while: a closed loop would send one request."""
    hold = asyncio.Event()
    seen = []

    async def serve(reader, writer):
        try:
            while line := await reader.readline():
                seen.append(line.split()[:2])
                while await reader.readline() != b"\r\n":
                    pass
                await hold.wait()
                writer.write(
                    b"HTTP/1.1 503 Busy\r\ncontent-length: 19\r\nretry-after: 3\r\n\r\n" + b'{"reason": "hold"} '
                )
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with Load(f"http://127.0.0.1:{port}", 100, timeout_s=5, request=alternating) as load:
        async with asyncio.timeout(20):
            while len(seen) < 30:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not load.report.outcomes
        held = len(load.outcomes)
        hold.set()
        report = await load.stop()
    server.close()
    assert len(report) == len(load.outcomes) >= held >= 30
    assert report.counts() == {"503 hold": len(report)}
    assert report.outcomes[0].retry_after == "3"
    # The first ones waited for all of the others, and their time says so.
    assert report.outcomes[0].seconds > 0.2
    gaps = {round(b.started - a.started, 6) for a, b in zip(report.outcomes, report.outcomes[1:], strict=False)}
    assert gaps == {0.01}
    assert seen[0] == [b"GET", b"/task/" + report.outcomes[0].id.encode()]
    assert [b"POST", b"/task"] in seen
