"""All claims on one shape of path, who serves it, and the conflict between them."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.messages import RouteConflict
from mesh.routes.service_claims import Exclusion, RouteClaim, ServedRoute
from mesh.routes.template import Shape, capture


class PathClaims:
    """The claims on one shape. ``live`` and ``gone`` have the winning route by method.

    For the hot path, ``serves`` is ``live`` with HEAD led to GET, ``serves_any`` is the route of method ``*``, and
    ``capture`` takes the values out of a path's segments.
    """

    __slots__ = ("_claims", "capture", "gone", "live", "serves", "serves_any", "shape")

    def __init__(self, shape: Shape, claims: Mapping[str, Mapping[str, RouteClaim]]) -> None:
        self.shape = shape
        self._claims = claims
        self.capture = capture(shape)
        self.live: dict[str, ServedRoute] = {}
        self.gone: dict[str, ServedRoute] = {}
        for method, by_service in claims.items():
            for route, _, exclusion, forget_at in sorted(by_service.values(), key=_seniority):
                if exclusion is None:
                    (self.live if forget_at is None else self.gone).setdefault(method, route)
        self.serves = with_head(self.live)
        self.serves_any = self.live.get("*")

    def change(self, method: str, service: str, claim: RouteClaim | None) -> PathClaims | None:
        """These claims with that one in place of the service's former one; None if no claim is left."""
        claims = dict(self._claims)
        by_service = dict(claims.pop(method, {}))
        by_service.pop(service, None)
        if claim is not None:
            by_service[service] = claim
        if by_service:
            claims[method] = by_service
        return PathClaims(self.shape, claims) if claims else None

    def conflict(self, method: str) -> RouteConflict | None:
        """The conflict between the live claims; remembered ones take nothing from anybody."""
        claims = [claim for claim in self._claims.get(method, {}).values() if claim.forget_at is None]
        # An exclusion follows from the path and the winner's name alone, so those of one shape agree.
        exclusion = next((claim.exclusion for claim in claims if claim.exclusion is not None), None)
        if exclusion is None:
            if len(claims) < 2:
                return None
            exclusion = Exclusion(self.live[method].service, "earlier")
        winner, why = exclusion
        losers = (claim.route.service for claim in claims if claim.exclusion or claim.route.service != winner)
        path = min(claim.route.template for claim in claims)
        return RouteConflict(method, path, winner, tuple(sorted(losers)), why)


def _seniority(claim: RouteClaim) -> tuple[int, str]:
    """The earlier claim first; the smaller name where clocks show the same moment."""
    return claim.since, claim.route.service


def with_head(routes: dict[str, ServedRoute]) -> dict[str, ServedRoute]:
    """Routes by the method of a request: HEAD is served from GET if it has no route of its own."""
    get = routes.get("GET")
    return routes if get is None else {"HEAD": get, **routes}
