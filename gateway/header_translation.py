"""HTTP headers to bus headers and back: which ones cross, and in which form."""

from __future__ import annotations

from typing import NamedTuple, cast

import msgspec

from gateway import known_headers
from gateway.known_headers import AUTHORIZATION, HOST, KnownHeaders
from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply, MeshError
from mesh.numbers import parse_count

Pairs = list[tuple[bytes, bytes]]

_KNOWN_MAX = 4096
_LONGEST_LENGTH = 18
"""Digits of a body's length: a number of more is no length, and more than a machine's word."""
NO_BODY = frozenset({204, 304})
# The gateway writes these itself.
_REPLACED = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"content-length", b"expect"})
# The handshake of a WebSocket is the gateway's, except for the subprotocol.
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"})

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
"""How a request header is treated: how its line on the bus begins (empty if it does not cross), and its
lower-case name if the gateway reads or counts it (else empty)."""

_kinds: dict[bytes, _Kind] = {}


def _kind(given: bytes) -> _Kind:
    """The kind of a name as a client spells it; remembered, as the same names come with every request."""
    name = given.lower()
    crosses = headers.crosses(name) and name not in _REPLACED and name not in _HANDSHAKE
    # A client may not say which proxies are in front of this gateway; CGI, and so WSGI, reads `_` in a name as `-`.
    crosses = crosses and b"_" not in name and not headers.tells_of_client(name)
    kind = (name + b": " if crosses else b"", name if name in known_headers.declared or not crosses else b"")
    if len(given) <= 64:  # a client can send any name: bounded
        if len(_kinds) >= _KNOWN_MAX:
            _kinds.clear()
        _kinds[given] = kind
    return kind


class Head(NamedTuple):
    """A request's headers, read once: lines for the bus, those that the gateway itself reads, their size in bytes and
    their number. ``hosts`` is how often the request names its host, ``credentials`` how many it has."""

    lines: bytes
    known: KnownHeaders
    size: int
    number: int
    hosts: int
    credentials: int


def read_head(pairs: Pairs) -> Head:
    """Read a client's headers, whose names are in any case; lines end in CRLF.

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
    hosts, credentials = int(HOST in known), int(AUTHORIZATION in known)
    if again:
        hosts += sum(name == b"host" for name, _ in again)
        credentials += sum(name == b"authorization" for name, _ in again)
        _take_in(known, again)
    return Head(lines, cast(KnownHeaders, known), size, len(pairs), hosts, credentials)


def _take_in(known: dict[bytes, bytes], again: Pairs) -> None:
    """Add the lines whose name was there before."""
    for name in {name for name, _ in again}:
        if name in _LISTS:
            known[name] = b",".join([known[name], *(value for other, value in again if other == name)])
        elif name == b"traceparent":
            known[name] = b""  # two of them are none (W3C Trace Context, section 3.2)


def _lines_but(pairs: Pairs, named: frozenset[bytes]) -> bytes:
    """The lines, if some are not ASCII, or a ``Connection`` header keeps some of them back."""
    lines = []
    for given, value in pairs:
        start, _ = _kind(given)
        if start and given.lower() not in named:
            lines.append(b"%b%b\r\n" % (start, value.decode("latin-1").encode()))
    return b"".join(lines)


class Rendered(NamedTuple):
    """A response as far as its own content goes: `gateway.responses` adds what every response has."""

    status: int
    headers: Pairs
    body: bytes


def response(reply: Reply, method: str, request_id: bytes = b"", *, streamed: bool = False) -> Rendered:
    """The client's response to a reply. ``streamed``: the body follows, as long as the service says, if it does.

    ``request_id`` is for the problem document of a foreign service's error. Raises `BadReply` if the reply has no
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
        if streamed:  # its length is not counted here
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
        return Rendered(status, out, b"")
    if streamed:
        if length is not None:
            out.append((b"content-length", length))
        return Rendered(status, out, b"")
    if method == "HEAD":
        # A service that answered the HEAD itself knows the length that a GET would have; otherwise it is the body's.
        known = length if length is not None and not body else b"%d" % len(body)
        out.append((b"content-length", known))
        return Rendered(status, out, b"")
    out.append((b"content-length", b"%d" % len(body)))
    return Rendered(status, out, body)


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
            return known[0], b"%bcontent-length: %d\r\n" % (known[1], len(body)), body
        status, out, body = response(reply, method, request_id)
        length = (b"content-length", b"%d" % len(body))
        # Not if the body is made here, from the headers.
        if out and out[-1] == length and len(block) <= self.LONGEST and body and body is reply.payload:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[block] = status, lines_of(out[:-1])
        return status, lines_of(out), body
