"""Refuses requests to an adapted endpoint that the application would read as requests to another route.

A gateway matches a path's segments as they are between slashes, and decodes each of them once: to it ``/a%2Fb`` is
one segment. An application that gets the decoded path takes it for two segments, and may serve a route that is not
announced. Others (servlets) drop the text after a ``;``, so that ``/..;/admin`` is a dot segment to them. Here both
readings are known, so such requests are refused here (RFC 3986 section 2.2, RFC 9110 section 17.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from urllib.parse import unquote

from mesh.errors import BadRequest, MeshError, NotFound
from mesh.routes import RefusedTarget, RequestTarget, Template, parse_target, parse_template
from mesh.service import Request

_SEPARATOR = re.compile(r"%2f|%5c|\\", re.IGNORECASE)
_PARAMETERS = re.compile(r";[^/\\]*")
_SLASHES = re.compile(r"[/\\]")

Hides = Callable[[str, str, bool], bool]
"""``hides(method, path, websocket)``: True if the application's route for a decoded path is not announced."""


class RouteFilter:
    """The filter of one endpoint.

    path: the template of its route
    methods: the methods of its route; ``"*"`` for all. ``OPTIONS`` always passes: the application answers it
    hides: says which paths belong to routes that are not announced
    encoded_slashes: True lets paths with ``%2F`` and ``%5C`` pass
    """

    def __init__(
        self, path: str, methods: Collection[str], hides: Hides | None = None, *, encoded_slashes: bool = False
    ) -> None:
        self._template = parse_template(path)
        self._methods = frozenset(methods)
        self._hides = hides
        self._encoded_slashes = encoded_slashes

    def check(self, request: Request, *, websocket: bool = False) -> None:
        """Return if the request may pass. Raises `BadRequest`, `NotFound`, or an error with status 405 or 414."""
        if not request.is_http:
            raise BadRequest("this endpoint takes HTTP requests: Mesh-Request is missing")
        raw, _, query = request.target.partition("?")
        target = parse_target(raw.encode("latin-1", "replace"), query.encode("latin-1", "replace"))
        if isinstance(target, RefusedTarget):
            error = BadRequest(target.detail, reason=target.reason)
            error.status = target.status
            raise error
        self._check_spelling(raw)
        if not _matches(self._template, target):
            raise _no_route()
        if not websocket:
            self._check_method(request.method)
        if self._hides is not None and self._hides(request.method, unquote(raw), websocket):
            raise _no_route()

    def _check_spelling(self, raw: str) -> None:
        if not self._encoded_slashes and _SEPARATOR.search(raw):
            raise BadRequest(
                "The path has an encoded slash or a backslash, which its service does not take.", reason="bad_target"
            )
        text = unquote(raw)
        if ";" in text and any(part in (".", "..") for part in _SLASHES.split(_PARAMETERS.sub("", text))):
            raise BadRequest("The path has a dot segment with parameters.", reason="bad_target")

    def _check_method(self, method: str) -> None:
        allowed = self._methods
        if "*" in allowed or method in allowed or method == "OPTIONS" or (method == "HEAD" and "GET" in allowed):
            return
        more = {"HEAD"} if "GET" in allowed else set()
        allow = ", ".join(sorted(allowed | more | {"OPTIONS"}))
        error = BadRequest(f"this path answers {allow}", reason="method_not_allowed", headers={"allow": allow})
        error.status, error.title = 405, "Method not allowed"
        raise error


def _matches(template: Template, target: RequestTarget) -> bool:
    """True if a template matches as it does at a gateway: a parameter takes a segment that is not empty."""
    segments, wanted = target.segments, template.segments
    if len(segments) <= len(wanted) if template.tail else len(segments) != len(wanted):
        return False
    pairs = zip(wanted, segments, strict=False)
    return all(given == literal if literal is not None else bool(given) for literal, given in pairs)


def _no_route() -> MeshError:
    return NotFound("nothing is served at this path", reason="no_route", executed="no")
