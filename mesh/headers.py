"""NATS header blocks as bytes, and which HTTP headers may cross the bus.

nats-py loses repeated headers and turns latin-1 bytes into U+FFFD; an HTTP proxy may do neither. So header blocks
are built and read here, on bytes. A value of HTTP is latin-1 text. It is sent as UTF-8, which is reversible and leaves
ASCII, nearly all values, as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mesh.numbers import parse_count

Pairs = list[tuple[bytes, bytes]]
"""Header names and values of an HTTP message: names lower-case, values latin-1."""

START = b"NATS/1.0\r\n"
END = b"\r\n"
NO_RESPONDERS = b"NATS/1.0 503"
"""How the block of NATS's own reply begins, if nothing subscribes to the subject of a request."""

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
"""Headers for one connection only, so they end at the gateway (RFC 9110 section 7.6.1)."""

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
        # Who sent the request.
        *(b"forwarded", b"x-real-ip", b"x-client-ip", b"client-ip", b"x-remote-ip", b"x-remote-addr", b"remote-addr"),
        *(b"x-originating-ip", b"x-cluster-client-ip", b"x-original-forwarded-for", b"x-proxyuser-ip"),
        *(b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"cf-pseudo-ipv4", b"fastly-client-ip"),
        *(b"fly-client-ip", b"do-connecting-ip", b"incap-client-ip", b"x-sucuri-clientip", b"x-azure-clientip"),
        *(b"x-azure-socketip", b"x-appengine-user-ip", b"x-nf-client-connection-ip", b"x-vercel-forwarded-for"),
        *(b"proxy-client-ip", b"wl-proxy-client-ip", b"akamai-client-ip", b"x-source-ip", b"x-orig-ip"),
        *(b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-arr-clientcert"),
        b"proxy",  # CGI applications take it for the variable HTTP_PROXY
        # What was requested, and how.
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
    """A header that cannot be sent: its name is not a token, or its value has a line break or NUL."""


def encode(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The header block for ``pairs``. Without any it is empty, and still valid.

    Raises `BadHeader` if a name is not a token (RFC 9110 section 5.6.2), or if a value would break the framing.
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
    """The headers of a block, names lower-case, in their order. Lines that are not headers are left out.

    Never raises: any client of NATS can send a block.
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
    """The latin-1 value that was sent as UTF-8. UTF-8 text of other clients that has no latin-1 form stays as it is."""
    try:
        return value.decode().encode("latin-1")
    except UnicodeError:
        return value


def status_of(pairs: Pairs) -> int | None:
    """The HTTP status of a reply; None if it is invalid.

    It is ``Mesh-Status``, else the error code of a NATS micro service (NATS ADR-32), else 200.
    """
    text = find(pairs, STATUS)
    if text is None:
        code = find(pairs, b"nats-service-error-code")
        if code is None:
            return 200
        error = parse_count(code, 3)
        return error if error is not None and 400 <= error <= 599 else 500
    # Without `parse_count`: every reply comes through here.
    if len(text) != 3 or not text.isdigit() or not 200 <= int(text) <= 599:
        return None
    return int(text)


def is_reply(block: bytes) -> bool:
    """True if a header block has a valid ``Mesh-Status``.

    A block that begins as the mesh writes it is not decoded. Elsewhere the name may be part of another header's value.
    """
    if block.startswith(_OURS) and block[26:28] == b"\r\n":
        status = block[23:26]
        return status.isdigit() and b"200" <= status <= b"599"
    pairs = decode(block)
    return find(pairs, STATUS) is not None and status_of(pairs) is not None


Envelope = tuple[bytes, bytes, bytes | None, bytes | None, bytes | None, bytes | None]
"""The first headers of a request: deadline, sent, parameters, request line, credit, id; None for those that are absent.

`_ENVELOPE` expects them in the order and spelling in which the callers of the mesh write them."""

# The order of the lines is that of their writers: `mesh.client.attempt_messages.request_block`,
# `mesh.client.destinations`, then `gateway.wire_request.request_head` or the caller's own context.
# Possessive quantifiers (``++``) and an empty alternative instead of ``?``: the same matches in half of the time.
_ENVELOPE = re.compile(
    rb"NATS/1\.0\r\nMesh-Deadline: (\d{1,9}+)\r\nMesh-Sent: (\d{1,16}+)\r\n(?:Mesh-Params: ([!-~]++)\r\n|)"
    rb"(?:Mesh-Request: ([!-~]++ [!-~]++)\r\n|)(?:Mesh-Credit: (\d++)\r\n|)(?:Mesh-Id: ([!-~]++)\r\n|)"
)


def open_envelope(block: bytes) -> Envelope | None:
    """The first headers of a request, without decoding the block; None if it begins in another way.

    They are the first of their names, so `find` in the decoded block gives the same. Those that are None may follow
    later in the block.
    """
    found = _ENVELOPE.match(block)
    return found.groups() if found is not None else None  # type: ignore[return-value]


def glance(block: bytes, name: bytes) -> bytes | None:
    """The first value of a lower-case ``name``, without decoding the block; None if that needs decoding."""
    line = b"\r\n%b: " % name
    start = block.find(line)
    # An earlier line may have the name in other letters, and a value that is not ASCII must be decoded.
    if start < 0 or name in block[:start].lower() or not block.isascii():
        return None
    start += len(line)
    end = block.find(b"\r\n", start)
    return block[start : end if end >= 0 else None].strip(b" \t")


def says_no_responders(block: bytes, payload: bytes) -> bool:
    """True for NATS's own reply to a request that nothing subscribes to."""
    return not payload and block.startswith(NO_RESPONDERS)


def find(pairs: Pairs, name: bytes) -> bytes | None:
    """The first value of a lower-case ``name``, or None."""
    for key, value in pairs:
        if key == name:
            return value
    return None


def has(block: bytes, name: bytes) -> bool:
    """True if a block has a header of that lower-case name.

    The block is decoded only if the name is somewhere in it, which may also be in a value.
    """
    return name in block.lower() and find(decode(block), name) is not None


def crosses(name: bytes) -> bool:
    """True if a header of that lower-case name may cross the bus, from a client or from a service.

    ``_`` counts as ``-``, because many frameworks read it so: otherwise ``mesh_identity`` would pass.
    """
    if name in HOP_BY_HOP:
        return False
    folded = name.replace(b"_", b"-") if b"_" in name else name
    return not (folded.startswith((b"mesh-", b"nats-")) or folded == b"status")


def tells_of_client(name: bytes) -> bool:
    """True if proxies use a header of that lower-case name to say who their client is, or what it requested.

    Frameworks believe such headers, so none of them crosses from a client. `FORWARDED` has what the gateway knows.
    """
    folded = name.replace(b"_", b"-") if b"_" in name else name
    return folded in _CLIENT_NAMES or folded.startswith(_CLIENT_FAMILIES)


def is_sound(name: bytes, value: bytes) -> bool:
    """True if a header may be written into an HTTP message: the name is a token, the value has no control character."""
    return _NAME.fullmatch(name) is not None and _CONTROL.search(value) is None


def named_by_connection(pairs: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The lower-case names that ``Connection`` headers declare as meant for one connection (RFC 9110 section 7.6.1)."""
    return frozenset(
        token.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for token in value.split(b",")
        if token.strip()
    )


def encode_params(params: Iterable[tuple[str, str]]) -> bytes:
    """Path parameters as ``name=value&...``, percent-encoded (RFC 3986), a space as ``%20``."""
    parts = []
    for name, value in params:
        if not (value.isalnum() and value.isascii()):
            value = quote_from_bytes(value.encode(), safe="")
        if not (name.isidentifier() and name.isascii()):
            name = quote_from_bytes(name.encode(), safe="")
        parts.append(f"{name}={value}")
    return "&".join(parts).encode()


def decode_params(value: bytes) -> dict[str, str]:
    """The reverse of `encode_params`. Raises ValueError if a part has no ``=`` or is not UTF-8."""
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
    """True if a client's request id may be kept: ``[A-Za-z0-9._-]{1,128}``."""
    return _REQUEST_ID.fullmatch(value) is not None
