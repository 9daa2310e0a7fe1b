"""Text of others on a terminal and in logs: nothing in it steers the terminal, and no line of it passes for another."""

from __future__ import annotations

import json
from typing import Any

from mesh import json_codec


def clean(text: str) -> str:
    """``text`` without control characters, bidirectional overrides and the like: they are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean_lines(text: str, indent: str = "    ") -> str:
    """``text`` of several lines, cleaned; all but the first are indented, so that none looks like a record."""
    if text.isprintable():
        return text
    return f"\n{indent}".join(clean(line) for line in text.split("\n"))


def json_text(value: Any) -> str:
    """``value`` as one line of JSON; what `clean` would escape is escaped here in JSON's own way."""
    return escaped_json(json_codec.encode(value).decode())


def escaped_json(text: str) -> str:
    """JSON that means the same, in which everything that `clean` would escape is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
