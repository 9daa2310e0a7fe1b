"""Names the handler that blocks the event loop: nothing else runs while an ``async`` function blocks.

1. The event loop ticks.
2. A thread sees that a tick is overdue, and which code of the user's the loop runs.
3. It looks a second time. If the loop is in the same handler, and no request has ended in between, that handler blocks.

So neither a process that was stopped as a whole nor a burst of quick requests is taken for a handler that blocks. A
handler that blocks for twice the limit is always found.

The thread costs its wake-ups: measured, 0.3 % of a processor at 100 ms and 0.05 % at one second.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from mesh.source_files import is_own, short

DEVELOPMENT_LIMIT_S, PRODUCTION_LIMIT_S = 0.1, 1.0
"""The limits if no setting says another one."""
TICKS: Final = 2
"""Ticks in the time of the limit."""
REPORT_AT_ONCE_S: Final = 1.0
"""Seconds after which a handler is reported while it still blocks."""
REPORT_INTERVAL_S: Final = 10.0
"""Seconds for which the same line is not reported again."""
RECENT_S: Final = 5.0
"""Seconds for which a handler that has blocked may be the reason for a lost connection."""

_log = logging.getLogger("mesh.service")


def code_of(handler: Callable[..., Any]) -> CodeType | None:
    """The code of a function that a user wrote; None for a function of the mesh, and for other objects."""
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return code if code is not None and is_own(code.co_filename) else None


class BlockedLine(NamedTuple):
    """The handler that blocks, and the line of the user's own code that it is in."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{self.name} at {short(self.file)}:{self.line}{f' ({text})' if text else ''}"


class BlockingWatch:
    """Warns of handlers that block the event loop of this thread.

    limit_s: seconds that a handler may block
    names: the names of the handlers, by their code
    progress: returns a number that changes with every request that ends; called in another thread
    """

    def __init__(self, limit_s: float, names: Mapping[CodeType, str], progress: Callable[[], int]) -> None:
        self._limit_s = limit_s
        self._names = names
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = time.perf_counter()
        # The thread sets it while the loop is blocked, and the loop resets it when it goes on.
        self._blocked: BlockedLine | None = None
        self._last: tuple[BlockedLine, float, float] | None = None  # with the duration and the moment of its end
        self._reported: dict[tuple[str, int], float] = {}

    def start(self) -> None:
        """Begin to tick, and start the thread."""
        self._ticked = time.perf_counter()
        self._timer = self._loop.call_later(self._limit_s / TICKS, self._tick)
        threading.Thread(target=self._watch, name="mesh-blocking-watch", daemon=True).start()

    def aclose(self) -> None:
        """End the ticks and the thread."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent(self) -> str:
        """The handler that blocks the loop, or did recently, as the end of a sentence; empty without one."""
        now = time.perf_counter()
        if self._blocked is not None:  # the loop may go on already: sockets are read before timers run
            return f"{self._blocked} held up the event loop for {now - self._ticked:.1f} s"
        if self._last is not None and now - self._last[2] < RECENT_S:
            return f"{self._last[0]} held up the event loop for {self._last[1]:.1f} s"
        return ""

    # -- in the loop

    def _tick(self) -> None:
        now, blocked, tick_s = time.perf_counter(), self._blocked, self._limit_s / TICKS
        if blocked is not None:
            held_s = now - self._ticked - tick_s
            self._blocked, self._last = None, (blocked, held_s, now)
            if now - self._reported.get((blocked.file, blocked.line), -REPORT_INTERVAL_S) >= REPORT_INTERVAL_S:
                self._reported[blocked.file, blocked.line] = now
                _log.warning(
                    "%s held up the event loop for %.2f s; nothing else ran meanwhile: await what takes time, or make "
                    "it a plain function, which gets a thread",
                    blocked,
                    held_s,
                )
        self._ticked = now
        self._timer = self._loop.call_later(tick_s, self._tick)

    # -- in the thread

    def _watch(self) -> None:
        tick_s = self._limit_s / TICKS
        seen: tuple[BlockedLine, int, float] | None = None
        while not self._stopped:
            time.sleep(tick_s)
            ticked = self._ticked
            held_s = time.perf_counter() - ticked - tick_s
            if held_s < self._limit_s / 2:
                seen = None
                continue
            if self._blocked is not None:
                if seen is not None and held_s > REPORT_AT_ONCE_S:
                    _log.warning("%s has held up the event loop for %.1f s and still does", self._blocked, held_s)
                    seen = None  # once
                continue
            found, progress = self._find(), self._progress()
            if found is None:
                seen = None
            elif seen is None or (seen[0].name, seen[1], seen[2]) != (found.name, progress, ticked):
                seen = found, progress, ticked
            elif held_s >= self._limit_s:
                self._blocked = found

    def _find(self) -> BlockedLine | None:
        """The innermost line of the user's own code that the loop's thread runs; None if it runs no such code."""
        frame: FrameType | None = sys._current_frames().get(self._thread_id)
        own: FrameType | None = None
        name = ""
        while frame is not None:
            if own is None and is_own(frame.f_code.co_filename):
                own = frame
            name = self._names.get(frame.f_code, name)
            frame = frame.f_back
        if own is None:
            return None
        return BlockedLine(name or own.f_code.co_qualname, own.f_code.co_filename, own.f_lineno)
