"""Declaring handlers: the decorators that `Service` and `Router` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from mesh.errors import DeclarationError
from mesh.routes import BadTemplate, mount
from mesh.service.declaration_hints import check_called, check_options, check_path, checked, respelled
from mesh.service.endpoints import declare

H = TypeVar("H", bound=Callable[..., Any])


class Declaration(NamedTuple):
    """A handler and the options it was declared with; ``options["path"]`` is relative to its router."""

    handler: Callable[..., Any]
    options: dict[str, Any]


class Router:
    """Routes that belong together; `include` puts them into a service or another router.

    ::

        admin = Router(prefix="/admin", tags=("admin",))

        @admin.get("/users")
        async def list_users() -> list[User]: ...

        service.include(admin)

    Raises `DeclarationError`, when a handler is declared, for everything that cannot work.
    """

    def __init__(self, *, prefix: str = "", tags: tuple[str, ...] = ()) -> None:
        self.prefix = checked_prefix(prefix, "router")
        self.tags = tuple(tags)
        self.declarations: list[Declaration] = []
        self.included = False
        """Whether another took over what is declared: what comes later would be nobody's."""

    @checked('@service.get("/path") above the handler')
    def get(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for GET (and so for HEAD) requests to ``path``; options as in `route`."""
        return self._route("GET", path, options)

    @checked('@service.post("/path") above the handler')
    def post(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for POST requests to ``path``; options as in `route`."""
        return self._route("POST", path, options)

    @checked('@service.put("/path") above the handler')
    def put(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for PUT requests to ``path``; options as in `route`."""
        return self._route("PUT", path, options)

    @checked('@service.patch("/path") above the handler')
    def patch(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for PATCH requests to ``path``; options as in `route`."""
        return self._route("PATCH", path, options)

    @checked('@service.delete("/path") above the handler')
    def delete(self, path: str, **options: Any) -> Callable[[H], H]:
        """Declare a handler for DELETE requests to ``path``; options as in `route`."""
        return self._route("DELETE", path, options)

    def _route(self, method: str, path: str, options: dict[str, Any]) -> Callable[[H], H]:
        self._check_arguments(path, method.lower())
        check_options(options, self.route, f"{type(self).__name__.lower()}.{method.lower()}")
        return self.route(method, path, **options)

    @checked('@service.route("GET", "/path")')
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
        """Declare a handler for ``method`` (``*`` for all) and a path template.

        Templates have literal segments, ``{name}`` and, last, ``{name:path}``. ``name`` is the endpoint's (the
        handler's by default), ``status`` that of a plain return value. ``timeout`` is the whole call's, in seconds;
        with ``try_timeout`` an attempt that takes longer is repeated elsewhere, if the method is idempotent or
        ``idempotent`` says that the handler is. A GET, HEAD or OPTIONS request, or one that is ``idempotent``, is sent
        elsewhere once when it was in flight while its instance died or a connection broke; ``retry=False`` forbids
        every repetition of a request that may have run. At most ``concurrency`` calls run at a time in one instance
        (0: as many as the service takes), ``queue`` more wait. ``cancel``: whether the handler is cancelled when the
        caller goes away (default: GET and HEAD only). Decorators may be stacked: each adds a route to the same
        endpoint.
        """
        options = {key: value for key, value in locals().items() if key != "self"}
        self._check_arguments(path, "route")

        def register(handler: H) -> H:
            self._declare(handler, options)
            return handler

        return register

    @checked('@service.websocket("/path") above the handler')
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
        """Declare a handler of WebSocket connections to ``path``; it takes a `WebSocket`.

        ``timeout`` is for accepting, in seconds; ``retry=False`` forbids that a handshake without an answer is sent
        to another instance when the first is lost. A connection counts as a running call for as long as it is open.
        """
        options = {key: value for key, value in locals().items() if key != "self"}
        self._check_arguments(path, "websocket")

        def register(handler: H) -> H:
            self._declare(handler, {**options, "method": "GET", "websocket": True})
            return handler

        return register

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Take over everything that ``router`` has declared so far, below ``prefix`` and its own prefix."""
        if router is self:
            raise DeclarationError("a router cannot include itself")
        prefix = checked_prefix(prefix, "include")
        router.included = True
        for handler, options in router.declarations:
            changed = {**options, "tags": (*router.tags, *options["tags"])}
            if options.get("path"):
                changed["path"] = mount(prefix, mount(router.prefix, options["path"]))
            self._declare(handler, changed)

    def _check_arguments(self, path: Any, decorator: str) -> None:
        """Raises `DeclarationError` for a decorator without parentheses and for paths as elsewhere."""
        check_called(path, f"{type(self).__name__.lower()}.{decorator}", '"/path"')
        check_path(path, "path")

    def _declare(self, handler: Callable[..., Any], options: dict[str, Any]) -> None:
        if self.included:
            name = getattr(handler, "__qualname__", handler)
            raise DeclarationError(f"handler {name!r}: its router has been included already; include it afterwards")
        declare(handler, **{**options, "path": self._mounted(options["path"])})  # what is wrong shows here, at import
        self.declarations.append(Declaration(handler, options))

    def _mounted(self, path: str) -> str:
        try:
            return mount(self.prefix, path)
        except BadTemplate as error:
            raise DeclarationError(f"path {path!r}: {error}") from error


def checked_prefix(prefix: str, what: str) -> str:
    """``prefix``, or a `DeclarationError` that says what is wrong with it."""
    try:
        mount(respelled(prefix), "/")
    except BadTemplate as error:
        raise DeclarationError(f"{what}: prefix {prefix!r}: {error}") from error
    return prefix
