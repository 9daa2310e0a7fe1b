"""Long work in short steps: a table of thousands of routes is made without holding up whoever shares the thread."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that stops between its steps, each well below a millisecond; its result is the generator's return value."""

ROUTES: Final = 32
"""Routes dealt with in one step."""


def finish(steps: Steps[T]) -> T:
    """Do all of the work now."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
