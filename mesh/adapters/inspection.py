"""The routes of an existing application, found without importing the framework that it is written with.

FastAPI's and Starlette's applications say what they serve. What a template of theirs has and one of the mesh has not
(a converter, a segment that is only partly a parameter) is announced wider than it is: the application answers 404
itself for what it does not serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

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


def routes_of(app: Any, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Found]:
    """Every route that the application shows to the world: not those of its documentation, nor the ones that it
    keeps out of it (``include_in_schema=False``), unless ``include`` names them; ``exclude`` takes others away.

    Both are patterns of paths, as in a shell: ``/internal/*``.
    """
    hidden = {getattr(app, name, None) for name in _DOCUMENTATION}
    found = []
    for route, shown in _walk(app.routes, ""):
        wanted = _matches(route.path, include) if include else shown and route.path not in hidden
        if wanted and not _matches(route.path, exclude):
            found.append(route._replace(path=template(route.path)))
    return found


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


def _walk(routes: Iterable[Any], prefix: str) -> Iterator[tuple[Found, bool]]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is not None:  # newer FastAPI keeps included routers, and says on demand what they come to
            for found in included():
                other = found.starlette_route
                yield from _walk([other], prefix) if other is not None else [_described(found, prefix)]
            continue
        kinds, path = _kinds(route), prefix + getattr(route, "path", "")
        name = str(getattr(route, "name", "") or "")
        shown = bool(getattr(route, "include_in_schema", True))
        if "Mount" in kinds:
            inner = getattr(route, "routes", None)
            if inner:
                yield from _walk(inner, path)
            else:  # another application: it knows what it serves
                yield Found(f"{path}/{{path:path}}", ("*",), name), True
        elif "WebSocketRoute" in kinds:
            yield Found(path, (), name), shown
        elif "Route" in kinds:
            yield _described(route, prefix)
        else:
            inner = getattr(route, "routes", None)
            if inner:
                yield from _walk(inner, path)


def _described(route: Any, prefix: str) -> tuple[Found, bool]:
    methods = tuple(sorted(set(getattr(route, "methods", None) or ()))) or ("*",)
    if "GET" in methods:
        methods = tuple(method for method in methods if method != "HEAD")  # the gateway asks GET's route
    text = getattr(route, "summary", None) or _first_line(getattr(route, "endpoint", None))
    tags = tuple(str(getattr(tag, "value", tag)) for tag in getattr(route, "tags", None) or ())
    deprecated = bool(getattr(route, "deprecated", False))
    found = Found(prefix + route.path, methods, str(route.name or ""), text, tags, deprecated)
    return found, bool(getattr(route, "include_in_schema", True))


def _kinds(value: Any) -> set[str]:
    return {kind.__name__.removeprefix("API") for kind in type(value).__mro__}


def _first_line(endpoint: Any) -> str:
    return (getattr(endpoint, "__doc__", None) or "").strip().partition("\n")[0]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
