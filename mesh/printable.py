"""Makes texts of others safe for terminals and logs: they cannot steer a terminal, or pass for another line."""

from __future__ import annotations

import json
from typing import Any

from mesh import codec


def clean(text: str) -> str:
    """``text`` with escapes in place of control characters, bidirectional overrides and the like."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean_lines(text: str, indent: str = "    ") -> str:
    """``text`` of several lines, cleaned. All but the first are indented, so that none looks like a log record."""
    if text.isprintable():
        return text
    return f"\n{indent}".join(clean(line) for line in text.split("\n"))


def json_text(value: Any) -> str:
    """``value`` as one line of JSON. Characters that `clean` escapes are escaped in JSON's own way."""
    return escaped_json(codec.encode(value).decode())


def escaped_json(text: str) -> str:
    """Equal JSON in which the characters that `clean` escapes are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
