"""The routes of an existing application, found without importing the framework that it is written with.

FastAPI's and Starlette's applications say what they serve. What a template of theirs has and one of the mesh has not
(a converter, a segment that is only partly a parameter) is announced wider than it is: the application answers 404
itself for what it does not serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mesh.adapters.application_pages import Page

_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(:[a-zA-Z_][a-zA-Z0-9_]*)?\}")
_DOCUMENTATION = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")


class Found(NamedTuple):
    """One route of an application; ``methods`` is empty for a WebSocket, ``("*",)`` for whatever comes."""

    path: str
    methods: tuple[str, ...]
    name: str = ""
    summary: str = ""
    tags: tuple[str, ...] = ()
    deprecated: bool = False


def has_routes(app: Any) -> bool:
    """Whether the application says what it serves."""
    known = any(
        kind.__module__.partition(".")[0] == "starlette" and kind.__name__ in ("Starlette", "Router")
        for kind in type(app).__mro__
    )
    return known and bool(app.routes)


class Selection(NamedTuple):
    """Which routes of an application are announced; each is patterns of paths as in a shell: ``/internal/*``.

    By default they are those that the application shows to the world: not those of its documentation, nor the ones
    that it keeps out of it (``include_in_schema=False``). ``include`` adds what is hidden so, ``only`` leaves out what
    is not like it, ``exclude`` takes away from all of them.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()

    def has(self, path: str, shown: bool) -> bool:
        """Whether a route at ``path`` is announced, if the application shows it or does not."""
        wanted = shown and (not self.only or _matches(path, self.only))
        return (wanted or _matches(path, self.include)) and not _matches(path, self.exclude)


EVERYTHING_SHOWN = Selection()


def routes_of(app: Any, selection: Selection = EVERYTHING_SHOWN) -> list[Found]:
    """The routes of the application that are announced, as the mesh has them."""
    return [route.found._replace(path=template(route.found.path)) for route in _routes(app, selection) if route.shown]


def pages_of(app: Any, selection: Selection = EVERYTHING_SHOWN) -> list[Page]:
    """All routes of the application in its own order, announced or not."""
    return [
        Page(route.found.path, route.found.methods, route.shown, route.converters) for route in _routes(app, selection)
    ]


def _routes(app: Any, selection: Selection) -> Iterator[_Route]:
    documentation = {getattr(app, name, None) for name in _DOCUMENTATION}
    for route in _walk(app.routes, "", {}):
        path = route.found.path
        yield route._replace(shown=selection.has(path, route.shown and path not in documentation))


def below(prefix: str, name: str) -> list[Found]:
    """Everything at and below a path, WebSockets too; ``name`` is the endpoint of what is below."""
    base = prefix.rstrip("/")
    tail = f"{base}/{{path:path}}"
    found = [Found(tail, ("*",), name), Found(tail, (), "socket")]
    return found + ([Found(base, ("*",), "root"), Found(base, (), "root-socket")] if base else [])


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
    """A route as the application has it, and whether it shows it."""

    found: Found
    shown: bool
    converters: Mapping[str, str]


def _walk(routes: Iterable[Any], prefix: str, above: Mapping[str, str]) -> Iterator[_Route]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is not None:  # newer FastAPI keeps included routers, and says on demand what they come to
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
            else:  # another application: it knows what it serves
                yield _Route(Found(f"{path}/{{path:path}}", ("*",), name), True, converters)
        elif "WebSocketRoute" in kinds:
            yield _Route(Found(path, (), name), shown, converters)
        elif "Route" in kinds:
            yield _described(route, prefix, above)
        else:
            inner = getattr(route, "routes", None)
            if inner:
                yield from _walk(inner, path, converters)


def _described(route: Any, prefix: str, above: Mapping[str, str]) -> _Route:
    methods = tuple(sorted(set(getattr(route, "methods", None) or ()))) or ("*",)
    if "GET" in methods:
        methods = tuple(method for method in methods if method != "HEAD")  # the gateway asks GET's route
    text = getattr(route, "summary", None) or _first_line(getattr(route, "endpoint", None))
    tags = tuple(str(getattr(tag, "value", tag)) for tag in getattr(route, "tags", None) or ())
    deprecated = bool(getattr(route, "deprecated", False))
    found = Found(prefix + route.path, methods, str(route.name or ""), text, tags, deprecated)
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
    """The patterns that fit none of the paths."""
    return [pattern for pattern in patterns if not any(fnmatchcase(path, pattern) for path in paths)]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
