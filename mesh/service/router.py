"""Declaring handlers: the decorators that `Service` and `Router` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack

from msgspec.structs import replace

from mesh.errors import DeclarationError
from mesh.messages import Route
from mesh.routes import BadTemplate, mount
from mesh.service.declaration_hints import check_called, check_options, check_path, explains_wrong_arguments, respelled
from mesh.service.endpoints import (
    RESPONSE,
    WEBSOCKET,
    DeclaredEndpoint,
    EndpointOptions,
    declare_endpoint,
    described,
    is_stream,
    milliseconds,
    name_of,
    summary_of,
)

H = TypeVar("H", bound=Callable[..., Any])


class RouteOptions(TypedDict, total=False):
    """The options of `Router.route`, for the decorators that are called like their method."""

    name: str
    status: int
    summary: str
    tags: tuple[str, ...]
    timeout: float | None
    try_timeout: float | None
    concurrency: int
    queue: int
    idempotent: bool
    retry: bool
    deprecated: bool
    cancel: bool | None


class Router:
    """Routes that belong together; `include` puts them into a service or another router.

    ::

        admin = Router(prefix="/admin", tags=("admin",))

        @admin.get("/users")
        async def list_users() -> list[User]: ...

        service.include(admin)

    prefix: the path that all of its routes are below
    tags: tags of all of its routes

    Raises `DeclarationError` at the declaration of a handler for everything that cannot work.
    """

    def __init__(self, *, prefix: str = "", tags: tuple[str, ...] = ()) -> None:
        self.prefix = checked_prefix(prefix, "router")
        self.tags = tuple(tags)
        self.declarations: list[DeclaredEndpoint] = []
        """The endpoints in order, each with one route, whose path begins with ``prefix``."""
        self.included = False
        """True after `include` took the declarations: a later one would be lost."""

    @explains_wrong_arguments('@service.get("/path") above the handler')
    def get(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Declare a handler for GET (and so for HEAD) requests to ``path``; options as in `route`."""
        return self._route("GET", path, options)

    @explains_wrong_arguments('@service.post("/path") above the handler')
    def post(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Declare a handler for POST requests to ``path``; options as in `route`."""
        return self._route("POST", path, options)

    @explains_wrong_arguments('@service.put("/path") above the handler')
    def put(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Declare a handler for PUT requests to ``path``; options as in `route`."""
        return self._route("PUT", path, options)

    @explains_wrong_arguments('@service.patch("/path") above the handler')
    def patch(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Declare a handler for PATCH requests to ``path``; options as in `route`."""
        return self._route("PATCH", path, options)

    @explains_wrong_arguments('@service.delete("/path") above the handler')
    def delete(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """Declare a handler for DELETE requests to ``path``; options as in `route`."""
        return self._route("DELETE", path, options)

    def _route(self, method: str, path: str, options: RouteOptions) -> Callable[[H], H]:
        self._check_arguments(path, method.lower())
        check_options(options, self.route, f"{type(self).__name__.lower()}.{method.lower()}")
        return self.route(method, path, **options)

    @explains_wrong_arguments('@service.route("GET", "/path")')
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
        try_timeout: float | None = None,
        concurrency: int = 0,
        queue: int = 100,
        idempotent: bool = False,
        retry: bool = True,
        deprecated: bool = False,
        cancel: bool | None = None,
    ) -> Callable[[H], H]:
        """Declare a handler for a method and a path.

        Decorators may be stacked: each adds a route to the same endpoint.

        method: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS, or ``*`` for all
        path: literal segments, ``{name}`` for a parameter, and ``{name:path}`` at the end for all that remains
        name: the endpoint's name; the handler's by default
        status: HTTP status of a plain return value
        summary: one line about the route; the first line of the handler's docstring by default
        tags: words that group routes in listings
        timeout: seconds that the whole call may take; the caller's default without one
        try_timeout: seconds after which an attempt is retried at another instance, if the method is idempotent
            (GET, HEAD, OPTIONS, PUT, DELETE) or ``idempotent`` is set
        concurrency: calls of this endpoint that may run at a time in one instance; 0 for as many as the instance takes
        queue: calls that may wait when ``concurrency`` calls run
        idempotent: True if running the handler twice does no harm, although its method does not promise that
        retry: False forbids every retry of a request that may have run; otherwise a GET, HEAD or OPTIONS request, or
            one that is ``idempotent``, is retried once when its instance or a connection was lost meanwhile
        deprecated: True marks the route as deprecated in listings
        cancel: True if the handler is cancelled when its caller goes away; by default GET, HEAD and streams are

        Raises `DeclarationError`.
        """
        self._check_arguments(path, "route")

        def register(handler: H) -> H:
            where = described(handler)
            options = EndpointOptions(
                name=name or name_of(handler), status=status, concurrency=concurrency, queue=queue, cancel=cancel
            )
            route = Route(
                method=method,
                path=self._mounted(path),
                endpoint=options.name,
                summary=summary or summary_of(handler),
                tags=(*self.tags, *tags),
                timeout_ms=milliseconds("timeout", timeout, where),
                try_timeout_ms=milliseconds("try_timeout", try_timeout, where),
                idempotent=idempotent,
                retry=retry,
                deprecated=deprecated,
                stream=RESPONSE if is_stream(handler) else "",
            )
            self._take(declare_endpoint(handler, options, route))
            return handler

        return register

    @explains_wrong_arguments('@service.websocket("/path") above the handler')
    def websocket(
        self,
        path: str,
        *,
        name: str = "",
        summary: str = "",
        tags: tuple[str, ...] = (),
        timeout: float | None = None,
        retry: bool = True,
        concurrency: int = 0,
        queue: int = 100,
    ) -> Callable[[H], H]:
        """Declare a handler of WebSocket connections to a path; it takes a `WebSocket`.

        A connection counts as a running call until it is closed.

        path: a path as in `route`
        name: the endpoint's name; the handler's by default
        summary: one line about the route; the first line of the handler's docstring by default
        tags: words that group routes in listings
        timeout: seconds in which the handler must accept the connection
        retry: False forbids that a handshake goes to another instance when the first one is lost before it replied
        concurrency: connections that may be open at a time in one instance; 0 for as many as the instance takes
        queue: handshakes that may wait when ``concurrency`` connections are open

        Raises `DeclarationError`.
        """
        self._check_arguments(path, "websocket")

        def register(handler: H) -> H:
            where = described(handler)
            options = EndpointOptions(name=name or name_of(handler), concurrency=concurrency, queue=queue)
            route = Route(
                method="GET",
                path=self._mounted(path),
                endpoint=options.name,
                summary=summary or summary_of(handler),
                tags=(*self.tags, *tags),
                timeout_ms=milliseconds("timeout", timeout, where),
                retry=retry,
                stream=WEBSOCKET,
            )
            self._take(declare_endpoint(handler, options, route))
            return handler

        return register

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Take everything that ``router`` has declared so far.

        router: a router, which may not declare anything afterwards
        prefix: a path to put before the paths of the router

        Raises `DeclarationError` if two routes clash, or if a path is invalid below its prefixes.
        """
        if router is self:
            raise DeclarationError("a router cannot include itself")
        prefix = checked_prefix(prefix, "include")
        router.included = True
        for declared in router.declarations:
            [route] = declared.routes
            path = self._mounted(route.path, prefix)
            self._take(declared.at(replace(route, path=path, tags=(*self.tags, *route.tags))))

    def _check_arguments(self, path: Any, decorator: str) -> None:
        """Raises `DeclarationError` for a decorator without parentheses and for paths of other frameworks."""
        check_called(path, f"{type(self).__name__.lower()}.{decorator}", '"/path"')
        check_path(path, "path")

    def _take(self, declared: DeclaredEndpoint) -> None:
        """Keep an endpoint with its one route. Raises `DeclarationError` if this router was included already."""
        if self.included:
            name = getattr(declared.handler, "__qualname__", declared.handler)
            raise DeclarationError(f"handler {name!r}: its router has been included already; include it afterwards")
        self.declarations.append(declared)

    def _mounted(self, path: str, prefix: str = "") -> str:
        """A path below ``prefix`` and the prefix of this router. Raises `DeclarationError`."""
        try:
            return mount(self.prefix, mount(prefix, path))
        except BadTemplate as error:
            raise DeclarationError(f"path {path!r}: {error}") from error


def checked_prefix(prefix: str, what: str) -> str:
    """``prefix``, or a `DeclarationError` that says what is wrong with it."""
    try:
        mount(respelled(prefix), "/")
    except BadTemplate as error:
        raise DeclarationError(f"{what}: prefix {prefix!r}: {error}") from error
    return prefix
