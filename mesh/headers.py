"""NATS header blocks as bytes, and which HTTP headers may cross the bus.

nats-py loses repeated headers and turns latin-1 bytes into U+FFFD; an HTTP proxy may do neither. So the block
is built and read here, on bytes. An HTTP value is latin-1 text sent as UTF-8, which is reversible: ASCII, nearly
everything, is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

Pairs = list[tuple[bytes, bytes]]
"""Header names and values as they are in an HTTP message: names lower-case, values latin-1."""

START = b"NATS/1.0\r\n"
END = b"\r\n"
NO_RESPONDERS = b"NATS/1.0 503"

_OURS = b"NATS/1.0\r\nMesh-Status: "

REQUEST = b"mesh-request"
PARAMS = b"mesh-params"
DEADLINE = b"mesh-deadline"
SENT = b"mesh-sent"
ID = b"mesh-id"
IDENTITY = b"mesh-identity"
FORWARDED = b"mesh-forwarded"
STATUS = b"mesh-status"
STREAM = b"mesh-stream"
BODY = b"mesh-body"
CREDIT = b"mesh-credit"
TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 section 7.6.1: meant for one connection, so they end at the gateway."""

_CLIENT_FAMILIES = (
    b"x-forward",
    b"x-envoy-",
    b"x-ssl-",
    b"ssl-client-",
    b"cloudfront-viewer-",
    b"cloudfront-forwarded-",
)
_CLIENT_NAMES = frozenset(
    {
        # Whose request it is.
        *(b"forwarded", b"x-real-ip", b"x-client-ip", b"client-ip", b"x-remote-ip", b"x-remote-addr", b"remote-addr"),
        *(b"x-originating-ip", b"x-cluster-client-ip", b"x-original-forwarded-for", b"x-proxyuser-ip"),
        *(b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"cf-pseudo-ipv4", b"fastly-client-ip"),
        *(b"fly-client-ip", b"do-connecting-ip", b"incap-client-ip", b"x-sucuri-clientip", b"x-azure-clientip"),
        *(b"x-azure-socketip", b"x-appengine-user-ip", b"x-nf-client-connection-ip", b"x-vercel-forwarded-for"),
        *(b"proxy-client-ip", b"wl-proxy-client-ip", b"akamai-client-ip", b"x-source-ip", b"x-orig-ip"),
        *(b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-arr-clientcert"),
        b"proxy",  # applications of CGI's kind take it for the environment's HTTP_PROXY
        # What it asked for, and how.
        *(
            b"x-original-url",
            b"x-rewrite-url",
            b"x-original-uri",
            b"x-original-host",
            b"x-host",
            b"x-http-host-override",
        ),
        *(b"x-scheme", b"x-url-scheme", b"x-original-proto", b"x-arr-ssl", b"front-end-https"),
    }
)

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class BadHeader(ValueError):
    """A header that cannot be sent: its name is no token or its value holds a line break or NUL."""


def encode(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The header block for ``pairs``; an empty iterable gives an empty block that is still valid.

    Raises `BadHeader` where a name is no RFC 9110 token or a value would break the framing.
    """
    lines = [START]
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise BadHeader(f"header name {name!r} is not a token (RFC 9110 section 5.6.2)")
        if b"\r" in value or b"\n" in value or b"\0" in value:
            raise BadHeader(f"the value of header {name.decode()} holds a line break or NUL")
        if not value.isascii():
            value = value.decode("latin-1").encode()
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(END)
    return b"".join(lines)


def decode(block: bytes) -> Pairs:
    """The pairs of a header block, names lower-case, repeats kept in order. Lines that are no header are left out.

    Never raises: a block can come from anyone.
    """
    pairs: Pairs = []
    plain = block.isascii()
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name:
            value = value.strip(b" \t")
            if not plain and not value.isascii():
                value = to_latin1(value)
            pairs.append((name.lower(), value))
    return pairs


def to_latin1(value: bytes) -> bytes:
    """Undo the UTF-8 form of a latin-1 value; other clients' UTF-8 text that has no latin-1 form stays as it is."""
    try:
        return value.decode().encode("latin-1")
    except UnicodeError:
        return value


def status_of(pairs: Pairs) -> int | None:
    """The HTTP status of a reply: ``Mesh-Status``, else ADR-32's error code, else 200; None where it is invalid."""
    text = find(pairs, STATUS)
    if text is None:
        code = find(pairs, b"nats-service-error-code")
        if code is None:
            return 200
        return int(code) if code.isdigit() and len(code) == 3 and 400 <= int(code) <= 599 else 500
    if len(text) != 3 or not text.isdigit() or not 200 <= int(text) <= 599:
        return None
    return int(text)


def is_reply(block: bytes) -> bool:
    """Whether a header block has a valid ``Mesh-Status``; decoded only where it does not begin as ours do.

    The name may stand in a block and be no header of it.
    """
    if block.startswith(_OURS) and block[26:28] == b"\r\n":
        status = block[23:26]
        return status.isdigit() and b"200" <= status <= b"599"
    pairs = decode(block)
    return find(pairs, STATUS) is not None and status_of(pairs) is not None


Envelope = tuple[bytes, bytes, bytes | None, bytes | None, bytes | None, bytes | None]
"""What a request says of itself, where its block begins as our own callers write it: deadline, sent, parameters,
request line, credit, id; None for what is not there."""

# The order of the lines is that of their writers: `mesh.client.attempt_messages.request_block`,
# `mesh.client.destinations`, then `gateway.wire_request.request_head` or the caller's own context.
# No way back (``++``) and an empty alternative in place of ``?``: half of the time for the same matches.
_ENVELOPE = re.compile(
    rb"NATS/1\.0\r\nMesh-Deadline: (\d{1,9}+)\r\nMesh-Sent: (\d{1,16}+)\r\n(?:Mesh-Params: ([!-~]++)\r\n|)"
    rb"(?:Mesh-Request: ([!-~]++ [!-~]++)\r\n|)(?:Mesh-Credit: (\d++)\r\n|)(?:Mesh-Id: ([!-~]++)\r\n|)"
)


def open_envelope(block: bytes) -> Envelope | None:
    """The first headers of a request without reading all of them; None where it begins otherwise.

    They are the first of their names, so `find` in the decoded block says the same. What is None may follow later.
    """
    found = _ENVELOPE.match(block)
    return found.groups() if found is not None else None  # type: ignore[return-value]


def glance(block: bytes, name: bytes) -> bytes | None:
    """The first value of a lower-case ``name`` in a block that is not decoded; None where only decoding it can tell."""
    line = b"\r\n%b: " % name
    start = block.find(line)
    # Somebody may have written it in other letters before, and what is not ASCII is to be decoded.
    if start < 0 or name in block[:start].lower() or not block.isascii():
        return None
    start += len(line)
    end = block.find(b"\r\n", start)
    return block[start : end if end >= 0 else None].strip(b" \t")


def find(pairs: Pairs, name: bytes) -> bytes | None:
    """The first value of a lower-case ``name``."""
    for key, value in pairs:
        if key == name:
            return value
    return None


def has(block: bytes, name: bytes) -> bool:
    """Whether a block has a header of that lower-case name; decoded only where the name is somewhere in it.

    That alone says nothing: a service may send back a value that its client wrote.
    """
    return name in block.lower() and find(decode(block), name) is not None


def crosses(name: bytes) -> bool:
    """Whether a client's or service's header of that lower-case name may cross the bus.

    ``_`` counts as ``-`` because many frameworks read it so: otherwise ``mesh_identity`` would be a way round.
    """
    if name in HOP_BY_HOP:
        return False
    folded = name.replace(b"_", b"-") if b"_" in name else name
    return not (folded.startswith((b"mesh-", b"nats-")) or folded == b"status")


def tells_of_client(name: bytes) -> bool:
    """Whether a header of that lower-case name is a proxy's word about its client: who it is, or what it asked for.

    Frameworks believe such headers, so none of them crosses from a client; `FORWARDED` says what the gateway knows.
    """
    folded = name.replace(b"_", b"-") if b"_" in name else name
    return folded in _CLIENT_NAMES or folded.startswith(_CLIENT_FAMILIES)


def is_sound(name: bytes, value: bytes) -> bool:
    """Whether a header that somebody sent may be written into an HTTP message: a token, and no control character."""
    return _NAME.fullmatch(name) is not None and _CONTROL.search(value) is None


def named_by_connection(pairs: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Names that a ``Connection`` header declares hop-by-hop."""
    return frozenset(
        token.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for token in value.split(b",")
        if token.strip()
    )


def encode_params(params: Iterable[tuple[str, str]]) -> bytes:
    """Path parameters as ``name=value&...``, RFC 3986 percent-encoded, a space never as ``+``."""
    parts = []
    for name, value in params:
        if not (value.isalnum() and value.isascii()):
            value = quote_from_bytes(value.encode(), safe="")
        if not (name.isidentifier() and name.isascii()):
            name = quote_from_bytes(name.encode(), safe="")
        parts.append(f"{name}={value}")
    return "&".join(parts).encode()


def decode_params(value: bytes) -> dict[str, str]:
    """The reverse of `encode_params`; raises ValueError where a part has no ``=`` or is no UTF-8."""
    params: dict[str, str] = {}
    if not value:
        return params
    escaped = value.find(b"%") >= 0
    for part in value.decode().split("&"):
        name, equals, text = part.partition("=")
        if not equals:
            raise ValueError(f"path parameter {part!r} has no '='")
        if escaped:
            name, text = unquote_to_bytes(name).decode(), unquote_to_bytes(text).decode()
        params[name] = text
    return params


def is_request_id(value: bytes) -> bool:
    """Whether a client's request id may be kept: ``[A-Za-z0-9._-]{1,128}``."""
    return _REQUEST_ID.fullmatch(value) is not None
