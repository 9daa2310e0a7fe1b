"""Long work in short steps: a table of thousands of routes is made without holding up the event loop."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A generator that works until its next ``yield``, well below a millisecond. Its return value is the result."""

ROUTES: Final = 32
"""Routes that are handled in one step."""


def finish(steps: Steps[T]) -> T:
    """Do all steps now, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
