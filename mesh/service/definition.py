"""The definition of a service: everything it declared, as an instance runs and announces it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from mesh.errors import DeclarationError
from mesh.messages import Endpoint, Route
from mesh.service.declaration_hints import location_of
from mesh.service.endpoints import DeclaredEndpoint, checked_metadata
from mesh.service.events import EventHandler
from mesh.service.middleware import Middleware
from mesh.service.readiness import Check
from mesh.subjects import RESERVED, Subjects, is_name

# NATS ADR-32 asks for a version that follows semver.org; this is its official pattern without named groups.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?"
)

Hook = Callable[[], Awaitable[None]]


class ServiceDefinition:
    """A service as data: its name, its endpoints with their routes, its event handlers, checks and hooks.

    `mesh.service.service.Service` fills it with decorators, `mesh.service.instance.ServiceInstance` runs it.

    queue_group: the queue group of endpoints that have none of their own; empty for a plain subscription

    Raises `DeclarationError` for a name, version or metadata that the protocol does not allow.
    """

    def __init__(
        self, name: str, *, version: str, description: str, metadata: dict[str, str] | None, queue_group: str
    ) -> None:
        if not is_name(name):
            raise DeclarationError(f"service name {name!r} is not 1 to 64 letters, digits, '-' and '_'")
        if name in RESERVED:
            raise DeclarationError(f"service name {name!r} is reserved for the mesh itself")
        if not SEMVER.fullmatch(version):
            raise DeclarationError(f"service {name!r}: version {version!r} is not a semantic version such as '1.2.0'")
        self.name = name
        self.version = version
        self.description = description
        self.metadata = checked_metadata(metadata, f"service {name!r}")
        self.queue_group = queue_group
        self.endpoints: dict[str, DeclaredEndpoint] = {}
        self.startup_hooks: list[Hook] = []
        self.shutdown_hooks: list[Hook] = []
        self.subscriptions: list[EventHandler] = []
        self.layers: list[Middleware] = []
        self.checks: list[Check] = []

    def add(self, declared: DeclaredEndpoint) -> None:
        """Add an endpoint. Raises `DeclarationError` if its name or its subject is taken."""
        if declared.name in self.endpoints:
            handlers = self.endpoints[declared.name].handler, declared.handler
            both = " and ".join(filter(None, map(location_of, handlers)))
            raise DeclarationError(
                f"service {self.name!r} has two endpoints named {declared.name!r}"
                f"{f', at {both}' if both else ''}; give one of them another name="
            )
        for other in self.endpoints.values():
            if declared.subject and declared.subject == other.subject:
                raise DeclarationError(
                    f"endpoints {other.name!r} and {declared.name!r} both listen on {declared.subject!r}"
                )
        self.endpoints[declared.name] = declared

    def announced_endpoints(self, subjects: Subjects) -> tuple[Endpoint, ...]:
        """The endpoints with their subjects in one mesh. Raises `DeclarationError` for a subject below the mesh's."""
        return tuple(self._announced(declared, subjects) for declared in self.endpoints.values())

    def _announced(self, declared: DeclaredEndpoint, subjects: Subjects) -> Endpoint:
        subject = declared.subject or subjects.request(self.name, declared.name)
        if declared.subject.partition(".")[0] == subjects.prefix:
            raise DeclarationError(
                f"endpoint {declared.name!r}: subject {subject!r} lies under {subjects.prefix!r}, the mesh's own"
            )
        queue = self.queue_group if declared.queue_group is None else declared.queue_group
        return Endpoint(name=declared.name, subject=subject, queue_group=queue, metadata=dict(declared.metadata))

    def announced_routes(self) -> tuple[Route, ...]:
        """The routes of all endpoints."""
        return tuple(route for declared in self.endpoints.values() for route in declared.routes)
