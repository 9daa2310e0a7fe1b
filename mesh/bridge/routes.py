"""The routes of the server behind a bridge: from flags, or from its OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mesh.adapters.route_discovery import AnnouncedRoute, template
from mesh.errors import DeclarationError
from mesh.routes import BadTemplate, parse_template
from mesh.service.declaration_hints import respelled
from mesh.service.endpoints import METHODS

_OPERATIONS = ("get", "put", "post", "delete", "options", "head", "patch")


def parse_routes(given: Iterable[str]) -> list[AnnouncedRoute]:
    """Routes as flags have them: ``GET /jokes/{id}``, ``WS /chat``, or a path alone for every method.

    Raises `DeclarationError` that names the flag.
    """
    found = []
    for text in given:
        word, _, path = text.strip().rpartition(" ")
        method = word.strip().upper() or "*"
        if method not in (*METHODS, "WS"):
            raise DeclarationError(f"--route {text!r}: {method!r} is not one of {', '.join(METHODS)} and WS")
        if respelled(path) != path:
            right = f"{word.strip()} {respelled(path)}".strip()
            raise DeclarationError(f"--route {text!r}: a parameter is written {{name}}; did you mean {right!r}?")
        try:
            parse_template(path)
        except BadTemplate as error:
            raise DeclarationError(f"--route {text!r}: {error}") from error
        found.append(AnnouncedRoute(path, () if method == "WS" else (method,), _name(path)))
    return found


def routes_of_openapi(document: Any) -> list[AnnouncedRoute]:
    """Every operation of an OpenAPI document, version 2 or 3. Raises `DeclarationError` if there is none."""
    paths = document.get("paths") if isinstance(document, Mapping) else None
    if not isinstance(paths, Mapping) or not paths:
        raise DeclarationError("the OpenAPI document has no paths")
    base = str(document.get("basePath") or "").rstrip("/")
    found = []
    for path, item in paths.items():
        for method in _OPERATIONS:
            operation = item.get(method) if isinstance(item, Mapping) else None
            if not isinstance(operation, Mapping):
                continue
            text = str(operation.get("summary") or operation.get("description") or "").strip().partition("\n")[0]
            tags = tuple(str(tag) for tag in operation.get("tags") or ())
            name = str(operation.get("operationId") or _name(path))
            deprecated = bool(operation.get("deprecated"))
            found.append(AnnouncedRoute(template(base + str(path)), (method.upper(),), name, text, tags, deprecated))
    if not found:
        raise DeclarationError("the OpenAPI document has no operations")
    return found


def _name(path: str) -> str:
    bare = re.sub(r":[a-z]+\}", "}", str(path))
    return re.sub(r"[^A-Za-z0-9_]+", "-", bare).strip("-") or "root"
