"""One path segment: decoded once, and refused if it could harm a handler.

Both sides of a match use this: the target of a request, and the literals of a template.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
# Unicode's Cc whole: C1 controls (%C2%85) move a terminal's cursor just as C0 ones do.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SEPARATORS = re.compile(r"[/\\]")


class BadSegment(ValueError):
    """A segment that must not be matched. The text continues a sentence that begins with the segment's number."""


def decode_segment(raw: bytes) -> str:
    """The text of a raw segment. Escapes are decoded once: ``b"%252F"`` gives ``"%2F"``.

    Raises `BadSegment` for a bad escape, bytes that are not UTF-8, a control character or a dot segment.
    """
    bad = _BAD_ESCAPE.search(raw)
    if bad is not None:
        raise BadSegment(f"has the bad escape {_show(bad[0])}")
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadSegment("has bytes that are not UTF-8") from None
    control = _CONTROL.search(text)
    if control is not None:
        raise BadSegment(f"has the control character U+{ord(control[0]):04X}")
    # An encoded slash is data, but the value of a tail is joined with "/". So ".." after one would reach a handler
    # that opens files as the path traversal that this rule prevents.
    for piece in _SEPARATORS.split(text):
        if piece in (".", ".."):
            raise BadSegment(f"has the dot segment {_show(raw)}")
    return text


def _show(raw: bytes) -> str:
    """Raw bytes for a sentence: printable ASCII, short."""
    text = raw[:32].decode("ascii", "backslashreplace")
    return repr(text + ("..." if len(raw) > 32 else ""))
