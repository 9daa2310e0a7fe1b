"""Request ids and W3C trace context."""

from __future__ import annotations

import os
import re

from mesh import headers

# version-traceid-parentid-flags; all-zero ids are invalid (W3C Trace Context, section 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")


class Ids:
    """Unguessable hex ids; the system's random source is asked once for many."""

    __slots__ = ("_pool", "_position")

    def __init__(self) -> None:
        self._pool = b""
        self._position = 0

    def take(self, length: int) -> bytes:
        """``length`` hex characters."""
        start = self._position
        end = start + length
        if end > len(self._pool):
            self._pool = os.urandom(4096).hex().encode()
            start, end = 0, length
        self._position = end
        return self._pool[start:end]

    def request_id(self, given: bytes | None) -> bytes:
        """A client's request id where it is well formed, else a new one."""
        return given if given is not None and headers.is_request_id(given) else self.take(24)

    def traceparent(self, given: bytes | None) -> bytes:
        """The header for the next hop: the client's trace with the gateway as parent, or a new trace."""
        found = _TRACEPARENT.fullmatch(given) if given is not None else None
        if found is None:
            both = self.take(48)
            return b"00-%b-%b-01" % (both[:32], both[32:])
        return b"00-%b-%b-%b" % (found[1], self.take(16), found[2])
