"""The gateway's own view of the instances and the decisions of its balancer and retries, as JSON and as metrics.

It answers "why is this instance not picked?". The registry's view, which is the same at every gateway, is at
``/api/instances``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.request_metrics import Sample, family
from mesh.balancer import Availability, Peer
from mesh.client import CalledService, Caller


def describe(caller: Caller, service: CalledService, now: float) -> dict[str, Any]:
    """One service as the gateway sees it, JSON-ready.

    now: the bus's clock, in seconds.
    """
    peers = sorted(caller.peers(service.name), key=lambda peer: peer.id)
    return {
        "instances": [_describe_peer(peer, now) for peer in peers],
        "without_instance": service.without_instance,
        "ejections": {outcome.value: count for outcome, count in service.balancer.ejections.items()},
        "retries": {reason.value: count for reason, count in service.retries.items()},
        "last_retries": [
            {"at": _moment(retry.at, now), "reason": retry.reason.value, "failed": retry.failed, "chosen": retry.chosen}
            for retry in service.last_retries
        ],
        "retry_budget": {"left": service.budget.left(now), "refused": service.budget.refused},
    }


def _describe_peer(peer: Peer, now: float) -> dict[str, Any]:
    availability = peer.availability(now)
    return {
        "id": peer.id,
        "state": availability.value,
        "why": peer.why(now),
        "inflight": peer.inflight,
        "failures_in_a_row": peer.failures_in_a_row,
        "last_failure": peer.last_failure.value if peer.last_failure is not None else None,
        "ejected_until": _moment(peer.ejected_until, now) if availability is Availability.EJECTED else None,
        "skipped_since": _moment(peer.skipped_at, now) if availability is Availability.SKIPPED else None,
    }


def _moment(at: float, now: float) -> str:
    """A moment of the bus's clock in RFC 3339, UTC."""
    moment = datetime.now(UTC) + timedelta(seconds=at - now)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lines(caller: Caller, now: float) -> Iterator[str]:
    """The same as metrics in Prometheus's text format; their labels are bounded by the services."""
    services = [service for _, service in sorted(caller.services.items())]

    def by_service(read: Callable[[CalledService], Iterable[Sample]]) -> Iterable[Sample]:
        return (({"service": service.name, **labels}, value) for service in services for labels, value in read(service))

    yield from family(
        "mesh_gateway_instances",
        "gauge",
        "Instances as this gateway's calls see them, by service and state.",
        by_service(lambda service: _by_state(caller.peers(service.name), now)),
    )
    yield from family(
        "mesh_gateway_ejections_total",
        "counter",
        "Instances that the circuit breaker ejected, by service and the last failure.",
        by_service(lambda s: (({"reason": o.value}, count) for o, count in s.balancer.ejections.items())),
    )
    yield from family(
        "mesh_gateway_without_instance_total",
        "counter",
        "Attempts and retries for which no instance was left, by service.",
        by_service(lambda service: [({}, service.without_instance)]),
    )
    yield from family(
        "mesh_gateway_retries_total",
        "counter",
        "Attempts beyond a request's first, by service and by what became of the attempt before.",
        by_service(lambda s: (({"reason": reason.value}, count) for reason, count in s.retries.items())),
    )
    yield from family(
        "mesh_gateway_retry_budget_left",
        "gauge",
        "Retries that the budget allows now, by service.",
        by_service(lambda service: [({}, service.budget.left(now))]),
    )
    yield from family(
        "mesh_gateway_retry_budget_empty_total",
        "counter",
        "Retries that were not made because the budget was empty, by service.",
        by_service(lambda service: [({}, service.budget.refused)]),
    )


def _by_state(peers: Iterable[Peer], now: float) -> Iterator[Sample]:
    counts = Counter(peer.availability(now) for peer in peers)
    return (({"state": availability.value}, counts[availability]) for availability in Availability)
