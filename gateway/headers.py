"""HTTP headers to bus headers and back: what crosses, and in which form."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply, MeshError

Pairs = list[tuple[bytes, bytes]]

_KNOWN_MAX = 4096
NO_BODY = frozenset({204, 304})
# Who is in front of this gateway is not for a client to say.
_PROXY = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"})
# Written anew from what the gateway knows.
_REPLACED = frozenset({b"x-request-id", b"traceparent", b"content-length", b"expect"}) | _PROXY
# The handshake of a WebSocket is the gateway's, but for the subprotocol.
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"})

# What the gateway itself looks at.
_LOOKED_AT = frozenset(
    {
        *(b"host", b"origin", b"x-request-id", b"traceparent", b"connection", b"upgrade"),
        *(b"content-length", b"transfer-encoding", b"expect"),
    }
)
_ONE_HOP = (b"keep-alive", b"close", b"upgrade")


_Kind = tuple[bytes, bytes]
"""What is done with a request header: how its line on the bus begins (empty where it does not cross), and its
lower-case name where it is looked at or counted here (else empty)."""

_kinds: dict[bytes, _Kind] = {}


def _kind(given: bytes) -> _Kind:
    """The kind of a name as a client spells it; remembered, as the same names come with every request."""
    name = given.lower()
    crosses = headers.crosses(name) and name not in _REPLACED and name not in _HANDSHAKE
    kind = (name + b": " if crosses else b"", name if name in _LOOKED_AT or not crosses else b"")
    if len(given) <= 64:  # a client can send any name: bounded
        if len(_kinds) >= _KNOWN_MAX:
            _kinds.clear()
        _kinds[given] = kind
    return kind


class Head(NamedTuple):
    """A request's headers, read once: lines for the bus, what the gateway itself looks at, their size in bytes and
    their number. ``hosts`` is how often the request names its host."""

    lines: bytes
    known: dict[bytes, bytes]
    size: int
    number: int
    hosts: int


def read_head(pairs: Pairs) -> Head:
    """What a client's headers come to, names in any case. ``known`` has the first of each; lines end in CRLF."""
    parts: list[bytes] = []
    known: dict[bytes, bytes] = {}
    named: frozenset[bytes] = frozenset()
    kept_back = hosts = 0
    kinds = _kinds
    for given, value in pairs:
        start, name = kinds.get(given) or _kind(given)
        if start:
            parts += (start, value, b"\r\n")
        else:
            kept_back += len(name) + len(value)
        if name and name not in known:
            known[name] = value
        elif name == b"host":
            hosts += 1
        if name == b"connection" and value.lower() not in _ONE_HOP:
            named = headers.named_by_connection((n.lower(), v) for n, v in pairs)
    lines = b"".join(parts)
    size = len(lines) - len(parts) // 3 * 4 + kept_back
    if named or not lines.isascii():
        lines = _lines_but(pairs, named)
    return Head(lines, known, size, len(pairs), hosts + (b"host" in known))


def _lines_but(pairs: Pairs, named: frozenset[bytes]) -> bytes:
    """The lines where some are not ASCII, or a ``Connection`` header keeps some of them back."""
    lines = []
    for given, value in pairs:
        start, _ = _kind(given)
        if start and given.lower() not in named:
            lines.append(b"%b%b\r\n" % (start, value.decode("latin-1").encode()))
    return b"".join(lines)


def response(reply: Reply, method: str, *, streamed: bool = False) -> tuple[int, Pairs, bytes]:
    """Status, headers and body for the client. ``streamed``: the body follows, as long as the service says, if it does.

    Raises `BadReply` where the reply has no valid status, or a header that would break the response's framing.
    """
    block, body = reply.block, reply.payload
    pairs = headers.decode(block)
    status = headers.status_of(pairs)
    if status is None:
        raise BadReply(f"the service replied with the status {headers.find(pairs, headers.STATUS)!r}")
    out: Pairs = []
    length: bytes | None = None
    for name, value in pairs:
        if name == b"content-length":
            length = value
        elif headers.crosses(name):
            if not headers.is_sound(name, value):
                raise BadReply(f"the service replied with the header {name[:80]!r}: {value[:80]!r}")
            out.append((name, value))
    if status >= 400 and not body and not streamed and headers.find(pairs, headers.STATUS) is None:
        # A foreign service's error is two headers (ADR-32); clients get what they get of others.
        given = headers.find(pairs, b"nats-service-error") or b""
        error = MeshError(given.decode("latin-1") or "the service gave no reason")
        error.status, error.title = status, "Error of the service"
        error.origin, error.reason = "service", "service_error"
        body = msgspec.json.encode(error.problem(""))
        out = [(name, value) for name, value in out if name != b"content-type"]
        out.append((b"content-type", b"application/problem+json"))
    if status == 426:
        out.append((b"upgrade", b"websocket"))  # the response must say to what (RFC 9110 section 15.5.22)
    if status in NO_BODY:
        return status, out, b""
    if streamed:
        if length is not None and length.isdigit():
            out.append((b"content-length", length))
        return status, out, b""
    if method == "HEAD":
        # A service that answered the HEAD itself knows the length that a GET would have; otherwise it is the body's.
        known = length if length is not None and length.isdigit() and not body else b"%d" % len(body)
        out.append((b"content-length", known))
        return status, out, b""
    out.append((b"content-length", b"%d" % len(body)))
    return status, out, body


def lines_of(pairs: Pairs) -> bytes:
    """Header lines of an HTTP message, each ending in CRLF."""
    return b"".join(b"%b: %b\r\n" % pair for pair in pairs)


class ResponseHeads:
    """Responses as bytes. Services send the same few header blocks again and again: those are translated once."""

    MOST, LONGEST = 1024, 1024

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, bytes]] = {}

    def render(self, reply: Reply, method: str, request_id: bytes) -> tuple[int, bytes, bytes]:
        """Status, header lines and body; see `response` for what it raises."""
        block, body = reply.block, reply.payload
        known = self._known.get(block)
        if known is not None and method != "HEAD":
            lines = b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (known[1], len(body), request_id)
            return known[0], lines, body
        status, out, body = response(reply, method)
        length = (b"content-length", b"%d" % len(body))
        if out and out[-1] == length and len(block) <= self.LONGEST and body and method != "HEAD":
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[block] = status, lines_of(out[:-1])
        out.append((b"x-request-id", request_id))
        return status, lines_of(out), body
