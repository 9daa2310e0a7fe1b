"""Names the handler that holds up the event loop: an ``async`` function that blocks stops everything else.

The loop ticks. A thread looks whether a tick is overdue and, if so, where the loop's thread is. It looks twice: a
handler is named where it was found both times and no other ended in between, so neither a process that was stopped as
a whole nor a burst of quick requests is taken for one that blocks. What takes twice the limit is always found.

It costs what it wakes up: measured, 0.3 % of a processor at 100 ms and 0.05 % at one second.
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
from typing import Any, NamedTuple

from mesh.source_files import is_own, short

DEVELOPING_S, SERVING_S = 0.1, 1.0
"""Limits where nobody sets one: for somebody who looks on, and else."""
TICKS = 2
"""Ticks in the time that a handler may take."""
LOUD_S = 1.0
"""After so many seconds it is said at once, and not only when it is over."""
QUIET_S = 10.0
"""Seconds for which one place is not reported again."""
RECENT_S = 5.0
"""Seconds after its end for which a hold-up explains what happened to the connection."""

_log = logging.getLogger("mesh.service")


def code_of(handler: Callable[..., Any]) -> CodeType | None:
    """The code of a function that a user wrote; None where it is none, or the mesh's."""
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return code if code is not None and is_own(code.co_filename) else None


class Culprit(NamedTuple):
    """Who holds up the loop: ``name`` of the handler, and the line of the user's own code that runs."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{self.name} at {short(self.file)}:{self.line}{f' ({text})' if text else ''}"


class BlockingWatch:
    """Warns of everything that holds up the event loop of this thread for more than ``limit_s`` seconds.

    ``names`` has what handlers are called, by their code. ``progress()`` is a number that changes with every request
    that ends; it is called in another thread.
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
        # Written by the thread while the loop stands still, and by the loop when it goes on.
        self._culprit: Culprit | None = None
        self._last: tuple[Culprit, float, float] | None = None
        self._reported: dict[tuple[str, int], float] = {}

    def start(self) -> None:
        self._ticked = time.perf_counter()
        self._timer = self._loop.call_later(self._limit_s / TICKS, self._tick)
        threading.Thread(target=self._watch, name="mesh-blocking-watch", daemon=True).start()

    def aclose(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent(self) -> str:
        """What holds up the loop, or did until a moment ago, as the end of a sentence; empty for nothing."""
        now = time.perf_counter()
        if self._culprit is not None:  # its end is not noticed yet: sockets are read before timers run
            return f"{self._culprit} held up the event loop for {now - self._ticked:.1f} s"
        if self._last is not None and now - self._last[2] < RECENT_S:
            return f"{self._last[0]} held up the event loop for {self._last[1]:.1f} s"
        return ""

    # -- in the loop

    def _tick(self) -> None:
        now, culprit, tick_s = time.perf_counter(), self._culprit, self._limit_s / TICKS
        if culprit is not None:
            held_s = now - self._ticked - tick_s
            self._culprit, self._last = None, (culprit, held_s, now)
            if now - self._reported.get((culprit.file, culprit.line), -QUIET_S) >= QUIET_S:
                self._reported[culprit.file, culprit.line] = now
                _log.warning(
                    "%s held up the event loop for %.2f s; nothing else ran meanwhile: await what takes time, or make "
                    "it a plain function, which gets a thread",
                    culprit,
                    held_s,
                )
        self._ticked = now
        self._timer = self._loop.call_later(tick_s, self._tick)

    # -- in the thread

    def _watch(self) -> None:
        tick_s = self._limit_s / TICKS
        seen: tuple[Culprit, int, float] | None = None
        while not self._stopped:
            time.sleep(tick_s)
            ticked = self._ticked
            held_s = time.perf_counter() - ticked - tick_s
            if held_s < self._limit_s / 2:
                seen = None
                continue
            if self._culprit is not None:
                if seen is not None and held_s > LOUD_S:
                    _log.warning("%s has held up the event loop for %.1f s and still does", self._culprit, held_s)
                    seen = None  # once
                continue
            found, progress = self._look(), self._progress()
            if found is None:
                seen = None
            elif seen is None or (seen[0].name, seen[1], seen[2]) != (found.name, progress, ticked):
                seen = found, progress, ticked
            elif held_s >= self._limit_s:
                self._culprit = found

    def _look(self) -> Culprit | None:
        """Whose code the loop's thread runs: its innermost line that is neither the mesh's nor installed."""
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
        return Culprit(name or own.f_code.co_qualname, own.f_code.co_filename, own.f_lineno)
