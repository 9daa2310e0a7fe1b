"""Where calls go: an endpoint by its name, or a route that matched a path."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from mesh import headers
from mesh.routes import RevisionRoute


class NamedEndpoint:
    """A destination that is the same at every revision. ``subject`` is the endpoint's own."""

    __slots__ = ("_name", "queued", "revisions", "service")

    def __init__(self, service: str, endpoint: str, subject: str) -> None:
        self.service = service
        self.queued = subject
        self.revisions: Collection[str] | None = None
        self._name = endpoint.encode()

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        return self._name, b""


class RouteDestination(Struct, frozen=True, eq=False):
    """A matched route as a destination of calls; each revision may name endpoint and parameters differently."""

    service: str
    revisions: Mapping[str, RevisionRoute]
    values: tuple[str, ...]
    queued: str = ""

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        route, values = self.revisions[revision], self.values
        if not values:
            return route.address, b""
        params = headers.encode_params(zip(route.names, values, strict=True))
        return route.address, b"Mesh-Params: %b\r\n" % params
