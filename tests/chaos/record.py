"""Reading what the service under test wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.chaos.load import Report

SLACK_S = 0.15
"""Between a request's place in the schedule and its deadline's start in the gateway; ages are known to 50 ms."""


class Execution(NamedTuple):
    """A request was run: when (monotonic, seconds; all processes of one machine share that clock) and by whom."""

    at: float
    instance: str
    method: str


class Executions:
    """All executions of a world, by request id."""

    def __init__(self, text: str) -> None:
        self.by_id: dict[str, list[Execution]] = {}
        for line in text.splitlines():
            id, at, instance, method = line.split()
            self.by_id.setdefault(id, []).append(Execution(float(at), instance, method))

    @classmethod
    def read(cls, path: Path) -> Executions:
        return cls(path.read_text() if path.exists() else "")

    def __len__(self) -> int:
        return len(self.by_id)

    def repeated(self) -> list[str]:
        """Requests that ran more than once."""
        return [id for id, runs in self.by_id.items() if len(runs) > 1]

    def too_often(self) -> list[str]:
        """Requests that ran more often than they may: a GET twice, where its first attempt was lost, a POST once."""
        return [id for id in self.repeated() if len(self.by_id[id]) > (2 if self.by_id[id][0].method == "GET" else 1)]

    def stale(self, report: Report, slack_s: float = SLACK_S) -> list[str]:
        """Requests that ran after their deadline: nobody waited for them any more.

        A load generator that was behind its schedule has sent them so much later.
        """
        limit = report.timeout_s + slack_s + max(report.lags, default=0.0)
        return [o.id for o in report.outcomes for run in self.by_id.get(o.id, ()) if run.at > o.started + limit]

    def denied(self, report: Report) -> list[str]:
        """Requests that ran although their answer said ``executed: "no"``."""
        return [o.id for o in report.outcomes if o.executed == "no" and o.id in self.by_id]

    def unrecorded(self, report: Report) -> list[str]:
        """Requests that were answered with success although no execution is known."""
        return [o.id for o in report.successes() if o.id not in self.by_id]


def sound(path: Path, report: Report) -> Executions:
    """What holds in every case: nothing ran too often, nothing ran that was denied, every success did run."""
    executions = Executions.read(path)
    assert executions.too_often() == []
    assert executions.denied(report) == []
    assert executions.unrecorded(report) == []
    return executions
