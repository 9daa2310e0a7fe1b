"""CORS at the gateway (Fetch standard): which origins may read responses, and the answer to preflights.

Off unless origins are configured. ``*`` allows every origin, without credentials.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.headers import find

Pairs = list[tuple[bytes, bytes]]
_MAX_AGE = b"600"


class Cors:
    def __init__(self, origins: Sequence[str] = ()) -> None:
        self.origins = frozenset(origin.encode() for origin in origins)
        self._any = b"*" in self.origins

    def _allowed(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any or origin in self.origins)

    def response_headers(self, origin: bytes | None) -> Pairs:
        """Headers to add to every response; ``Vary`` also without an origin, for caches in between."""
        if self._any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"x-request-id")]
        out: Pairs = [(b"vary", b"origin")]
        if origin is not None and self._allowed(origin):
            out += [
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", b"x-request-id"),
            ]
        return out

    def preflight_headers(self, pairs: Pairs, allow: Sequence[str]) -> Pairs:
        """What an allowed preflight learns beyond `response_headers`; nothing for other OPTIONS requests."""
        origin, method = find(pairs, b"origin"), find(pairs, b"access-control-request-method")
        if method is None or not self._allowed(origin):
            return []
        out: Pairs = [
            (b"access-control-allow-methods", ", ".join(allow).encode()),
            (b"access-control-max-age", _MAX_AGE),
        ]
        asked = find(pairs, b"access-control-request-headers")
        if asked:
            out.append((b"access-control-allow-headers", asked))
        return out
