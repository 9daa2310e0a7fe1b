"""Coalesces news: the first is handled at once, what follows within a moment is handled together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Final

PAUSE_S: Final = 0.1
"""Seconds between two calls: ten times a second is as often as a person or a table needs it."""


class Coalescer:
    """Calls ``run`` with the names that were added: at once, and then at most once in ``pause_s`` seconds."""

    __slots__ = ("_pause_s", "_run", "_timer", "_waiting")

    def __init__(self, run: Callable[[Collection[str]], None], pause_s: float = PAUSE_S) -> None:
        self._run = run
        self._pause_s = pause_s
        self._waiting: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """True if names were added for which ``run`` was not called yet."""
        return bool(self._waiting)

    def add(self, names: Iterable[str]) -> None:
        """There is news about these names."""
        self._waiting.update(names)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._pause_over)
            self.flush()

    def flush(self) -> None:
        """Call ``run`` now if anything is pending."""
        names, self._waiting = self._waiting, set()
        if names:
            self._run(names)

    def _pause_over(self) -> None:
        self._timer = None
        if self._waiting:
            self.add(())
