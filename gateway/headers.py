"""HTTP headers to bus headers and back: what crosses, and in which form."""

from __future__ import annotations

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

_crossing: dict[bytes, bool] = {}


def _crosses(name: bytes) -> bool:
    """Whether a request header crosses; remembered, because the same names come with every request."""
    known = _crossing.get(name)
    if known is None:
        known = headers.crosses(name) and name not in _REPLACED and name not in _HANDSHAKE
        if len(_crossing) < _KNOWN_MAX:  # a client can send any name: bounded
            _crossing[name] = known
    return known


def request_lines(pairs: Pairs) -> bytes:
    """The client's headers as lines of a NATS header block, each ending in CRLF."""
    lines: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    for name, value in pairs:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close", b"upgrade"):
            named = headers.named_by_connection(pairs)
    for name, value in pairs:
        if _crosses(name) and name not in named:
            if not value.isascii():
                value = value.decode("latin-1").encode()
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def response(reply: Reply, method: str, *, streamed: bool = False) -> tuple[int, Pairs, bytes]:
    """Status, headers and body for the client. ``streamed``: the body follows, as long as the service says, if it does.

    Raises `BadReply` where the reply has no valid status, or a header that would break the response's framing.
    """
    block, body = reply
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
