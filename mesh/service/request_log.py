"""A line for each request in the service's own log, at level debug, for the person who develops it."""

from __future__ import annotations

import logging
import time

from mesh import headers
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.http_messages import Request

_log = logging.getLogger("mesh.requests")


def is_wanted() -> bool:
    """True if the log shows level debug; asked once at the start, so that requests cost nothing otherwise."""
    return _log.isEnabledFor(logging.DEBUG)


def status_of(endpoint: DeclaredEndpoint, reply: tuple[bytes, bytes] | None) -> int | str:
    """The status of a reply for the log; ``reply`` is None for a response that was streamed."""
    if reply is None:
        return 101 if endpoint.websocket else "streamed"
    return headers.status_of(headers.decode(reply[0])) or "without a status"


def write(endpoint: DeclaredEndpoint, request: Request, status: int | str, began_ns: int) -> None:
    """Log method, path, status and duration; never the query, headers or the body.

    ``began_ns`` is a moment of `time.perf_counter_ns`. A call by name has the method CALL and its endpoint for a path.
    """
    path = request.target.partition("?")[0] or endpoint.name
    milliseconds = (time.perf_counter_ns() - began_ns) / 1e6
    facts = {"endpoint": endpoint.name}
    _log.debug("%s %s %s in %.1f ms", request.method, path, status, milliseconds, extra=facts)
