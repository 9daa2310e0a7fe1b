"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Any

from gateway.header_translation import Pairs, Rendered
from mesh import headers
from mesh.codec import encode_any
from mesh.errors import BY_STATUS, MeshError

_TITLES = {414: "Target too long", 431: "Headers too large", **{status: cls.title for status, cls in BY_STATUS.items()}}
# The details of these are for operators: addresses of servers, and what a service has sent.
_NEUTRAL = {
    "bus_unavailable": "the gateway has no connection to the services",
    "bad_reply": "what the service replied cannot be passed on",
}


def refuse(status: int, reason: str, detail: str, out: dict[str, str] | None = None, **extra: Any) -> MeshError:
    """An error of the gateway's own: nothing was published. ``out`` are headers of the response."""
    error = MeshError(detail, reason=reason, executed="no", headers=out, **extra)
    error.status = status
    error.title = _TITLES.get(status) or HTTPStatus(status).phrase.capitalize()
    error.origin = "gateway"
    return error


def public_detail(error: MeshError) -> str:
    """The detail of an error that a client may see; details that only concern operators are replaced."""
    neutral = _NEUTRAL.get(error.reason)
    if neutral is not None:
        return neutral
    return error.title if "NATS" in error.detail else error.detail


def render(error: MeshError, request_id: str, origin: str, method: str) -> Rendered:
    """An error as a problem document."""
    error.origin = origin
    body = encode_any(error.problem(request_id))
    out: Pairs = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if error.retry_after is not None:
        out.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))  # rounded down it would be too early
    given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    out += [pair for pair in given if headers.is_sound(*pair)]
    return Rendered(error.status, out, b"" if method == "HEAD" else body)


def encode_document(document: Any) -> tuple[bytes, bytes]:
    """Body and content type of one of the gateway's own paths; a document with ``reason`` is a problem."""
    is_problem = isinstance(document, dict) and "reason" in document
    return encode_any(document), b"application/problem+json" if is_problem else b"application/json"
