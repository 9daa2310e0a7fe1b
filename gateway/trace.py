"""Request ids and W3C trace context."""

from __future__ import annotations

import os
import re

from mesh import headers

# version-traceid-parentid-flags; all-zero ids are invalid (W3C Trace Context, section 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")


class Ids:
    """Unguessable hex ids; the system's random source is asked once for many."""

    __slots__ = ("_requests", "_traces")

    def __init__(self) -> None:
        self._requests: list[bytes] = []
        self._traces: list[bytes] = []

    def request_id(self, given: bytes | None) -> bytes:
        """A client's request id where it is well formed, else a new one of 24 characters."""
        if given is not None and headers.is_request_id(given):
            return given
        if not self._requests:
            self._requests = _hex(24)
        return self._requests.pop()

    def traceparent(self, given: bytes | None) -> bytes:
        """The header for the next hop: the client's trace with the gateway as parent, or a new trace."""
        if given is not None and (found := _TRACEPARENT.fullmatch(given)):
            return b"00-%b-%b-%b" % (found[1], self.request_id(None)[:16], found[2])
        if not self._traces:
            self._traces = [b"00-%b-%b-01" % (both[:32], both[32:]) for both in _hex(48)]
        return self._traces.pop()


def _hex(length: int) -> list[bytes]:
    """128 ids of ``length`` characters."""
    text = os.urandom(64 * length).hex().encode()
    return [text[i : i + length] for i in range(0, len(text), length)]
