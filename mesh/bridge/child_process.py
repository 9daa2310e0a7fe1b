"""The process behind a bridge; the bridge starts it again when it dies, after growing pauses."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Sequence

from mesh.embedded import Supervisor, ended

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STABLE_S = 10.0
"""Seconds after which a process that dies starts again after the first pause."""

_log = logging.getLogger("mesh.bridge")


class ChildProcess:
    """One process, which is started again when it dies.

    command: the command and its arguments
    grace_s: seconds that it may take to end
    """

    def __init__(self, command: Sequence[str], grace_s: float = 10.0) -> None:
        self.restarts = 0
        self._command = list(command)
        self._supervisor = Supervisor(sys.stderr, grace_s=grace_s)
        self._supervisor.on_exit(self._ended)
        self._pause = FIRST_PAUSE_S
        self._began = 0.0
        self._restart_timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start the process. Raises FileNotFoundError if there is no such command."""
        if shutil.which(self._command[0]) is None:
            raise FileNotFoundError(f"there is no command {self._command[0]!r} that could be run")
        self._began = asyncio.get_running_loop().time()
        await self._supervisor.start(self._command[0].rpartition("/")[2], self._command)

    async def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL."""
        self._stopping = True
        if self._restart_timer is not None:
            self._restart_timer.cancel()
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._supervisor.stop()

    def _ended(self, name: str, code: int) -> None:
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._began > STABLE_S:
            self._pause = FIRST_PAUSE_S
        _log.error("%s %s; starting it again in %.1f s", name, ended(code), self._pause)
        self._restart_timer = loop.call_later(self._pause, self._restart)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)

    def _restart(self) -> None:
        self.restarts += 1
        self._starting = asyncio.create_task(self.start())
