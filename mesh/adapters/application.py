"""An existing application as a `Service`: with the settings, limits and drain of one written for the mesh."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from msgspec.structs import replace

from mesh.adapters.asgi_http import App, AsgiHttpEndpoint, AsgiHttpRequest
from mesh.adapters.asgi_scope import http_scope
from mesh.adapters.asgi_websocket import AsgiWebSocketEndpoint
from mesh.adapters.hidden_routes import ExcludedPaths, HiddenRoutes
from mesh.adapters.lifespan import Lifespan
from mesh.adapters.route_discovery import (
    AnnouncedRoute,
    Selection,
    all_routes_of,
    below,
    has_routes,
    routes_of,
    without_match,
)
from mesh.adapters.route_filter import Hides, RouteFilter
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

SUMMARY_LENGTH = 200
"""Characters of the longest summary that is announced."""
FINISH_S = 5.0
"""Seconds that requests and background work may go on after the last handler has ended."""
HEALTH_S = 5.0
"""Seconds that the application's own health page may take."""
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


class Adapted:
    """An application with its service.

    service: the service that stands for the application
    app: the application
    root_path: the path that it is mounted at, in ASGI's sense
    lifespan: starts and stops it; None for an application that is not told
    """

    def __init__(self, service: Service, app: App, *, root_path: str = "", lifespan: Lifespan | None = None) -> None:
        self.service = service
        self.app = app
        self.root_path = root_path
        self.tasks: set[asyncio.Task[None]] = set()
        """Requests in flight, and background work that follows them."""
        self.unmatched: list[tuple[str, str]] = []
        """Options with patterns that match no route, if the application says its routes: likely mistakes."""
        self.state: dict[str, Any] = lifespan.state if lifespan is not None else {}
        """ASGI's lifespan state."""
        if lifespan is not None:
            service.on_startup(lifespan.start)
            service.on_shutdown(lifespan.stop)
        service.on_shutdown(self._finish)  # hooks run in reverse order: this one before the lifespan ends

    async def check(self, path: str) -> None:
        """Ask the application's own health page. Raises `Unavailable` if its status is an error."""
        request = Request(b"NATS/1.0\r\nMesh-Request: GET %b\r\n\r\n" % path.encode(), b"")
        context = Context(
            request,
            request_id=new_id(),
            deadline=asyncio.get_running_loop().time() + HEALTH_S,
            service=self.service.name,
            instance="",
            calls=cast(Any, None),
        )
        asgi = AsgiHttpRequest(request, context)
        await self.app(http_scope(request, self.root_path, self.state), asgi.receive, asgi.send)
        asgi.ended(None)
        status = (await asgi.response()).status
        if status >= 400:
            raise Unavailable(f"{path} answers {status}")

    async def _finish(self) -> None:
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=FINISH_S)
        for task in self.tasks:
            task.cancel()


def declare_routes(
    adapted: Adapted,
    routes: Sequence[AnnouncedRoute],
    *,
    hides: Hides | None = None,
    encoded_slashes: bool = False,
    timeout: Timeouts = None,
) -> None:
    """Declare the routes of an application, each as an endpoint of its service.

    adapted: the application
    routes: its routes, as the mesh has them
    hides: says which paths belong to routes that are not announced, although an announced route matches them
    encoded_slashes: True lets paths with ``%2F`` and ``%5C`` through
    timeout: seconds that callers wait

    Raises `DeclarationError`.
    """
    used: set[str] = set()
    claimed: dict[tuple[str, object], DeclaredEndpoint] = {}
    for found in sorted(routes, key=lambda found: not found.methods):  # WebSockets last
        shape = parse_template(found.path).shape
        # Two routes of the application may be one here, where templates are wider: the application tells them apart.
        methods = [method for method in found.methods if (method, shape) not in claimed]
        if found.methods and not methods:
            continue
        options = EndpointOptions(name=_unique(found.name, used))
        route = Route(
            method="*",
            path=found.path,
            endpoint=options.name,
            summary=found.summary[:SUMMARY_LENGTH],
            tags=found.tags,
            timeout_ms=milliseconds("timeout", timeout_of(timeout, found.path), found.path),
            deprecated=found.deprecated,
        )
        route_filter = RouteFilter(found.path, methods, hides, encoded_slashes=encoded_slashes)
        if found.methods:
            http = AsgiHttpEndpoint(adapted.app, adapted.root_path, adapted.state, adapted.tasks, route_filter)
            declared = declare_endpoint(http.__call__, options, route)
            # Only the application knows if it has a middleware for CORS, so preflights are for it to answer.
            declared.routes = [replace(route, method=method, preflight=True) for method in methods]
            claimed.update({(method, shape): declared for method in methods})
        else:
            socket = AsgiWebSocketEndpoint(adapted.app, adapted.root_path, adapted.state, route_filter)
            declared = declare_endpoint(socket.__call__, options, replace(route, method="GET", stream=WEBSOCKET))
            requests = claimed.get(("GET", shape)) or claimed.get(("*", shape))
            if requests is not None:  # one path for requests and WebSockets: one endpoint, which tells them apart
                requests.upgrade = declared
                continue
        adapted.service.add(declared)


def _unique(given: str, used: set[str]) -> str:
    """A name for an endpoint that is not in ``used``, which it joins."""
    name = base = _NAME.sub("-", given).strip("-")[:48] or "app"
    number = 2
    while name in used:
        name, number = f"{base}-{number}", number + 1
    used.add(name)
    return name


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

    FastAPI's and Starlette's applications say themselves what they serve. Any other one is announced as ``prefix`` and
    everything below it. Patterns are of paths, as in a shell: ``/internal/*``.

    app: the application
    name: the service's name
    version: the service's version
    description: one line about the service; the application's own by default
    prefix: the path that the application is mounted at
    strip: True tells the application that it is mounted at ``prefix`` (ASGI's ``root_path``); one that says what it
        serves is always told
    include: patterns of hidden routes to announce
    exclude: patterns of routes not to announce
    only: patterns of routes to announce, and no others
    catch_all: True announces everything else below ``prefix`` too, for the application's own redirects and 404
    encoded_slashes: True lets paths with ``%2F`` and ``%5C`` through; they are a 400 otherwise
    timeout: seconds that callers wait for a response, for all routes or by pattern; the first match counts
    health: the path of a page that becomes the readiness check of the instance
    interface: ``asgi`` or ``wsgi`` if it is not seen by itself
    threads: requests of a WSGI application that may run at a time
    lifespan: False for an application that its own server starts and stops

    Raises `DeclarationError` with what to do about it.
    """
    if interface == "wsgi" or (interface == "auto" and is_wsgi(app)):
        asgi, lifespan = from_wsgi(app, threads), False
    else:
        asgi = app
    if health and not health.startswith("/"):
        raise DeclarationError(f"health {health!r} is not a path, such as /health")
    checked_prefix(prefix, f"the application {name!r}")
    if has_routes(app):
        routes = _described_routes(app, name, prefix, Selection(include, exclude, only), timeout, catch_all)
    else:
        routes = _routes_below(name, prefix, exclude, strip)
        if include or only or catch_all:
            raise DeclarationError(
                f"the application {name!r} does not say what it serves: everything below {prefix} is announced, "
                "so that there is nothing to include"
            )
    service = Service(name, version=version, description=description or _description(app))
    adapted = Adapted(service, asgi, root_path=routes.root_path, lifespan=Lifespan(asgi) if lifespan else None)
    adapted.unmatched = routes.unmatched
    declare_routes(adapted, routes.announced, hides=routes.hides, encoded_slashes=encoded_slashes, timeout=timeout)
    _add_openapi(service, app)
    if health:
        path = mount(routes.root_path, health) if routes.root_path else health

        async def check() -> None:
            await adapted.check(path)

        service.readiness("health")(check)
    return adapted


class _Routes(NamedTuple):
    """The announced routes of an application that is mounted at ``root_path``."""

    announced: list[AnnouncedRoute]
    root_path: str
    hides: Hides | None
    unmatched: list[tuple[str, str]]


def _described_routes(
    app: Any, name: str, prefix: str, selection: Selection, timeout: Timeouts, catch_all: bool
) -> _Routes:
    """The routes of an application that says what it serves."""
    root_path = prefix.rstrip("/")
    found = [route._replace(path=mount(root_path, route.path)) for route in routes_of(app, selection)]
    if not found:
        raise DeclarationError(f"the application {name!r} has no routes to announce; is everything excluded?")
    paths = [route.path for route in all_routes_of(app)]
    unmatched = [(option, p) for option, given in selection._asdict().items() for p in without_match(given, paths)]
    if isinstance(timeout, Mapping):
        unmatched += (("timeout", p) for p in without_match(timeout, [route.path for route in found]))
    if catch_all:
        found += below(root_path, "rest")
    # FastAPI's own root_path is the one that its routes go by.
    hidden = HiddenRoutes(all_routes_of(app, selection), getattr(app, "root_path", "") or root_path)
    return _Routes(found, root_path, hidden.hides, unmatched)


def _routes_below(name: str, prefix: str, exclude: Sequence[str], strip: bool) -> _Routes:
    """Everything below a prefix, for an application that does not say what it serves."""
    if not prefix:
        raise DeclarationError(
            f"the application {name!r} does not say what it serves; give the paths that are its with --prefix /path"
        )
    hides = ExcludedPaths(exclude, prefix).hides if exclude else None
    return _Routes(below(prefix, "app"), prefix.rstrip("/") if strip else "", hides, [])


def _add_openapi(service: Service, app: Any) -> None:
    """Serve the application's OpenAPI document as an endpoint that is called by name, if it has one."""
    document = getattr(app, "openapi", None)
    if not callable(document) or "openapi" in service.endpoints:
        return

    async def openapi() -> dict[str, Any]:
        return cast(dict[str, Any], document())

    service.endpoint("openapi")(openapi)


def is_wsgi(app: Any) -> bool:
    """True for an application that is called as WSGI says: with an environment and ``start_response``, not awaited."""
    call = app if inspect.isroutine(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        return False
    try:
        names = [p.name for p in inspect.signature(app).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):
        return False
    return len(names) == 2


def _description(app: Any) -> str:
    """The first line that the application says about itself."""
    title, text = getattr(app, "title", ""), getattr(app, "description", "")
    return next(
        (str(given).strip().partition("\n")[0] for given in (text, title) if isinstance(given, str) and given), ""
    )
