"""CORS at the gateway (Fetch standard): which origins may read responses, and the answer to preflights.

Off unless origins are configured. ``*`` allows every origin, without credentials. A service that says something of CORS
itself is left to it: what it answers never gets a second word of the gateway's.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.header_translation import Pairs, lines_of
from gateway.known_headers import ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, KnownHeaders

_MAX_AGE = b"600"
_OWN = b"access-control-"
# Headers that a page may read besides the few that Fetch always allows. Not `*`: with credentials that is a name.
_EXPOSED = b", ".join(
    [
        *(b"accept-ranges", b"allow", b"content-disposition", b"content-range", b"date", b"deprecation", b"etag"),
        *(b"link", b"location", b"ratelimit", b"ratelimit-policy", b"retry-after", b"server-timing", b"sunset"),
        *(b"traceparent", b"www-authenticate", b"x-request-id"),
    ]
)


class Cors:
    def __init__(self, origins: Sequence[str] = ()) -> None:
        self.origins = frozenset(origin.encode() for origin in origins)
        self._any = b"*" in self.origins

    def _allowed(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any or origin in self.origins)

    def add_to(self, out: Pairs, origin: bytes | None) -> None:
        """Add what a response to that origin needs; ``Vary`` also without an origin, for caches in between."""
        if _speaks(out):
            return
        if self._any:
            out.append((b"access-control-allow-origin", b"*"))
            out.append((b"access-control-expose-headers", _EXPOSED))
            return
        _vary_by_origin(out)
        if origin is not None and self._allowed(origin):
            out += [
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", _EXPOSED),
            ]

    def add_to_lines(self, lines: bytes, origin: bytes | None) -> bytes:
        """`add_to` for header lines."""
        out: Pairs = [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]
        self.add_to(out, origin)
        return lines_of(out)

    def preflight(self, known: KnownHeaders, allow: Sequence[str]) -> Pairs | None:
        """The headers for an allowed preflight; None for any other OPTIONS request."""
        origin, method = known.get(ORIGIN), known.get(ACCESS_CONTROL_REQUEST_METHOD)
        if method is None or not self._allowed(origin):
            return None
        out: Pairs = []
        self.add_to(out, origin)
        out.append((b"access-control-allow-methods", ", ".join(allow).encode()))
        out.append((b"access-control-max-age", _MAX_AGE))
        asked = known.get(ACCESS_CONTROL_REQUEST_HEADERS)
        if asked:
            out.append((b"access-control-allow-headers", asked))
        return out

    def complete_preflight(self, known: KnownHeaders, status: int, out: Pairs) -> Pairs | None:
        """The gateway's answer to an allowed preflight that a service has answered without a word of CORS, as one does
        that leaves CORS to the gateway; None if its own response stands."""
        if status >= 500 or _speaks(out):
            return None
        return self.preflight(known, [known.get(ACCESS_CONTROL_REQUEST_METHOD, b"").decode("latin-1")])

    def may_connect(self, origin: bytes | None, host: bytes) -> bool:
        """True if a page of that origin may open a WebSocket to ``host``: browsers send cookies there, and ignore CORS.

        If no origins are configured, that is left to the service, which sees the ``Origin``.
        """
        if not self.origins or origin is None or self._allowed(origin):
            return True
        try:
            parts = urlsplit(origin.decode("latin-1"))
            default = {"http": 80, "https": 443}.get(parts.scheme)
            own = urlsplit(f"{parts.scheme}://{host.decode('latin-1')}")
            return bool(own.hostname) and (own.hostname, own.port or default) == (parts.hostname, parts.port or default)
        except ValueError:
            return False


def _speaks(out: Pairs) -> bool:
    return any(name.startswith(_OWN) for name, _ in out)


def _vary_by_origin(out: Pairs) -> None:
    positions = [position for position, (name, _) in enumerate(out) if name == b"vary"]
    listed = {item.strip().lower() for position in positions for item in out[position][1].split(b",")}
    if listed & {b"origin", b"*"}:
        return
    if positions:
        out[positions[0]] = (b"vary", out[positions[0]][1] + b", origin")
    else:
        out.append((b"vary", b"origin"))
