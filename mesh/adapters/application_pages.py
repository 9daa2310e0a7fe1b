"""Which page of an application a path leads to, and whether that one was announced.

An application's routes overlap: ``/users/{name}`` is announced, ``/users/export`` is hidden, and the application picks
the first that fits. To a gateway the second is not there, so what is sent to the first may reach it. Found here, it
is a 404.

What cannot be seen from outside: what an application's middleware makes of a path, and what another application
mounted in it does.
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


class Page(NamedTuple):
    """One route as the application has it, in its own order.

    ``path`` is the framework's template; ``methods`` are empty for a WebSocket, ``("*",)`` for whatever comes.
    ``converters`` are the regular expressions of the template's parameters by name, where they are known.
    """

    path: str
    methods: tuple[str, ...]
    announced: bool
    converters: Mapping[str, str] = {}


class Pages:
    """All pages of an application that is mounted at ``root_path``."""

    def __init__(self, pages: Sequence[Page], root_path: str = "") -> None:
        self._root_path = root_path.rstrip("/")
        self._pages = [(page, re.compile(_pattern(page), re.DOTALL)) for page in pages]
        hidden = "|".join(_pattern(page) for page in pages if not page.announced)
        self._any_hidden = re.compile(hidden or "(?!)", re.DOTALL)  # nearly every path is none of these

    def hides(self, method: str, path: str, websocket: bool) -> bool:
        """Whether the page for a decoded path is there and not announced."""
        path = self._below_root(path)
        if not self._any_hidden.fullmatch(path):
            return False
        method = "GET" if method == "HEAD" else method
        other_method: Page | None = None
        for page, pattern in self._pages:
            if websocket == bool(page.methods) and page.methods != ("*",):
                continue
            if not pattern.fullmatch(path):
                continue
            if websocket or method in page.methods or "*" in page.methods:
                return not page.announced
            other_method = other_method or page
        return other_method is not None and not other_method.announced

    def _below_root(self, path: str) -> str:
        root = self._root_path
        return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


class Excluded:
    """Paths that an application of which nothing is known does not get: shell patterns, as ``/internal/*``.

    How it reads a path is not known either, so repeated and trailing slashes, parameters after a ``;`` and the case
    of letters make no difference, and what is below an excluded path is excluded with it. Patterns fit with or without
    ``prefix``, below which the application is announced.
    """

    def __init__(self, patterns: Sequence[str], prefix: str = "") -> None:
        found = [part for pattern in patterns for part in (pattern, f"{pattern.rstrip('/')}/*")]
        found += [prefix.rstrip("/") + pattern for pattern in found]
        self._pattern = re.compile("|".join(translate(part.lower()) for part in found))

    def hides(self, method: str, path: str, websocket: bool) -> bool:
        """Whether that decoded path is excluded."""
        plain = re.sub(r"/+", "/", re.sub(r";[^/]*", "", path.replace("\\", "/"))).lower()
        return any(self._pattern.match(spelling) for spelling in (path.lower(), plain, plain.rstrip("/")))


def _pattern(page: Page) -> str:
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(page.path):
        name, kind = parameter.groups()
        pattern += re.escape(page.path[end : parameter.start()])
        pattern += f"(?:{page.converters.get(name) or _CONVERTERS.get(kind or 'str', '[^/]+')})"
        end = parameter.end()
    return f"(?:{pattern}{re.escape(page.path[end:])})"
