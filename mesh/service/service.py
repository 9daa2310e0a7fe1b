"""`Service`: what a team writes. It declares; `mesh.service.instance` runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from mesh.errors import DeclarationError
from mesh.routes import parse_template
from mesh.service.declaration_hints import check_called, check_hook, explains_wrong_arguments, with_location
from mesh.service.definition import Hook, ServiceDefinition
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.events import subscribe
from mesh.service.groups import Group, QueueGroup, queue_name
from mesh.service.middleware import Middleware
from mesh.service.readiness import Check
from mesh.service.router import H, Router, checked_prefix
from mesh.service.run import run
from mesh.subjects import QUEUE, is_name


class Service(Router, ServiceDefinition):
    """A kind of service: its endpoints and routes.

    ::

        service = Service("users", version="1.2.0")

        @service.get("/users/{user_id}")
        async def get_user(user_id: int) -> User: ...

    name: 1 to 64 letters, digits, ``-`` and ``_``; instances of one name share its requests
    version: a semantic version
    description: one line about the service
    metadata: texts that ``$SRV.INFO`` and announcements carry
    prefix: the path that all routes are below
    queue_group: the queue group of endpoints that have none of their own; None for a plain subscription, with which
        every instance hears every request on an endpoint's subject (NATS ADR-32)

    Raises `DeclarationError` for a name, version or metadata that the protocol does not allow.
    """

    @explains_wrong_arguments('Service("name", version="1.0.0")')
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
        prefix = checked_prefix(prefix, f"service {name!r}")
        group = queue_name(queue_group, "", f"service {name!r}")
        Router.__init__(self, prefix=prefix)
        ServiceDefinition.__init__(
            self, name, version=version, description=description, metadata=metadata, queue_group=group
        )
        self._claimed: dict[tuple[str, object], DeclaredEndpoint] = {}
        self._group = Group(self.add, "", group)

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
        """Declare an endpoint without an HTTP route, which others call by name; options as in `Group.endpoint`."""
        return self._group.endpoint(name, subject=subject, queue_group=queue_group, metadata=metadata, cancel=cancel)

    def group(self, name: str, *, queue_group: QueueGroup = ...) -> Group:
        """A group of endpoints whose subjects begin with ``name`` (NATS ADR-32); options as in `Group.group`."""
        return self._group.group(name, queue_group=queue_group)

    def _take(self, declared: DeclaredEndpoint) -> None:
        """Add an endpoint, or its route to the endpoint of the same handler."""
        [route] = declared.routes
        shape = (route.method, parse_template(route.path).shape)
        if shape in self._claimed:
            first = self._claimed[shape]
            raise DeclarationError(
                f"{route.method} {route.path} is declared twice, by {with_location(first.name, first.handler)} "
                f"and {with_location(declared.name, declared.handler)}"
            )
        known = self.endpoints.get(declared.name)
        if known is not None and known.handler is declared.handler:
            known.join(declared)
        else:
            self.add(declared)
        self._claimed[shape] = declared

    # -- events, middleware, readiness

    def on(
        self, event: str, *, durable: bool = False, broadcast: bool = False, name: str = "", attempts: int = 5
    ) -> Callable[[H], H]:
        """Declare a handler for events; one instance of this service gets each event, at most once.

        The handler takes one parameter for the event's data, and a `Context` and dependencies if it wants them.

        event: the name; ``*`` is any one part of it, as in ``bets.*``
        durable: True makes JetStream keep each event, and deliver it again at growing intervals until the handler has
            returned
        broadcast: True if every instance gets each event
        name: the handler's name, which must be unique for the event; the function's by default
        attempts: deliveries of a durable event until it goes to the dead letters

        Raises `DeclarationError`.
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

        The first one added is the outermost. It may return a response without calling the next layer, change the
        response, and let errors pass. Raises `DeclarationError` for a function that is not async.
        """
        if not inspect.iscoroutinefunction(layer):
            raise DeclarationError(f"middleware {getattr(layer, '__name__', layer)!r} must be an async function")
        self.layers.append(layer)
        return layer

    def readiness(self, name: str, *, timeout: float = 2.0, every: float = 5.0) -> Callable[[H], H]:
        """Declare a readiness check: an async function that raises, or returns False, while it is not ready.

        While a check fails, the instance announces itself ``unready`` and gets no requests.

        name: the check's name in the log
        timeout: seconds that one run may take
        every: seconds between two runs; the first one is before the instance announces itself

        Raises `DeclarationError`.
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
        """Run a hook before the instance announces itself ready; an exception stops the start."""
        check_hook(hook, "startup hook")
        self.startup_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run a hook after the last handler has ended; hooks run in reverse order."""
        check_hook(hook, "shutdown hook")
        self.shutdown_hooks.append(hook)
        return hook

    def run(self) -> None:
        """Run one instance until SIGTERM or Ctrl-C, with the settings of the environment and ``mesh.toml``."""
        run(self)
