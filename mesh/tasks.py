"""Long-lived tasks that cannot end without anybody noticing.

A task of asyncio keeps its exception to itself until somebody asks for it: a watcher, a heartbeat or a supervisor that
died so is noticed by what no longer happens, perhaps hours later. So every task that lives as long as its owner is
started here. Either it can begin anew (`keep`), or its process cannot do without it (`vital`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
HEALTHY_S = 60.0
"""A task that ran for so long before it failed is started again as soon as one that fails for the first time."""

_log = logging.getLogger("mesh.tasks")


def keep(work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Run ``work()`` as a task, and again whenever it fails, after a pause that grows from 0.1 s to 10 s.

    Every failure is logged with its traceback. Returning, or being cancelled, ends the task.
    """
    return asyncio.create_task(_keep(work, name), name=name)


async def _keep(work: Callable[[], Awaitable[None]], name: str) -> None:
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_S
    while True:
        began = loop.time()
        try:
            await work()
            return
        except Exception:
            if loop.time() - began >= HEALTHY_S:
                pause = FIRST_PAUSE_S
            _log.exception("the task %r failed; it starts again in %g s", name, pause)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 2 * pause)


def vital(work: Coroutine[Any, Any, None], name: str, failed: Callable[[], None]) -> asyncio.Task[None]:
    """Run ``work`` as a task without which its process is of no use.

    Should it fail, that is logged with its traceback and ``failed()`` is called: it has the process end, with an exit
    code that says so. Returning, or being cancelled, is no failure.
    """
    task = asyncio.create_task(work, name=name)

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.critical("the task %r failed, and this process cannot go on without it", name, exc_info=error)
        failed()

    task.add_done_callback(over)
    return task
