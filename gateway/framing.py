"""Rules of HTTP/1.1 that llhttp does not check: one valid host, transfer codings that are known here, a valid target.

Pure decisions over headers and target; a refusal is a `MeshError` to raise.
"""

from __future__ import annotations

import binascii
import re

from gateway.header_translation import Head, Pairs
from gateway.known_headers import HOST, TRANSFER_ENCODING
from gateway.problems import refuse
from mesh.errors import MeshError

# RFC 3986 section 3.2.2 and 3.2.3: a name or IPv4 address (may be empty), or an IP literal in brackets; then a port.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(?::([0-9]*))?"
    rb"|\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\](?::([0-9]*))?"
)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
# llhttp obeys these wherever they stand. They say how a message is read, so none is a trailer (RFC 9110 section 6.5.1).
_NO_TRAILERS = frozenset({b"connection", b"proxy-connection", b"upgrade", b"transfer-encoding", b"content-length"})
_MOST_DIGITS = 20
"""Digits of the largest length that llhttp takes, 2**64 - 1; zeros may stand before it."""


def bad_request(detail: str) -> MeshError:
    """A refusal with 400."""
    return refuse(400, "bad_request", detail)


def check_head(head: Head, pairs: Pairs, version: str) -> None:
    """Raise the refusal if headers break the rules for hosts and codings.

    400: not exactly one ``Host`` (none is allowed in HTTP/1.0), or an invalid one (RFC 9112 section 3.2); a body whose
    end is unknown, as it is not ``chunked`` at last (section 6.3). 501: a transfer coding before that (section 6.1).
    """
    if head.hosts != 1 and (head.hosts > 1 or version != "1.0"):
        raise bad_request(f"a request names one host, and this one names {head.hosts}")
    if not is_host(head.known.get(HOST, b"")):
        raise bad_request("the host is not valid")
    if TRANSFER_ENCODING in head.known:
        values = b",".join(value for name, value in pairs if name.lower() == b"transfer-encoding")
        codings = [coding.strip().lower() for coding in values.split(b",")]
        if codings[-1] != b"chunked":
            raise bad_request("a body whose last transfer coding is not chunked has no end")
        if len(codings) > 1:
            raise refuse(501, "not_implemented", "the only transfer coding that is understood is chunked")


def check_trailer(name: bytes) -> None:
    """Raise the refusal (400) of a trailer that would change how its connection goes on. Others do no harm."""
    if name.lower() in _NO_TRAILERS:
        raise bad_request(f"{name[:40].decode('latin-1')} is no trailer")


def check_handshake(pairs: Pairs) -> None:
    """Raise the refusal if this is no valid handshake of a WebSocket (RFC 6455 section 4.2.1); names are lower-case.

    400: a body, or not one key of 16 bytes. 426: another version than 13 (section 4.4).
    """
    keys = [value for name, value in pairs if name == b"sec-websocket-key"]
    versions = [value for name, value in pairs if name == b"sec-websocket-version"]
    if any(name == b"transfer-encoding" or (name == b"content-length" and length_of(value)) for name, value in pairs):
        raise bad_request("the handshake of a WebSocket has no body")
    if versions != [b"13"]:
        asked_for = {"sec-websocket-version": "13", "upgrade": "websocket"}
        raise refuse(426, "upgrade_required", "WebSockets are spoken here in version 13", asked_for)
    try:
        is_key = len(keys) == 1 and len(binascii.a2b_base64(keys[0], strict_mode=True)) == 16
    except binascii.Error:
        is_key = False
    if not is_key:
        raise bad_request("the handshake of a WebSocket has one Sec-WebSocket-Key, of 16 bytes in Base64")


def is_host(value: bytes) -> bool:
    """True if ``value`` may stand in a ``Host`` header: host and perhaps a port, no user, no path."""
    found = _HOST.fullmatch(value)
    if found is None:
        return False
    port = found[1] or found[2] or b""
    return len(port) <= 5 and int(port or 0) <= 65_535


def read_target(url: bytes, host: bytes | None) -> tuple[bytes, bytes, bytes | None]:
    """Path, query, and the host that the target itself names, of a request's target in any form but the plainest.

    ``host`` is that of the header, None if there is none. Raises a refusal with 400 for a fragment, for a form that is
    not for a server (RFC 9112 section 3.2), and for a target that names another host than the header does: a proxy in
    front might check one of them, and the service behind use the other.
    """
    if b"#" in url:
        raise refuse(400, "bad_target", "a target has no fragment")
    if url[:1] == b"/" or url == b"*":
        path, _, query = url.partition(b"?")
        return path, query, None
    found = _ABSOLUTE.fullmatch(url)
    if found is None or not found[1] or not is_host(found[1]):
        raise refuse(400, "bad_target", "the target is neither a path nor a URL of http")
    authority, path, query = found.groups(b"")
    if host is not None and host.lower() != authority.lower():
        raise bad_request("the target names another host than the header Host does")
    return path or b"/", query, authority


def length_of(declared: bytes) -> int | None:
    """The value of a ``Content-Length``, None if it is no number. Never raises, however many digits it has."""
    if not declared.isdigit():
        return None
    digits = declared.lstrip(b"0")
    return int(digits or 0) if len(digits) <= _MOST_DIGITS else None
