"""A foreign micro service as an announcement: its endpoints' metadata makes HTTP routes.

=================== ======================================================================
``http.method``      ``GET`` unless given; ``*`` for all
``http.path``        a path template; without it the endpoint has no route
``http.summary``     for documentation
``http.auth``        as in a route
``http.timeout_ms``  of a whole call
``http.retry``       ``false`` forbids the retry of a request that may have run
=================== ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from mesh.foreign.survey import MicroEndpoint, MicroInstance
from mesh.messages import MAX_TIMEOUT_MS, Announcement, Endpoint, Route, revision_of
from mesh.numbers import parse_count
from mesh.routes import BadTemplate, parse_template
from mesh.subjects import RESERVED, is_name, takes_requests

HEARTBEAT_MS: Final = 30_000
"""A value that the message needs: foreign services send no heartbeats."""
MAX_ENDPOINTS: Final = 1000
"""Endpoints of one instance that are looked at: a bound for the work that one answer causes."""


def subjects_of(micros: Iterable[MicroInstance], prefix: str) -> dict[str, str]:
    """The subjects of the endpoints of these instances, by name, without those that no request may be sent to."""
    return {e.name: e.subject for micro in micros for e in micro.endpoints if takes_requests(e.subject, prefix)}


def announcement_of(micro: MicroInstance, prefix: str, problems: list[str]) -> Announcement | None:
    """What the instance would announce if it were one of the mesh. None if its name or id is not one of the mesh's.

    prefix: first token of the subjects of this mesh, to which no request may be sent
    problems: gets a sentence for everything that was left out

    The ``endpoint`` of a route is the whole subject of the endpoint: its requests go there.
    """
    if not is_name(micro.name) or not is_name(micro.id):
        problems.append(f"{micro.name[:80]!r} {micro.id[:80]!r} is not a name and an id")
        return None
    if micro.name in RESERVED:
        problems.append(f"the name {micro.name!r} is reserved for the mesh itself")
        return None
    endpoints: dict[str, Endpoint] = {}
    routes: list[Route] = []
    for asked in micro.endpoints[:MAX_ENDPOINTS]:
        if not is_name(asked.name) or asked.name in endpoints:
            continue
        endpoints[asked.name] = Endpoint(
            name=asked.name, subject=asked.subject, queue_group=asked.queue_group, metadata=asked.metadata
        )
        if asked.metadata.get("http.path"):
            try:
                routes.append(_route(asked, prefix))
            except ValueError as error:
                problems.append(f"{micro.name}, endpoint {asked.name!r}: {error}")
    declared, served = tuple(endpoints.values()), tuple(routes)
    return Announcement(
        name=micro.name,
        id=micro.id,
        version=micro.version,
        description=micro.description,
        metadata=micro.metadata,
        endpoints=declared,
        routes=served,
        seq=0,
        revision=revision_of(micro.name, micro.version, declared, served),
        state="ready",
        started=micro.started,
        heartbeat_ms=HEARTBEAT_MS,
    )


def _route(asked: MicroEndpoint, prefix: str) -> Route:
    """The route in an endpoint's metadata. Raises ValueError with what is wrong."""
    given = asked.metadata
    subject = asked.subject
    if not takes_requests(subject, prefix):
        raise ValueError(f"the subject {subject[:80]!r} is not one to send requests to")
    try:
        parse_template(given["http.path"])
    except BadTemplate as error:
        raise ValueError(f"http.path {given['http.path'][:80]!r}: {error}") from error
    timeout_text = given.get("http.timeout_ms", "0")
    timeout_ms = parse_count(timeout_text)
    if timeout_ms is None or timeout_ms > MAX_TIMEOUT_MS:
        raise ValueError(f"http.timeout_ms {timeout_text[:20]!r} is not a number up to {MAX_TIMEOUT_MS}")
    retry = given.get("http.retry", "true").lower()
    if retry not in ("true", "false"):
        raise ValueError(f"http.retry {retry[:20]!r} is neither true nor false")
    fields = {
        "method": given.get("http.method", "GET").upper(),
        "path": given["http.path"],
        "endpoint": asked.name,
        "summary": given.get("http.summary", "")[:200],
        "auth": given.get("http.auth", ""),
        "timeout_ms": timeout_ms,
        "retry": retry == "true",
    }
    try:
        route = msgspec.convert(fields, Route)
    except msgspec.ValidationError as error:
        raise ValueError(f"http.method, http.path: {error}") from error
    return msgspec.structs.replace(route, endpoint=subject)
