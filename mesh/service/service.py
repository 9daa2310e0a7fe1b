"""`Service`: what a team writes. It declares; `mesh.service.instance` runs it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mesh.errors import DeclarationError
from mesh.messages import Endpoint, Route
from mesh.routes import BadTemplate, mount, parse_template
from mesh.service.endpoints import Declared, declare
from mesh.subjects import QUEUE, RESERVED, Subjects, is_name

# ADR-32 asks for a version that follows semver.org; this is its official pattern without named groups.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?"
)

H = TypeVar("H", bound=Callable[..., Any])
Hook = Callable[[], Awaitable[None]]


class Service:
    """A kind of service: its endpoints and routes.

    ::

        service = Service("users", version="1.2.0")

        @service.get("/users/{user_id}")
        async def get_user(user_id: int) -> User: ...

    ``prefix`` mounts every route under a path. Raises `DeclarationError` for a name, version or metadata that the
    protocol does not allow.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.1",
        description: str = "",
        metadata: dict[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        if not is_name(name):
            raise DeclarationError(f"service name {name!r} is not 1 to 64 letters, digits, '-' and '_'")
        if name in RESERVED:
            raise DeclarationError(f"service name {name!r} is reserved for the mesh itself")
        if not SEMVER.fullmatch(version):
            raise DeclarationError(f"service {name!r}: version {version!r} is not a semantic version such as '1.2.0'")
        for key, value in (metadata or {}).items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise DeclarationError(f"service {name!r}: metadata {key!r}={value!r}; keys and values must be text")
            if key.startswith("mesh."):
                raise DeclarationError(f"service {name!r}: metadata key {key!r}: 'mesh.' is reserved for the mesh")
        try:
            mount(prefix, "/")
        except BadTemplate as error:
            raise DeclarationError(f"service {name!r}: prefix {prefix!r}: {error}") from error
        self.name = name
        self.version = version
        self.description = description
        self.metadata = dict(metadata or {})
        self.prefix = prefix
        self.endpoints: dict[str, Declared] = {}
        self.startup_hooks: list[Hook] = []
        self.shutdown_hooks: list[Hook] = []
        self._claimed: dict[tuple[str, object], str] = {}

    # -- routes and endpoints

    def get(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for GET (and so for HEAD) requests to ``path``; options as in `route`."""
        return self.route("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[H], H]:
        return self.route("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[H], H]:
        return self.route("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[H], H]:
        return self.route("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[H], H]:
        return self.route("DELETE", path, **options)

    def route(
        self,
        method: str,
        path: str,
        *,
        name: str = "",
        status: int = 200,
        summary: str = "",
        tags: tuple[str, ...] = (),
        timeout: float | None = None,
        idempotent: bool = False,
        deprecated: bool = False,
        cancel: bool | None = None,
    ) -> Callable[[H], H]:
        """Declare a handler for ``method`` (``*`` for all) and a path template.

        Templates have literal segments, ``{name}`` and, last, ``{name:path}``. ``name`` is the endpoint's (the
        handler's by default), ``status`` of a plain return value, ``timeout`` in seconds, ``cancel`` whether the
        handler is cancelled when the caller goes away (default: GET and HEAD only). Decorators may be stacked: every
        one adds a route to the same endpoint.
        """

        def register(handler: H) -> H:
            full = self._mounted(path)
            declared = declare(
                handler,
                method=method,
                path=full,
                name=name,
                status=status,
                summary=summary,
                tags=tags,
                timeout=timeout,
                idempotent=idempotent,
                deprecated=deprecated,
                cancel=cancel,
            )
            shape = (method, parse_template(full).shape)
            if shape in self._claimed:
                raise DeclarationError(
                    f"{method} {full} is declared twice, by {self._claimed[shape]} and {declared.name}"
                )
            known = self.endpoints.get(declared.name)
            if known is not None and known.handler is handler:
                known.routes += declared.routes
            else:
                self._add(declared)
            self._claimed[shape] = declared.name
            return handler

        return register

    def endpoint(
        self, name: str = "", *, metadata: dict[str, str] | None = None, cancel: bool = False
    ) -> Callable[[H], H]:
        """Declare an endpoint that has no HTTP route: other services call it by name."""

        def register(handler: H) -> H:
            self._add(declare(handler, name=name, metadata=metadata, cancel=cancel))
            return handler

        return register

    def _mounted(self, path: str) -> str:
        try:
            return mount(self.prefix, path)
        except BadTemplate as error:
            raise DeclarationError(f"path {path!r}: {error}") from error

    def _add(self, declared: Declared) -> None:
        if declared.name in self.endpoints:
            raise DeclarationError(
                f"service {self.name!r} has two endpoints named {declared.name!r}; give one of them another name="
            )
        self.endpoints[declared.name] = declared

    # -- hooks

    def on_startup(self, hook: Hook) -> Hook:
        """Run ``hook`` before the service announces itself ready; an exception stops the start."""
        self.startup_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run ``hook`` after the last handler has ended; hooks run in reverse order."""
        self.shutdown_hooks.append(hook)
        return hook

    # -- what is announced

    def announced_endpoints(self, subjects: Subjects) -> tuple[Endpoint, ...]:
        return tuple(
            Endpoint(
                name=declared.name,
                subject=subjects.request(self.name, declared.name),
                queue_group=QUEUE,
                metadata=declared.metadata,
            )
            for declared in self.endpoints.values()
        )

    def announced_routes(self) -> tuple[Route, ...]:
        return tuple(route for declared in self.endpoints.values() for route in declared.routes)

    def run(self) -> None:
        """Run one instance until SIGTERM or Ctrl-C, with the settings of the environment and ``mesh.toml``."""
        from mesh.service.run import run

        run(self)
