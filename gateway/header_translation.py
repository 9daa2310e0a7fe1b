"""HTTP headers to bus headers and back: what crosses, and in which form."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply, MeshError
from mesh.headers import Pairs
from mesh.numbers import parse_count

_KNOWN_MAX = 4096
_LONGEST_LENGTH = 18
"""Digits of a body's length: a number of more is no length, and more than a machine's word."""
NO_BODY = frozenset({204, 304})
# Written anew from what the gateway knows.
_REPLACED = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"content-length", b"expect"})
# The handshake of a WebSocket is the gateway's, but for the subprotocol.
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"})

# What the gateway itself looks at.
_LOOKED_AT = frozenset(
    {
        *(b"host", b"origin", b"x-request-id", b"traceparent", b"connection", b"upgrade", b"authorization", b"via"),
        *(b"content-length", b"transfer-encoding", b"expect"),
        *(b"access-control-request-method", b"access-control-request-headers"),
    }
)
# Lists, which may come in several lines (RFC 9110 section 5.3).
_LISTS = frozenset(
    {
        *(b"tracestate", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"),
        b"access-control-request-headers",
    }
)
# Of most replies: nothing needs to be asked.
_USUAL = frozenset({b"content-type", b"cache-control", b"date", b"etag", b"last-modified", b"server", b"vary"})
_ONE_HOP = (b"keep-alive", b"close", b"upgrade")


_Kind = tuple[bytes, bytes]
"""What is done with a request header: how its line on the bus begins (empty where it does not cross), and its
lower-case name where it is looked at or counted here (else empty)."""

_kinds: dict[bytes, _Kind] = {}


def _kind(given: bytes) -> _Kind:
    """The kind of a name as a client spells it; remembered, as the same names come with every request."""
    name = given.lower()
    crosses = headers.crosses(name) and name not in _REPLACED and name not in _HANDSHAKE
    # Who is in front of this gateway is not for a client to say; CGI, and so WSGI, reads `_` in a name as `-`.
    crosses = crosses and b"_" not in name and not headers.tells_of_client(name)
    kind = (name + b": " if crosses else b"", name if name in _LOOKED_AT or not crosses else b"")
    if len(given) <= 64:  # a client can send any name: bounded
        if len(_kinds) >= _KNOWN_MAX:
            _kinds.clear()
        _kinds[given] = kind
    return kind


class Head(NamedTuple):
    """A request's headers, read once: lines for the bus, what the gateway itself looks at, their size in bytes and
    their number. ``hosts`` is how often the request names its host, ``credentials`` how many it has."""

    lines: bytes
    known: dict[bytes, bytes]
    size: int
    number: int
    hosts: int
    credentials: int


def read_head(pairs: Pairs) -> Head:
    """What a client's headers come to, names in any case; lines end in CRLF.

    ``known`` has the names that do not cross, too, and the first value of each; lists of several lines are joined.
    """
    parts: list[bytes] = []
    known: dict[bytes, bytes] = {}
    again: Pairs = []
    named: frozenset[bytes] = frozenset()
    kept_back = 0
    kinds = _kinds
    for given, value in pairs:
        start, name = kinds.get(given) or _kind(given)
        if start:
            parts += (start, value, b"\r\n")
        else:
            kept_back += len(name) + len(value)
        if name:
            if name not in known:
                known[name] = value
            else:
                again.append((name, value))
        if name == b"connection" and value.lower() not in _ONE_HOP:
            named = headers.named_by_connection((n.lower(), v) for n, v in pairs)
    lines = b"".join(parts)
    size = len(lines) - len(parts) // 3 * 4 + kept_back
    if named or not lines.isascii():
        lines = _lines_but(pairs, named)
    hosts, credentials = int(b"host" in known), int(b"authorization" in known)
    if again:
        hosts += sum(name == b"host" for name, _ in again)
        credentials += sum(name == b"authorization" for name, _ in again)
        _take_in(known, again)
    return Head(lines, known, size, len(pairs), hosts, credentials)


def _take_in(known: dict[bytes, bytes], again: Pairs) -> None:
    """What lines mean whose name was there before."""
    for name in {name for name, _ in again}:
        if name in _LISTS:
            known[name] = b",".join([known[name], *(value for other, value in again if other == name)])
        elif name == b"traceparent":
            known[name] = b""  # two of them are none (W3C Trace Context, section 3.2)


def _lines_but(pairs: Pairs, named: frozenset[bytes]) -> bytes:
    """The lines where some are not ASCII, or a ``Connection`` header keeps some of them back."""
    lines = []
    for given, value in pairs:
        start, _ = _kind(given)
        if start and given.lower() not in named:
            lines.append(b"%b%b\r\n" % (start, value.decode("latin-1").encode()))
    return b"".join(lines)


def response(reply: Reply, method: str, request_id: bytes = b"", *, streamed: bool = False) -> tuple[int, Pairs, bytes]:
    """Status, headers and body for the client. ``streamed``: the body follows, as long as the service says, if it does.

    ``request_id`` is for the problem document of a foreign service's error. Raises `BadReply` where the reply has no
    valid status, or a header that would break the response's framing.
    """
    block, body = reply.block, reply.payload
    pairs = headers.decode(block)
    status = headers.status_of(pairs)
    if status is None:
        raise BadReply(f"the service replied with the status {headers.find(pairs, headers.STATUS)!r}")
    out = crossing(pairs)
    length = headers.find(pairs, b"content-length") if streamed or method == "HEAD" else None
    if length is not None and parse_count(length, _LONGEST_LENGTH) is None:
        if streamed:  # nobody here could count along
            raise BadReply(f"the service replied with the content-length {length[:80]!r}")
        length = None
    if status >= 400 and not body and not streamed and headers.find(pairs, headers.STATUS) is None:
        # A foreign service's error is two headers (NATS ADR-32); clients get what they get of others.
        given = headers.find(pairs, b"nats-service-error") or b""
        error = MeshError(given.decode("latin-1") or "the service gave no reason")
        error.status, error.title = status, "Error of the service"
        error.origin, error.reason = "service", "service_error"
        body = msgspec.json.encode(error.problem(request_id.decode()))
        out = [(name, value) for name, value in out if name != b"content-type"]
        out.append((b"content-type", b"application/problem+json"))
    if status == 426:
        out.append((b"upgrade", b"websocket"))  # the response must say to what (RFC 9110 section 15.5.22)
    if status in NO_BODY:
        return status, out, b""
    if streamed:
        if length is not None:
            out.append((b"content-length", length))
        return status, out, b""
    if method == "HEAD":
        # A service that answered the HEAD itself knows the length that a GET would have; otherwise it is the body's.
        known = length if length is not None and not body else b"%d" % len(body)
        out.append((b"content-length", known))
        return status, out, b""
    out.append((b"content-length", b"%d" % len(body)))
    return status, out, body


def crossing(pairs: Pairs) -> Pairs:
    """Those of a reply's headers that the client gets: one ``Date`` at most, and no length.

    Raises `BadReply` for one that would break the response's framing.
    """
    out: Pairs = []
    dated = False
    for name, value in pairs:
        if name not in _USUAL and (name == b"content-length" or not headers.crosses(name)):
            continue
        if name == b"date" and dated:
            continue
        if not headers.is_sound(name, value):
            raise BadReply(f"the service replied with the header {name[:80]!r}: {value[:80]!r}")
        dated = dated or name == b"date"
        out.append((name, value))
    return out


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
        if known is not None and method != "HEAD" and (body or known[0] < 400):
            lines = b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (known[1], len(body), request_id)
            return known[0], lines, body
        status, out, body = response(reply, method, request_id)
        length = (b"content-length", b"%d" % len(body))
        # Not where the body is made here, of what the headers say.
        if out and out[-1] == length and len(block) <= self.LONGEST and body and body is reply.payload:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[block] = status, lines_of(out[:-1])
        out.append((b"x-request-id", request_id))
        return status, lines_of(out), body
