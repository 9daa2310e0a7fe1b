"""The frames of a stream: one NATS message each, with one header that says which frame it is and of what kind.

``Mesh-Frame: 7 data`` is the seventh frame. A credit has no place in the order: ``Mesh-Frame: credit 524288``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh import headers

DATA: Final = b"data"
"""Bytes of a body."""
END: Final = b"end"
"""The body is complete."""
TEXT: Final = b"text"
BINARY: Final = b"binary"
"""A WebSocket message, or its last part."""
MORE: Final = b"+"
"""Behind `TEXT` or `BINARY`: a part of a message, more follow."""
CLOSE: Final = b"close"
"""A WebSocket's close: ``{"code": 1000, "reason": ""}``."""
ABORT: Final = b"abort"
"""The sender gives up; the payload is a problem document. Everything that was sent is void."""
CREDIT: Final = b"credit"
"""How much the receiver of the credit may have sent since the beginning."""
GONE: Final = b"gone"
"""Not a frame: NATS says that nobody listens at the other end."""

KINDS: Final = frozenset({DATA, END, TEXT, BINARY, TEXT + MORE, BINARY + MORE, CLOSE, ABORT})
LAST: Final = frozenset({END, CLOSE})
"""Nothing follows these."""

_START = b"NATS/1.0\r\nMesh-Frame: "
_FRAME = b"mesh-frame"
_MOST_DIGITS = 18


class Frame(NamedTuple):
    """A frame as it came. ``number`` is its place in the order, from 1; of a credit, the credit."""

    number: int
    kind: bytes
    payload: bytes


def block(number: int, kind: bytes) -> bytes:
    """The header block of a frame."""
    return b"NATS/1.0\r\nMesh-Frame: %d %b\r\n\r\n" % (number, kind)


def credit_block(credit: int) -> bytes:
    """The header block of a credit."""
    return b"NATS/1.0\r\nMesh-Frame: credit %d\r\n\r\n" % credit


def read(header_block: bytes, payload: bytes) -> Frame | None:
    """The frame in a message; None where it is none. Never raises: a message can come from anyone."""
    if header_block.startswith(_START) and header_block.find(b"\r\n", len(_START)) == len(header_block) - 4:
        text: bytes | None = header_block[len(_START) : -4]
    elif not payload and header_block.startswith(headers.NO_RESPONDERS):
        return Frame(0, GONE, b"")
    else:
        text = headers.find(headers.decode(header_block), _FRAME)
    if text is None:
        return None
    first, _, second = text.partition(b" ")
    if first == CREDIT:
        return Frame(int(second), CREDIT, b"") if _is_number(second) else None
    if second not in KINDS or not _is_number(first):
        return None
    return Frame(int(first), second, payload)


def is_frame(header_block: bytes) -> bool:
    """Whether a message with that block is a frame that somebody should take: neither a credit nor an abort."""
    frame = read(header_block, b"-")
    return frame is not None and frame.kind not in (CREDIT, ABORT)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _MOST_DIGITS
