"""News in batches: the first at once, what follows it within a moment together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

PAUSE_S = 0.1


class Coalesced:
    """Calls ``run`` with names that were added: at once, and then at most once in ``pause_s`` seconds."""

    __slots__ = ("_due", "_pause_s", "_run", "_timer")

    def __init__(self, run: Callable[[Collection[str]], None], pause_s: float = PAUSE_S) -> None:
        self._run = run
        self._pause_s = pause_s
        self._due: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """Whether something is due."""
        return bool(self._due)

    def add(self, names: Iterable[str]) -> None:
        """There is news of these."""
        self._due.update(names)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._rested)
            self.flush()

    def flush(self) -> None:
        """Do what is due now."""
        due, self._due = self._due, set()
        if due:
            self._run(due)

    def _rested(self) -> None:
        self._timer = None
        if self._due:
            self.add(())
