"""An existing application as a `Service`: the same objects, settings, limits and drain as one written for the mesh."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from msgspec.structs import replace

from mesh.adapters.application_pages import Excluded, Pages
from mesh.adapters.asgi_http import App, HttpCall, HttpEndpoint
from mesh.adapters.asgi_scope import http_scope
from mesh.adapters.asgi_websocket import WebSocketEndpoint
from mesh.adapters.lifespan import Lifespan
from mesh.adapters.path_guard import Hidden, PathGuard
from mesh.adapters.route_discovery import Found, Selection, below, has_routes, pages_of, routes_of, without_match
from mesh.adapters.timeouts import Timeouts, timeout_of
from mesh.adapters.wsgi import THREADS, from_wsgi
from mesh.errors import DeclarationError, Unavailable
from mesh.messages import Route
from mesh.routes import mount, parse_template
from mesh.service import Context, Request, Service
from mesh.service.endpoints import WEBSOCKET, DeclaredEndpoint, EndpointOptions, declare_endpoint, milliseconds
from mesh.service.router import checked_prefix
from mesh.subjects import new_id

Interface = Literal["auto", "asgi", "wsgi"]

_NAME = re.compile(r"[^A-Za-z0-9_-]+")


class Adapted:
    """What `adapt` made: the service, and the application behind it."""

    def __init__(self, service: Service, app: App, lifespan: Lifespan | None, root_path: str) -> None:
        self.service = service
        self.tasks: set[asyncio.Task[None]] = set()
        """Requests that are under way, and background work after them."""
        self.unmatched: list[tuple[str, str]] = []
        """Options and their patterns that fit no route, where the application says its routes: likely mistakes."""
        self.state: dict[str, Any] = lifespan.state if lifespan is not None else {}
        self.app = app
        self.root_path = root_path
        if lifespan is not None:
            service.on_startup(lifespan.start)
            service.on_shutdown(lifespan.stop)
        service.on_shutdown(self._finish)  # hooks run backwards: this one before the lifespan ends

    def add(
        self,
        routes: Sequence[Found],
        *,
        hidden: Hidden | None = None,
        encoded_slashes: bool = False,
        timeout: Timeouts = None,
    ) -> None:
        """Declare the routes of the application, and let nothing else in; see `PathGuard` for ``hidden``."""
        used: set[str] = set()
        claimed: dict[tuple[str, object], DeclaredEndpoint] = {}
        for found in sorted(routes, key=lambda found: not found.methods):  # WebSockets last
            shape = parse_template(found.path).shape
            # What is wider here than there may come to the same: one of them will do, the application looks itself.
            methods = [method for method in found.methods if (method, shape) not in claimed]
            upgraded = claimed.get(("GET", shape)) or claimed.get(("*", shape))
            if found.methods and not methods:
                continue
            options = EndpointOptions(name=self._unique(found.name, used))
            route = Route(
                method="*",
                path=found.path,
                endpoint=options.name,
                summary=found.summary[:200],
                tags=found.tags,
                timeout_ms=milliseconds("timeout", timeout_of(timeout, found.path), found.path),
                deprecated=found.deprecated,
            )
            entrance = PathGuard(found.path, methods, hidden, encoded_slashes=encoded_slashes)
            if found.methods:
                handler = HttpEndpoint(self.app, self.root_path, self.state, self.tasks, entrance).__call__
                declared = declare_endpoint(handler, options, route)
                # Only the application knows if it has a middleware for CORS, so preflights are for it to answer.
                declared.routes = [replace(route, method=method, preflight=True) for method in methods]
                claimed.update({(method, shape): declared for method in methods})
            else:
                socket = WebSocketEndpoint(self.app, self.root_path, self.state, entrance).__call__
                declared = declare_endpoint(socket, options, replace(route, method="GET", stream=WEBSOCKET))
                if upgraded is not None:
                    upgraded.upgrade = declared
                    continue
            self.service.add(declared)

    @staticmethod
    def _unique(given: str, used: set[str]) -> str:
        name = base = _NAME.sub("-", given).strip("-")[:48] or "app"
        number = 2
        while name in used:
            name, number = f"{base}-{number}", number + 1
        used.add(name)
        return name

    async def check(self, path: str) -> None:
        """Ask the application's own health page. Raises `Unavailable` where it says that not all is well."""
        request = Request(b"NATS/1.0\r\nMesh-Request: GET %b\r\n\r\n" % path.encode(), b"")
        loop = asyncio.get_running_loop()
        context = Context(
            request,
            request_id=new_id(),
            deadline=loop.time() + 5,
            service=self.service.name,
            instance="",
            calls=cast(Any, None),
        )
        exchange = HttpCall(request, context)
        await self.app(http_scope(request, self.root_path, self.state), exchange.receive, exchange.send)
        exchange.ended(None)
        status = (await exchange.response()).status
        if status >= 400:
            raise Unavailable(f"{path} answers {status}")

    async def _finish(self) -> None:
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=5)
        for task in self.tasks:
            task.cancel()


def adapt(
    app: Any,
    *,
    name: str,
    version: str = "0.0.1",
    description: str = "",
    prefix: str = "",
    strip: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    catch_all: bool = False,
    encoded_slashes: bool = False,
    timeout: Timeouts = None,
    health: str = "",
    interface: Interface = "auto",
    threads: int = THREADS,
    lifespan: bool = True,
) -> Adapted:
    """Make a service of an ASGI or WSGI application.

    FastAPI's and Starlette's say themselves what they serve. ``include``, ``exclude`` and ``only`` are patterns of
    paths: announce hidden pages too, leave some out, announce nothing else. ``catch_all`` announces whatever else is
    below ``prefix`` besides, for the application's own redirects and 404. Any other application is announced as
    ``prefix`` and everything below it, but for ``exclude``.

    ``strip`` tells the application that it is mounted at ``prefix`` (``root_path``): for one that says what it serves
    that is always so. ``encoded_slashes`` lets paths with ``%2F`` and ``%5C`` through, which are a 400 else.
    ``timeout`` is how many seconds callers wait for an answer, for all routes or by pattern of paths. ``health`` is
    the path of a page that becomes the instance's readiness check; ``threads`` is how many requests of a WSGI
    application run at a time. Raises `DeclarationError` with what to do about it.
    """
    if interface == "wsgi" or (interface == "auto" and is_wsgi(app)):
        asgi, lifespan = from_wsgi(app, threads), False
    else:
        asgi = app
    if health and not health.startswith("/"):
        raise DeclarationError(f"health {health!r} is not a path, such as /health")
    checked_prefix(prefix, f"the application {name!r}")
    unmatched: list[tuple[str, str]] = []
    hidden: Hidden | None
    if has_routes(app):
        root_path = prefix.rstrip("/")
        selection = Selection(include, exclude, only)
        found = [route._replace(path=mount(root_path, route.path)) for route in routes_of(app, selection)]
        if not found:
            raise DeclarationError(f"the application {name!r} has no routes to announce; is everything excluded?")
        options = {"include": include, "exclude": exclude, "only": only}
        paths = [page.path for page in pages_of(app)]
        unmatched += ((option, p) for option, given in options.items() for p in without_match(given, paths))
        if isinstance(timeout, Mapping):
            unmatched += (("timeout", p) for p in without_match(timeout, [route.path for route in found]))
        if catch_all:
            found += below(root_path, "rest")
        # FastAPI's own root_path is the one that its routes go by.
        hidden = Pages(pages_of(app, selection), getattr(app, "root_path", "") or root_path).hides
    else:
        if not prefix:
            raise DeclarationError(
                f"the application {name!r} does not say what it serves; give the paths that are its with --prefix /path"
            )
        if include or only or catch_all:
            raise DeclarationError(
                f"the application {name!r} does not say what it serves: everything below {prefix} is announced, "
                "so that there is nothing to include"
            )
        root_path = prefix.rstrip("/") if strip else ""
        found = below(prefix, "app")
        hidden = Excluded(exclude, prefix).hides if exclude else None
    service = Service(name, version=version, description=description or _description(app))
    adapted = Adapted(service, asgi, Lifespan(asgi) if lifespan else None, root_path)
    adapted.unmatched = unmatched
    adapted.add(found, hidden=hidden, encoded_slashes=encoded_slashes, timeout=timeout)
    document = getattr(app, "openapi", None)
    if callable(document) and "openapi" not in service.endpoints:

        async def openapi() -> dict[str, Any]:
            return cast(dict[str, Any], document())

        service.endpoint("openapi")(openapi)
    if health:
        path = mount(root_path, health) if root_path else health

        async def check() -> None:
            await adapted.check(path)

        service.readiness("health")(check)
    return adapted


def is_wsgi(app: Any) -> bool:
    """Whether it is called as WSGI has it: with an environment and ``start_response``, and not a coroutine."""
    call = app if inspect.isroutine(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        return False
    try:
        names = [p.name for p in inspect.signature(app).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):
        return False
    return len(names) == 2


def _description(app: Any) -> str:
    title, text = getattr(app, "title", ""), getattr(app, "description", "")
    return next(
        (str(given).strip().partition("\n")[0] for given in (text, title) if isinstance(given, str) and given), ""
    )
