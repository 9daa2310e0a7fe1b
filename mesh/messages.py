"""The control messages of wire protocol version 1, and their codec.

Unknown fields are ignored and messages of unknown types refused, so that a newer peer never breaks an older one.
`decode` checks what the types cannot say: names, sizes, ranges, and that routes lead to endpoints.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mesh import codec
from mesh.subjects import GATEWAY, QUEUE, RESERVED

State = Literal["starting", "ready", "unready", "draining", "stopped"]
Why = Literal["earlier", "owner", "reserved"]

MAX_ANNOUNCEMENT: Final = 512 * 1024
"""Bytes an encoded announcement may have."""
MAX_HEARTBEAT: Final = 384
"""Bytes an encoded heartbeat may have."""
MIN_HEARTBEAT_MS: Final = 250
MAX_HEARTBEAT_MS: Final = 30_000
MAX_TIMEOUT_MS: Final = 3_600_000
MAX_COUNT: Final = 2**53 - 1
"""The largest ``seq`` and count: every JSON implementation reads it exactly, and a float holds it."""

MAX_LEAP: Final = 2**22
"""How far above the highest ``seq`` seen the next one may be: as many messages as an instance publishes in days.

Without a limit, one forged message with the highest ``seq`` would silence an instance for ever. With it, that takes
2^31 messages."""
NEVER: Final = MAX_COUNT
"""A time after all others, in Unix milliseconds: for a claim without a time."""

# `\Z` and not `$`, which in Python matches before a final line feed too: these texts become parts of subjects.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Revision = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}\Z")]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Moment = Count
Method = Annotated[str, Meta(pattern=r"^([A-Z][A-Z-]{0,31}|\*)\Z")]
Path = Annotated[str, Meta(min_length=1, max_length=2048)]
Timeout = Annotated[int, Meta(ge=0, le=MAX_TIMEOUT_MS)]


class BadMessage(ValueError):
    """A control message that does not follow the protocol. Receivers drop it and count it."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """A NATS micro endpoint (NATS ADR-32): name, subject, queue group, metadata of strings."""

    name: Name
    subject: str
    queue_group: str = QUEUE
    metadata: dict[str, str] | None = None


class Route(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An HTTP route that leads to an endpoint. ``timeout_ms`` of 0 means the caller's default."""

    method: Method
    path: Path
    endpoint: Name
    summary: str = ""
    tags: tuple[str, ...] = ()
    auth: str = ""
    timeout_ms: Timeout = 0
    try_timeout_ms: Timeout = 0
    idempotent: bool = False
    retry: bool = True
    """False forbids callers to retry a request that may have run."""
    deprecated: bool = False
    stream: Annotated[str, Meta(max_length=32)] = ""
    """``response`` if the reply is a stream, ``websocket`` for a WebSocket; empty otherwise."""
    preflight: bool = False
    """True if the endpoint itself answers CORS preflights for this route (Fetch standard)."""


class Announcement(Struct, frozen=True, kw_only=True, tag_field="type", tag="mesh.v1.announcement"):
    """The complete state of an instance: the INFO fields of NATS ADR-32, and further ones."""

    name: Name
    id: Name
    version: str
    description: str = ""
    metadata: dict[str, str] | None = None
    endpoints: tuple[Endpoint, ...] = ()
    routes: tuple[Route, ...] = ()
    seq: Count
    revision: Revision
    state: State
    started: str
    heartbeat_ms: Annotated[int, Meta(ge=MIN_HEARTBEAT_MS, le=MAX_HEARTBEAT_MS)]
    bundles: bool = False
    """True if the instance takes several requests in one message; fixed while it lives."""
    claimed: tuple[Moment, ...] = ()
    """Since when the service claims its routes, in Unix milliseconds: one time for all, or one for each in the order of
    ``routes``. Without any, ``started`` counts."""
    connection: Count = 0
    """The number of the instance's connection to NATS, from 1; 0: unknown. When it grows, messages may be lost."""


class RouteConflict(Struct, frozen=True, omit_defaults=True):
    """A route that several services announce, or one that does not get it. ``losers`` get no requests for it.

    ``why``: the winner has the ``earlier`` claim, the prefix has an ``owner`` (which need not claim the path), or the
    path is ``reserved`` for the gateway. ``path`` is the smallest spelling that the services use.
    """

    method: Method
    path: Path
    winner: Name
    losers: Annotated[tuple[Name, ...], Meta(max_length=1000)]
    why: Why
    more: Count = 0
    """The number of further losers, which are not named."""


class Conflicts(Struct, frozen=True, kw_only=True, tag_field="type", tag="mesh.v1.conflicts"):
    """A gateway's message to services that claim one route: conflicts that began, and conflicts that are over."""

    begun: tuple[RouteConflict, ...] = ()
    over: tuple[RouteConflict, ...] = ()


class Heartbeat(Struct, frozen=True, kw_only=True, tag_field="type", tag="mesh.v1.heartbeat"):
    """The short, regular message. ``capacity`` of 0 means unlimited; ``lag_ms`` is how late the event loop runs."""

    name: Name
    id: Name
    seq: Count
    revision: Revision
    state: State
    inflight: Count = 0
    capacity: Count = 0
    lag_ms: Count = 0


class Discover(Struct, frozen=True, kw_only=True, tag_field="type", tag="mesh.v1.discover"):
    """Asks instances to announce themselves again, spread at random over ``window_ms``."""

    window_ms: Annotated[int, Meta(ge=0, le=60_000)] = 500


class Cancel(Struct, frozen=True, kw_only=True, tag_field="type", tag="mesh.v1.cancel"):
    """Cancels an attempt, by its reply subject: its caller does not wait any more."""

    reply: str


Control = Announcement | Heartbeat

_control = msgspec.json.Decoder(Control)
_discover = msgspec.json.Decoder(Discover)
_cancel = msgspec.json.Decoder(Cancel)
_conflicts = msgspec.json.Decoder(Conflicts)


def encode(message: Announcement | Heartbeat | Discover | Cancel | Conflicts) -> bytes:
    """JSON bytes of a control message; raises `BadMessage` over the size limit of its type."""
    data = codec.encode(message)
    limit = MAX_HEARTBEAT if isinstance(message, Heartbeat) else MAX_ANNOUNCEMENT
    if len(data) > limit:
        kind = type(message).__name__.lower()
        raise BadMessage(f"{kind} of {len(data)} bytes; at most {limit} are allowed")
    return data


def decode(data: bytes, service: str, instance: str) -> Control:
    """The announcement or heartbeat in ``data``, received on the subject of that service and instance.

    Raises `BadMessage` for everything else: a text that is not such a message, a message in the name of another
    instance than that of its subject, one over its size limit, a route without its endpoint, a reserved name with
    routes.
    """
    if len(data) > MAX_ANNOUNCEMENT:
        raise BadMessage(f"{len(data)} bytes; at most {MAX_ANNOUNCEMENT} are allowed")
    try:
        message: Control = _control.decode(data)
    except codec.UNREADABLE as error:
        raise BadMessage(str(error)) from error
    if message.name != service or message.id != instance:
        raise BadMessage(f"speaks for {message.name}.{message.id} on the subject of {service}.{instance}")
    if isinstance(message, Heartbeat):
        if len(data) > MAX_HEARTBEAT:
            raise BadMessage(f"heartbeat of {len(data)} bytes; at most {MAX_HEARTBEAT} are allowed")
    else:
        if message.name in RESERVED and (message.name != GATEWAY or message.endpoints or message.routes):
            # It could win the routes of services, because names decide between equal claims.
            raise BadMessage(f"the name {message.name!r} is reserved, and has no endpoints and routes")
        names = {endpoint.name for endpoint in message.endpoints}
        if len(names) != len(message.endpoints):
            raise BadMessage("two endpoints have the same name")
        for route in message.routes:
            if route.endpoint not in names:
                raise BadMessage(f"route {route.method} {route.path} leads to no endpoint {route.endpoint!r}")
        if len(message.claimed) not in (0, 1, len(message.routes)):
            raise BadMessage(f"{len(message.claimed)} times in claimed for {len(message.routes)} routes")
    return message


def decode_sibling(data: bytes, service: str) -> Announcement | None:
    """The announcement of any instance of ``service``, or None if ``data`` is not one."""
    message = codec.decode_or_none(_control, data)
    if not isinstance(message, Announcement):
        return None
    try:
        return decode(data, service, message.id)  # type: ignore[return-value]
    except BadMessage:
        return None


def decode_discover(data: bytes) -> Discover:
    """A discover message; an empty or unreadable body counts as the default, so that people can send one by hand."""
    return codec.decode_or_none(_discover, data) or Discover()


def decode_cancel(data: bytes) -> Cancel | None:
    """A cancel message, or None if ``data`` is not one."""
    return codec.decode_or_none(_cancel, data)


def decode_conflicts(data: bytes) -> Conflicts | None:
    """A message about conflicts, or None if ``data`` is not one."""
    return codec.decode_or_none(_conflicts, data) if len(data) <= MAX_ANNOUNCEMENT else None


def revision_of(name: str, version: str, endpoints: tuple[Endpoint, ...], routes: tuple[Route, ...]) -> str:
    """22 base64url characters, equal for equal name, version, endpoints and routes."""
    content = codec.encode((name, version, endpoints, routes))
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()[:16]).rstrip(b"=").decode()


__all__ = [
    "Announcement",
    "BadMessage",
    "Cancel",
    "Conflicts",
    "Control",
    "Discover",
    "Endpoint",
    "Heartbeat",
    "Route",
    "RouteConflict",
    "State",
    "Why",
    "decode",
    "decode_cancel",
    "decode_conflicts",
    "decode_discover",
    "decode_sibling",
    "encode",
    "revision_of",
]
