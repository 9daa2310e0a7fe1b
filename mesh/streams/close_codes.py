"""The codes and reasons with which WebSockets close, as JSON on the bus (RFC 6455 section 7.4).

The payload of a close frame: ``{"code":1001,"reason":"the gateway is stopping"}``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh import codec

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
NO_STATUS: Final = 1005
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
MAX_REASON: Final = 123
"""Bytes of the longest reason: a close frame holds 125, and the code takes two."""


class Close(msgspec.Struct, frozen=True):
    """The payload of a close frame."""

    code: int = NO_STATUS
    reason: str = ""


def is_sendable(code: int) -> bool:
    """True if an endpoint may send that code: 1000 to 1003, 1007 to 1014, 3000 to 4999."""
    return code in range(1000, 1004) or code in range(1007, 1015) or 3000 <= code <= 4999


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame; a reason that is too long is cut off."""
    return codec.encode(Close(code, reason.encode()[:MAX_REASON].decode(errors="ignore")))


def read_close(payload: bytes) -> Close:
    """The code and reason in a close frame's payload; 1005 (no status) if it cannot be decoded."""
    try:
        return msgspec.json.decode(payload, type=Close)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Close()
