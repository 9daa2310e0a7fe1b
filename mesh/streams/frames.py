"""The frames of a stream: one NATS message each, with a header that has the frame's number and its kind.

The seventh frame of a direction, which carries three bytes, as its header block and payload are on the wire::

    NATS/1.0\r\nMesh-Frame: 7 data\r\n\r\n
    abc

Frames are numbered from 1 in each direction. A credit has no number: ``Mesh-Frame: credit 524288``.
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
"""Follows `TEXT` or `BINARY` if the frame is a part of a message, and not the last one."""
CLOSE: Final = b"close"
"""A WebSocket is closed; the payload is ``{"code": 1000, "reason": ""}``."""
ABORT: Final = b"abort"
"""The sender gives up; the payload is a problem document. All that it sent before is void."""
CREDIT: Final = b"credit"
"""How many bytes the receiver of the credit may have sent since the beginning."""
GONE: Final = b"gone"
"""Not a frame on the wire: NATS's no-responders, so the other end does not listen."""

KINDS: Final = frozenset({DATA, END, TEXT, BINARY, TEXT + MORE, BINARY + MORE, CLOSE, ABORT})
LAST: Final = frozenset({END, CLOSE})
"""Frames that end their direction."""

_FRAME_START = b"NATS/1.0\r\nMesh-Frame: "
_HEADER = b"mesh-frame"
_MAX_DIGITS = 18


class Frame(NamedTuple):
    """A frame as it came. ``number``: its place in the order, from 1; for a credit, the credit."""

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
    """The frame in a message; None if it is not a frame. Never raises: a message can come from anyone."""
    if header_block.startswith(_FRAME_START) and header_block.find(b"\r\n", len(_FRAME_START)) == len(header_block) - 4:
        text: bytes | None = header_block[len(_FRAME_START) : -4]
    elif headers.says_no_responders(header_block, payload):
        return Frame(0, GONE, b"")
    else:
        text = headers.find(headers.decode(header_block), _HEADER)
    if text is None:
        return None
    first, _, second = text.partition(b" ")
    if first == CREDIT:
        return Frame(int(second), CREDIT, b"") if _is_number(second) else None
    if second not in KINDS or not _is_number(first):
        return None
    return Frame(int(first), second, payload)


def is_frame(header_block: bytes) -> bool:
    """True if a message with this block is a frame that expects a receiver: neither a credit nor an abort."""
    frame = read(header_block, b"-")
    return frame is not None and frame.kind not in (CREDIT, ABORT)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _MAX_DIGITS
