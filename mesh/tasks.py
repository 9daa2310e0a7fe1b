"""Long-lived tasks that cannot end unnoticed.

asyncio keeps the exception of a task until code asks for it. A watcher or a heartbeat that died of one is noticed by
what no longer happens, perhaps hours later. So every task that lives as long as its owner is started here. Either it
is started again when it fails (`keep`), or its process ends (`vital`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

FIRST_PAUSE_S: Final = 0.1
"""Seconds between the first failure of a task and its restart; twice as long after each further failure."""
LONGEST_PAUSE_S: Final = 10.0
"""Seconds of the longest pause, so that a task works again soon after the cause of its failures is gone."""
HEALTHY_S: Final = 60.0
"""A task that ran for so many seconds before it failed is restarted after `FIRST_PAUSE_S` again."""

_log = logging.getLogger("mesh.tasks")


def keep(work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Run ``work()`` as a task, and again each time it fails, after a pause that grows from 0.1 s to 10 s.

    Every failure is logged with its traceback. The task ends when ``work()`` returns, or when it is cancelled.
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
    """Run ``work`` as a task that its process cannot do without.

    failed: called after a failure was logged with its traceback; it must end the process with an error code

    It is not a failure if ``work`` returns or is cancelled.
    """
    task = asyncio.create_task(work, name=name)

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.critical("the task %r failed, and this process cannot go on without it", name, exc_info=error)
        failed()

    task.add_done_callback(over)
    return task
