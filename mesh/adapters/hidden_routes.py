"""The routes of an application that are not announced.

An application's routes overlap: ``/users/{name}`` is announced, ``/users/export`` is hidden, and the application picks
the first that matches. A gateway does not know the hidden one, so a request for ``/users/{name}`` may reach it. Such a
request is a 404.

Two things cannot be seen from outside: how an application's middleware changes a path, and the routes of another
application that is mounted in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from typing import NamedTuple

_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")
_CONVERTERS = {
    "str": "[^/]+",
    "path": ".*",
    "int": "[0-9]+",
    "float": r"[0-9]+(\.[0-9]+)?",
    "uuid": "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
}


class ApplicationRoute(NamedTuple):
    """One route as the application has it.

    path: the framework's template
    methods: empty for a WebSocket, ``("*",)`` for all
    announced: True if the mesh announces it
    converters: the regular expressions of the template's parameters by name, as far as they are known
    """

    path: str
    methods: tuple[str, ...]
    announced: bool
    converters: Mapping[str, str] = {}


class HiddenRoutes:
    """Finds hidden routes among all routes of an application, which is mounted at ``root_path``; order matters."""

    def __init__(self, routes: Sequence[ApplicationRoute], root_path: str = "") -> None:
        self._root_path = root_path.rstrip("/")
        self._routes = [(route, re.compile(_pattern(route), re.DOTALL)) for route in routes]
        hidden = "|".join(_pattern(route) for route in routes if not route.announced)
        self._any_hidden = re.compile(hidden or "(?!)", re.DOTALL)  # nearly no path matches

    def hides(self, method: str, path: str, websocket: bool) -> bool:
        """True if the application's route for a decoded path is not announced."""
        path = self._below_root(path)
        if not self._any_hidden.fullmatch(path):
            return False
        method = "GET" if method == "HEAD" else method
        other_method: ApplicationRoute | None = None
        for route, pattern in self._routes:
            if websocket == bool(route.methods) and route.methods != ("*",):
                continue
            if not pattern.fullmatch(path):
                continue
            if websocket or method in route.methods or "*" in route.methods:
                return not route.announced
            other_method = other_method or route
        return other_method is not None and not other_method.announced

    def _below_root(self, path: str) -> str:
        root = self._root_path
        return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


class ExcludedPaths:
    """Paths that an application gets no requests for, if it does not say its routes.

    Nobody knows how it reads a path, so repeated and trailing slashes, parameters after a ``;`` and the case of letters
    make no difference, and everything below an excluded path is excluded too.

    patterns: shell patterns such as ``/internal/*``, with or without the prefix
    prefix: the path below which the application is announced
    """

    def __init__(self, patterns: Sequence[str], prefix: str = "") -> None:
        found = [part for pattern in patterns for part in (pattern, f"{pattern.rstrip('/')}/*")]
        found += [prefix.rstrip("/") + pattern for pattern in found]
        self._pattern = re.compile("|".join(translate(part.lower()) for part in found))

    def hides(self, method: str, path: str, websocket: bool) -> bool:
        """True if that decoded path is excluded."""
        plain = re.sub(r"/+", "/", re.sub(r";[^/]*", "", path.replace("\\", "/"))).lower()
        return any(self._pattern.match(spelling) for spelling in (path.lower(), plain, plain.rstrip("/")))


def _pattern(route: ApplicationRoute) -> str:
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(route.path):
        name, kind = parameter.groups()
        pattern += re.escape(route.path[end : parameter.start()])
        pattern += f"(?:{route.converters.get(name) or _CONVERTERS.get(kind or 'str', '[^/]+')})"
        end = parameter.end()
    return f"(?:{pattern}{re.escape(route.path[end:])})"
