"""Request ids and W3C trace context.

The gateway exports no spans of its own. So a client's context goes on as it came: with the gateway as parent, the
service's span would hang from one that is never exported.
"""

from __future__ import annotations

import os
import re

from gateway.known_headers import TRACEPARENT, TRACESTATE, KnownHeaders
from mesh import headers

# version-traceid-parentid-flags; all-zero ids are invalid (W3C Trace Context, section 3.2.2).
_IDS = rb"-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-"
_TRACEPARENT = re.compile(rb"00" + _IDS + rb"[0-9a-f]{2}")
# Of a version that is not known yet: whatever follows must be set off (section 4.3).
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}" + _IDS + rb"([0-9a-f]{2})(?:-.*)?", re.DOTALL)
_SAMPLED = 1

MOST_MEMBERS = 32
"""Of a ``tracestate`` (section 3.3.1.1)."""
LONGEST_STATE = 4096
"""Bytes of a ``tracestate`` that goes on; 512 are asked for (section 3.3.1.5)."""
# key=value (section 3.3.1.3): a value neither ends in a blank nor has "," or "=" in it.
_MEMBER = re.compile(rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")


class Ids:
    """Unguessable hex ids; the system's random source is asked once for many."""

    __slots__ = ("_requests", "_traces")

    def __init__(self) -> None:
        self._requests: list[bytes] = []
        self._traces: list[bytes] = []

    def request_id(self, given: bytes | None) -> bytes:
        """A client's request id if it is well formed, else a new one of 24 characters."""
        if given is not None and headers.is_request_id(given):
            return given
        if not self._requests:
            self._requests = _hex(24)
        return self._requests.pop()

    def trace(self, known: KnownHeaders) -> bytes:
        """The trace for the next hop: the value of ``traceparent`` and, if it has one, the line of ``tracestate``.

        The client's own if that is valid, else a new trace without state. The first 55 bytes are the former.
        """
        given = known.get(TRACEPARENT)
        own = _own(given) if given is not None else b""
        if own:
            state = known.get(TRACESTATE)
            return own + _state_line(state) if state is not None else own
        if not self._traces:
            self._traces = [b"00-%b-%b-01" % (both[:32], both[32:]) for both in _hex(48)]
        return self._traces.pop()


def _own(given: bytes) -> bytes:
    """The client's ``traceparent`` for the next hop; empty if it is invalid."""
    given = given.strip(b" \t")
    if _TRACEPARENT.fullmatch(given):
        return given
    later = _LATER.fullmatch(given)
    # Written as the version that is known here, so with no flag that this version does not know.
    return b"00-%b-%02x" % (later[1], int(later[2], 16) & _SAMPLED) if later is not None else b""


def _state_line(state: bytes) -> bytes:
    """The line of ``tracestate``, after the end of the one before; empty if it is invalid or too long."""
    members = [member.strip(b" \t") for member in state.split(b",", 4 * MOST_MEMBERS)]
    members = [member for member in members if member]
    line = b",".join(members)
    if (
        not members
        or len(members) > MOST_MEMBERS
        or len(line) > LONGEST_STATE
        or not all(map(_MEMBER.fullmatch, members))
    ):
        return b""
    return b"\r\ntracestate: " + line


def _hex(length: int) -> list[bytes]:
    """128 ids of ``length`` characters."""
    text = os.urandom(64 * length).hex().encode()
    return [text[i : i + length] for i in range(0, len(text), length)]
