"""All claims on one shape of path, who serves it, and the conflict between them."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.messages import RouteConflict
from mesh.routes.service_claims import Bar, Claim, Entry
from mesh.routes.template import Shape, capture


class PathClaims:
    """The claims on one shape. ``live`` and ``gone`` have the winning entry by method.

    For the hot path, ``serves`` is ``live`` with HEAD led to GET, ``serves_any`` the entry of method ``*`` and
    ``capture`` takes the values out of a path's segments.
    """

    __slots__ = ("_claims", "capture", "gone", "live", "serves", "serves_any", "shape")

    def __init__(self, shape: Shape, claims: Mapping[str, Mapping[str, Claim]]) -> None:
        self.shape = shape
        self._claims = claims
        self.capture = capture(shape)
        self.live: dict[str, Entry] = {}
        self.gone: dict[str, Entry] = {}
        for method, by_service in claims.items():
            for entry, _, bar, due in sorted(by_service.values(), key=_seniority):
                if bar is None:
                    (self.live if due is None else self.gone).setdefault(method, entry)
        self.serves = with_head(self.live)
        self.serves_any = self.live.get("*")

    def change(self, method: str, service: str, claim: Claim | None) -> PathClaims | None:
        """This leaf with that claim in place of the service's former one; None when no claim is left."""
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
        claims = [claim for claim in self._claims.get(method, {}).values() if claim.due is None]
        # A bar follows from the path and the winner's name alone, so those of one shape agree.
        bar = next((claim.bar for claim in claims if claim.bar is not None), None)
        if bar is None:
            if len(claims) < 2:
                return None
            bar = Bar(self.live[method].service, "earlier")
        winner, why = bar
        losers = (claim.entry.service for claim in claims if claim.bar or claim.entry.service != winner)
        path = min(claim.entry.template for claim in claims)
        return RouteConflict(method, path, winner, tuple(sorted(losers)), why)


def _seniority(claim: Claim) -> tuple[int, str]:
    """The earlier claim first; the smaller name where clocks show the same moment."""
    return claim.since, claim.entry.service


def with_head(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Entries by the method of a request: HEAD is served from GET where it has no route of its own."""
    get = entries.get("GET")
    return entries if get is None else {"HEAD": get, **entries}
