"""Ends a process that has drained, even if one of its threads does not end.

Python waits at exit for every thread that is not a daemon: those of `asyncio.to_thread`, of synchronous handlers, of
WSGI applications. None of them can be stopped from outside, and the drain has waited for their work already.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

EXIT_S: Final = 5.0
"""Seconds that everything after the drain may take: other threads, and functions of `atexit`."""

_log = logging.getLogger("mesh.service")


def end_within(seconds: float = EXIT_S, code: int = 0) -> Callable[[], None]:
    """End this process after some time, unless it has ended by itself.

    seconds: the time from now on
    code: the exit code

    Returns a function that revokes this, for a caller who goes on with the process.
    """
    withdrawn = threading.Event()
    threading.Thread(target=_end, args=(seconds, code, withdrawn), name="exit", daemon=True).start()
    return withdrawn.set


def _end(seconds: float, code: int, withdrawn: threading.Event) -> None:
    if withdrawn.wait(seconds):
        return
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"]
    _log.warning("ending %g s after the drain, though threads still run: %s", seconds, ", ".join(left) or "none")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
