"""`Service`: what a team writes. It declares; `mesh.service.instance` runs it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

from mesh.errors import DeclarationError
from mesh.messages import Endpoint, Route
from mesh.routes import parse_template
from mesh.service.declaration_hints import check_called, check_hook, checked, named, place
from mesh.service.endpoints import Declared, checked_metadata, declare
from mesh.service.events import EventHandler, subscribe
from mesh.service.groups import Group, QueueGroup, queue_name
from mesh.service.middleware import Middleware
from mesh.service.readiness import Check
from mesh.service.router import H, Router, checked_prefix
from mesh.subjects import QUEUE, RESERVED, Subjects, is_name

# NATS ADR-32 asks for a version that follows semver.org; this is its official pattern without named groups.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?"
)

Hook = Callable[[], Awaitable[None]]


class Service(Router):
    """A kind of service: its endpoints and routes.

    ::

        service = Service("users", version="1.2.0")

        @service.get("/users/{user_id}")
        async def get_user(user_id: int) -> User: ...

    ``prefix`` mounts every route under a path. ``queue_group`` is that of every endpoint that has none of its own;
    with None every instance hears every request on an endpoint's subject. Raises `DeclarationError` for a name,
    version or metadata that the protocol does not allow.
    """

    @checked('Service("name", version="1.0.0")')
    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.1",
        description: str = "",
        metadata: dict[str, str] | None = None,
        prefix: str = "",
        queue_group: str | None = QUEUE,
    ) -> None:
        if not is_name(name):
            raise DeclarationError(f"service name {name!r} is not 1 to 64 letters, digits, '-' and '_'")
        if name in RESERVED:
            raise DeclarationError(f"service name {name!r} is reserved for the mesh itself")
        if not SEMVER.fullmatch(version):
            raise DeclarationError(f"service {name!r}: version {version!r} is not a semantic version such as '1.2.0'")
        super().__init__(prefix=checked_prefix(prefix, f"service {name!r}"))
        self.name = name
        self.version = version
        self.description = description
        self.metadata = checked_metadata(metadata, f"service {name!r}")
        self.endpoints: dict[str, Declared] = {}
        self.startup_hooks: list[Hook] = []
        self.shutdown_hooks: list[Hook] = []
        self.subscriptions: list[EventHandler] = []
        self.layers: list[Middleware] = []
        self.checks: list[Check] = []
        self._claimed: dict[tuple[str, object], Declared] = {}
        self._group = Group(self.add, "", queue_name(queue_group, "", f"service {name!r}"))

    # -- endpoints

    def endpoint(
        self,
        name: str = "",
        *,
        subject: str = "",
        queue_group: QueueGroup = ...,
        metadata: dict[str, str] | None = None,
        cancel: bool = False,
    ) -> Callable[[H], H]:
        """Declare an endpoint that has no HTTP route: others call it by name; options as in `Group.endpoint`."""
        return self._group.endpoint(name, subject=subject, queue_group=queue_group, metadata=metadata, cancel=cancel)

    def group(self, name: str, *, queue_group: QueueGroup = ...) -> Group:
        """Endpoints whose subjects begin with ``name`` (NATS ADR-32), with ``queue_group`` unless they give one."""
        return self._group.group(name, queue_group=queue_group)

    def _declare(self, handler: Callable[..., Any], options: dict[str, Any]) -> None:
        declared = declare(handler, **{**options, "path": self._mounted(options["path"])})
        route = declared.routes[0]
        shape = (route.method, parse_template(route.path).shape)
        if shape in self._claimed:
            first = self._claimed[shape]
            raise DeclarationError(
                f"{route.method} {route.path} is declared twice, by {named(first.name, first.handler)} "
                f"and {named(declared.name, handler)}"
            )
        known = self.endpoints.get(declared.name)
        if known is not None and known.handler is handler:
            known.routes += declared.routes
        else:
            self.add(declared)
        self._claimed[shape] = declared

    def add(self, declared: Declared) -> None:
        """Take an endpoint as `mesh.service.endpoints.declare` made it. Raises `DeclarationError` where it clashes."""
        if declared.name in self.endpoints:
            both = " and ".join(filter(None, (place(self.endpoints[declared.name].handler), place(declared.handler))))
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

    # -- events, middleware, readiness

    def on(
        self, event: str, *, durable: bool = False, broadcast: bool = False, name: str = "", attempts: int = 5
    ) -> Callable[[H], H]:
        """Declare a handler for events named ``event``; ``*`` stands for one part of the name, as in ``bets.*``.

        Of all instances of this service one gets each event, at most once; with ``broadcast`` all of them do.
        ``durable`` asks JetStream to keep it and to deliver it again, later and later, until the handler has returned
        or ``attempts`` are used up; then it goes to the dead letters. The handler takes one parameter for the event's
        data, a `Context` and dependencies if it wants them.
        """
        check_called(event, "service.on", '"event.name"')

        def register(handler: H) -> H:
            declared = subscribe(handler, event, durable=durable, broadcast=broadcast, name=name, attempts=attempts)
            self.subscriptions.append(declared)
            names = [s.name for s in self.subscriptions if s.event == event]
            if len(names) != len(set(names)):
                raise DeclarationError(
                    f"service {self.name!r} has two handlers {names[-1]!r} for {event!r}; give a name="
                )
            return handler

        return register

    def middleware(self, layer: Middleware) -> Middleware:
        """Add a function around every handler: ``async def layer(request, context, call_next) -> Response``.

        The first one added is the outermost. It may answer itself, change the response, or let errors pass.
        """
        if not inspect.iscoroutinefunction(layer):
            raise DeclarationError(f"middleware {getattr(layer, '__name__', layer)!r} must be an async function")
        self.layers.append(layer)
        return layer

    def readiness(self, name: str, *, timeout: float = 2.0, every: float = 5.0) -> Callable[[H], H]:
        """Declare a readiness check: an async function that raises, or returns False, while it is not ready.

        It runs before the start and ``every`` so many seconds, at most ``timeout`` long. While one fails, the instance
        announces itself ``unready`` and is picked by nobody.
        """
        check_called(name, "service.readiness", '"name"')
        if not is_name(name):
            raise DeclarationError(f"readiness check {name!r} is not 1 to 64 letters, digits, '-' and '_'")
        if not (timeout > 0 and every > 0):
            raise DeclarationError(f"readiness check {name!r}: timeout and every must be above 0 seconds")

        def register(check: H) -> H:
            if not inspect.iscoroutinefunction(check):
                raise DeclarationError(f"readiness check {name!r} must be an async function")
            if any(known.name == name for known in self.checks):
                raise DeclarationError(f"service {self.name!r} has two readiness checks named {name!r}")
            self.checks.append(Check(name, check, timeout, every))
            return check

        return register

    # -- hooks

    def on_startup(self, hook: Hook) -> Hook:
        """Run ``hook`` before the service announces itself ready; an exception stops the start."""
        check_hook(hook, "startup hook")
        self.startup_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run ``hook`` after the last handler has ended; hooks run in reverse order."""
        check_hook(hook, "shutdown hook")
        self.shutdown_hooks.append(hook)
        return hook

    # -- what is announced

    def announced_endpoints(self, subjects: Subjects) -> tuple[Endpoint, ...]:
        """Every endpoint as it listens in that mesh. Raises `DeclarationError` for a subject under the mesh's own."""
        return tuple(self._announced(declared, subjects) for declared in self.endpoints.values())

    def _announced(self, declared: Declared, subjects: Subjects) -> Endpoint:
        subject = declared.subject or subjects.request(self.name, declared.name)
        if declared.subject.partition(".")[0] == subjects.prefix:
            raise DeclarationError(
                f"endpoint {declared.name!r}: subject {subject!r} lies under {subjects.prefix!r}, the mesh's own"
            )
        queue = self._group.queue_group if declared.queue_group is None else declared.queue_group
        return Endpoint(name=declared.name, subject=subject, queue_group=queue, metadata=dict(declared.metadata))

    def announced_routes(self) -> tuple[Route, ...]:
        return tuple(route for declared in self.endpoints.values() for route in declared.routes)

    def run(self) -> None:
        """Run one instance until SIGTERM or Ctrl-C, with the settings of the environment and ``mesh.toml``."""
        from mesh.service.run import run

        run(self)
