"""Destinations of calls: an endpoint by its name, or a route that matched a path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from mesh import headers
from mesh.routes import RevisionRoute


class Destination(Protocol):
    """A service and an endpoint of it. Revisions of the service may name endpoints and parameters differently."""

    @property
    def service(self) -> str: ...

    @property
    def revisions(self) -> Collection[str] | None:
        """The revisions whose instances may be called; None for all."""

    @property
    def queued(self) -> str:
        """The subject on which NATS balances, for a caller that does not know the instances yet; empty for none."""

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        """The endpoint's name at that revision, and header lines for it (each ending in CRLF)."""


class NamedEndpoint:
    """An endpoint that has one name at every revision.

    subject: the endpoint's own, for `Destination.queued`.
    """

    __slots__ = ("_name", "queued", "revisions", "service")

    def __init__(self, service: str, endpoint: str, subject: str) -> None:
        self.service = service
        self.queued = subject
        self.revisions: Collection[str] | None = None
        self._name = endpoint.encode()

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        return self._name, b""


class RouteDestination(Struct, frozen=True, eq=False):
    """A route that matched a path.

    revisions: for each revision that announces the route, its endpoint and the names of its parameters.
    values: the values of the path's parameters, in the path's order.
    """

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
