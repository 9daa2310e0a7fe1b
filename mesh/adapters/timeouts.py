"""The timeouts of an application's routes: one number, or one for each pattern of paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from mesh.errors import DeclarationError

Timeouts = float | Mapping[str, float] | None
"""Seconds for all routes, or by pattern of paths (``/reports/*``; the first match counts). None: callers decide."""


def timeout_of(timeouts: Timeouts, path: str) -> float | None:
    """The seconds of a route; None if no pattern matches."""
    if not isinstance(timeouts, Mapping):
        return timeouts
    return next((seconds for pattern, seconds in timeouts.items() if fnmatchcase(path, pattern)), None)


def parse_timeouts(given: Iterable[str]) -> Mapping[str, float]:
    """Timeouts as flags have them: ``30`` for all routes, ``/reports/*=300`` for some.

    Raises `DeclarationError` that names the flag.
    """
    timeouts: dict[str, float] = {}
    rest: dict[str, float] = {}
    for text in given:
        pattern, equals, number = text.rpartition("=")
        try:
            (timeouts if equals else rest)[pattern if equals else "*"] = float(number)
        except ValueError:
            raise DeclarationError(f"--timeout {text!r} is neither seconds nor PATTERN=seconds") from None
    return {**timeouts, **rest}
