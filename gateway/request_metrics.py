"""Metrics of requests in Prometheus's text format 0.0.4.

They are labelled by route template and never by path, so their number is bounded by the routes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration histogram, in seconds."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "-"

Sample = tuple[Mapping[str, str], float]


class RequestMetrics:
    """Counters and gauges of the gateway's requests.

    The gauges are read at each scrape, by functions that the owner of each number sets.
    """

    def __init__(self) -> None:
        self.inflight: Callable[[], int] = lambda: 0
        self.connections: Callable[[], int] = lambda: 0
        self.body_bytes: Callable[[], int] = lambda: 0
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, list[float]] = {}
        self._reasons: dict[str, int] = {}

    def record(self, method: str, route: str, status: int, seconds: float, reason: str) -> None:
        """Count one request that has ended.

        method: the HTTP method; unusual ones are counted together.
        route: the route's template, or `UNMATCHED`.
        seconds: from the request's headers to the end of its response.
        reason: the reason of its error; empty if there was none.
        """
        key = (method if method in METHODS else "OTHER", route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        histogram = self._durations.get(route)
        if histogram is None:
            histogram = self._durations[route] = [0.0] * (len(BUCKETS) + 2)
        histogram[bisect_left(BUCKETS, seconds)] += 1
        histogram[-1] += seconds
        if reason:
            self._reasons[reason] = self._reasons.get(reason, 0) + 1

    def lines(self) -> Iterable[str]:
        """The request metrics in Prometheus's text format."""
        yield from family(
            "mesh_gateway_requests_total",
            "counter",
            "Requests answered.",
            (
                ({"method": method, "route": route, "status": str(status)}, count)
                for (method, route, status), count in sorted(self._counts.items())
            ),
        )
        yield from family(
            "mesh_gateway_errors_total",
            "counter",
            "Problems that the gateway answered, by reason.",
            (({"reason": reason}, count) for reason, count in sorted(self._reasons.items())),
        )
        yield from family(
            "mesh_gateway_inflight_requests", "gauge", "Requests being answered.", [({}, self.inflight())]
        )
        yield from family(
            "mesh_gateway_connections", "gauge", "Connections of clients that are open.", [({}, self.connections())]
        )
        yield from family(
            "mesh_gateway_body_bytes",
            "gauge",
            "Memory that bodies and messages of WebSockets take.",
            [({}, self.body_bytes())],
        )
        name = "mesh_gateway_request_duration_seconds"
        yield f"# HELP {name} Time from the request's headers to the response's last byte handed over."
        yield f"# TYPE {name} histogram"
        for route, histogram in sorted(self._durations.items()):
            label, total = _labels({"route": route})[1:-1], 0.0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram, strict=False):
                total += count
                yield f'{name}_bucket{{{label},le="{bound}"}} {total:g}'
            yield f"{name}_sum{{{label}}} {histogram[-1]:.9g}"
            yield f"{name}_count{{{label}}} {total:g}"


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterable[str]:
    """One metric with its HELP and TYPE lines."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value:.17g}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, value in labels.items()
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
