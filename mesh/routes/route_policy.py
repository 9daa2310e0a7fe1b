"""What the live revisions of one route say together: its policy.

During a roll-out two revisions of a service may announce one route with different settings. The gateway and other
callers then need one answer. If revisions differ, the stricter word counts, as `RULES` states for each field. Say
revision A announces ``timeout_ms=500, idempotent=True``, and revision B ``timeout_ms=0, idempotent=False``. The policy
has ``timeout_ms=500``, as B has no timeout of its own, and ``idempotent=False``, as both must allow a second execution.

A policy has the fields of an announced route. So a field that is added to `mesh.messages.Route` is in every policy, and
its reader finds it in ``ServedRoute.policy``. It needs a line in `RULES` only if the common value is
not its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from msgspec.structs import fields, replace

from mesh.messages import Route

RoutePolicy: TypeAlias = Route
"""Its ``method``, ``path`` and ``endpoint`` are those of one revision; ask the `ServedRoute` for the route's."""

Rule = Callable[[Sequence[Any]], Any]
"""Makes one value of those that the revisions announce, one of each."""


def shortest(values: Sequence[int]) -> int:
    """The smallest that is set, 0 if none is."""
    return min((value for value in values if value), default=0)


def longest_of_all(values: Sequence[int]) -> int:
    """The largest, 0 if one of them is not set."""
    return max(values) if all(values) else 0


RULES: Final[Mapping[str, Rule]] = {
    "timeout_ms": shortest,
    "try_timeout_ms": longest_of_all,
    "idempotent": all,
    "retry": all,
    "preflight": all,
    "deprecated": any,
}
"""How a field is merged. Every other field has the value that all share, else its default."""

_IDENTITY: Final = frozenset({"method", "path", "endpoint"})
_COMMON: Final = {field.name: field.default for field in fields(Route) if field.name not in {*RULES, *_IDENTITY}}


def merge_policies(routes: Iterable[Route]) -> RoutePolicy:
    """The policy of one route, as its revisions announce it; there is one at least."""
    first, *others = routes
    if all(route == first for route in others):
        return first
    announced = [first, *others]
    merged: dict[str, Any] = {}
    for name, rule in RULES.items():
        merged[name] = rule([getattr(route, name) for route in announced])
    for name, default in _COMMON.items():
        value = getattr(first, name)
        merged[name] = value if all(getattr(route, name) == value for route in others) else default
    return replace(first, **merged)
