"""The result of a check."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Severity = Literal["ok", "warn", "fail"]
ORDER: dict[Severity, int] = {"ok": 0, "warn": 1, "fail": 2}


class Finding(Struct, frozen=True):
    """One result: what was seen, and what to do about it; ``todo`` may be empty."""

    check: str
    severity: Severity
    seen: str
    todo: str = ""


def ok(check: str, seen: str, todo: str = "") -> Finding:
    return Finding(check, "ok", seen, todo)


def warn(check: str, seen: str, todo: str) -> Finding:
    return Finding(check, "warn", seen, todo)


def fail(check: str, seen: str, todo: str) -> Finding:
    return Finding(check, "fail", seen, todo)


def some(names: list[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
