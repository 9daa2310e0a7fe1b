"""The routes of an existing application, found without importing the framework that it is written with.

FastAPI's and Starlette's applications say what they serve. Their templates can have more than those of the mesh: a
converter, a segment that is only partly a parameter. Such a route is announced wider than it is, and the application
itself replies 404 to requests that it does not serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mesh.adapters.hidden_routes import ApplicationRoute

_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(:[a-zA-Z_][a-zA-Z0-9_]*)?\}")
_DOCUMENTATION = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")


class AnnouncedRoute(NamedTuple):
    """One route of an application as it is announced; ``methods`` is empty for a WebSocket, ``("*",)`` for all."""

    path: str
    methods: tuple[str, ...]
    name: str = ""
    summary: str = ""
    tags: tuple[str, ...] = ()
    deprecated: bool = False


def has_routes(app: Any) -> bool:
    """True if the application says what it serves."""
    known = any(
        kind.__module__.partition(".")[0] == "starlette" and kind.__name__ in ("Starlette", "Router")
        for kind in type(app).__mro__
    )
    return known and bool(app.routes)


class Selection(NamedTuple):
    """Says which routes of an application are announced, by shell patterns of paths: ``/internal/*``.

    By default all are announced that the application shows: not its documentation, and not the routes that it keeps
    out of its schema (``include_in_schema=False``).

    include: hidden routes to announce
    exclude: routes not to announce, whatever the others say
    only: if given, shown routes that do not match are not announced
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()

    def has(self, path: str, shown: bool) -> bool:
        """True if a route at ``path`` is announced; ``shown`` is True if the application shows it."""
        wanted = shown and (not self.only or _matches(path, self.only))
        return (wanted or _matches(path, self.include)) and not _matches(path, self.exclude)


EVERYTHING_SHOWN = Selection()


def routes_of(app: Any, selection: Selection = EVERYTHING_SHOWN) -> list[AnnouncedRoute]:
    """The routes of the application that are announced."""
    return [route.found._replace(path=template(route.found.path)) for route in _routes(app, selection) if route.shown]


def all_routes_of(app: Any, selection: Selection = EVERYTHING_SHOWN) -> list[ApplicationRoute]:
    """All routes of the application in its own order, announced or not."""
    return [
        ApplicationRoute(route.found.path, route.found.methods, route.shown, route.converters)
        for route in _routes(app, selection)
    ]


def _routes(app: Any, selection: Selection) -> Iterator[_Route]:
    documentation = {getattr(app, name, None) for name in _DOCUMENTATION}
    for route in _walk(app.routes, "", {}):
        path = route.found.path
        yield route._replace(shown=selection.has(path, route.shown and path not in documentation))


def below(prefix: str, name: str) -> list[AnnouncedRoute]:
    """Routes for everything at and below a path, WebSockets too; ``name`` is the endpoint's name."""
    base = prefix.rstrip("/")
    tail = f"{base}/{{path:path}}"
    found = [AnnouncedRoute(tail, ("*",), name), AnnouncedRoute(tail, (), "socket")]
    return found + ([AnnouncedRoute(base, ("*",), "root"), AnnouncedRoute(base, (), "root-socket")] if base else [])


def template(path: str) -> str:
    """A framework's template as the mesh's: parameters are whole segments, a path parameter is the tail."""
    segments = []
    for segment in path.split("/"):
        parameters = _PARAMETER.findall(segment)
        if any(kind == ":path" for _, kind in parameters):
            segments.append(f"{{{parameters[0][0]}:path}}")
            break
        segments.append(f"{{{parameters[0][0]}}}" if parameters else segment)
    return "/".join(segments) or "/"


class _Route(NamedTuple):
    """A route as the application has it; ``shown`` is True if the application shows it."""

    found: AnnouncedRoute
    shown: bool
    converters: Mapping[str, str]


def _walk(routes: Iterable[Any], prefix: str, above: Mapping[str, str]) -> Iterator[_Route]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is not None:  # newer FastAPI keeps included routers, and computes their routes on demand
            for found in included():
                other = found.starlette_route
                yield from _walk([other], prefix, above) if other is not None else [_described(found, prefix, above)]
            continue
        kinds, path = _kinds(route), prefix + getattr(route, "path", "")
        name = str(getattr(route, "name", "") or "")
        shown, converters = bool(getattr(route, "include_in_schema", True)), _converters(route, above)
        if "Mount" in kinds:
            inner = getattr(route, "routes", None)
            if inner:
                yield from _walk(inner, path, converters)
            else:  # another application, with routes of its own
                yield _Route(AnnouncedRoute(f"{path}/{{path:path}}", ("*",), name), True, converters)
        elif "WebSocketRoute" in kinds:
            yield _Route(AnnouncedRoute(path, (), name), shown, converters)
        elif "Route" in kinds:
            yield _described(route, prefix, above)
        else:
            inner = getattr(route, "routes", None)
            if inner:
                yield from _walk(inner, path, converters)


def _described(route: Any, prefix: str, above: Mapping[str, str]) -> _Route:
    methods = tuple(sorted(set(getattr(route, "methods", None) or ()))) or ("*",)
    if "GET" in methods:
        methods = tuple(method for method in methods if method != "HEAD")  # a gateway sends HEAD to the route of GET
    text = getattr(route, "summary", None) or _first_line(getattr(route, "endpoint", None))
    tags = tuple(str(getattr(tag, "value", tag)) for tag in getattr(route, "tags", None) or ())
    deprecated = bool(getattr(route, "deprecated", False))
    found = AnnouncedRoute(prefix + route.path, methods, str(route.name or ""), text, tags, deprecated)
    return _Route(found, bool(getattr(route, "include_in_schema", True)), _converters(route, above))


def _converters(route: Any, above: Mapping[str, str]) -> Mapping[str, str]:
    """The regular expressions of the parameters of a route and of what it is mounted below."""
    own = getattr(route, "param_convertors", None) or {}
    return {**above, **{str(name): str(converter.regex) for name, converter in own.items()}}


def _kinds(value: Any) -> set[str]:
    return {kind.__name__.removeprefix("API") for kind in type(value).__mro__}


def _first_line(endpoint: Any) -> str:
    return (getattr(endpoint, "__doc__", None) or "").strip().partition("\n")[0]


def without_match(patterns: Iterable[str], paths: Sequence[str]) -> list[str]:
    """The patterns that match none of the paths."""
    return [pattern for pattern in patterns if not any(fnmatchcase(path, pattern) for path in paths)]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
