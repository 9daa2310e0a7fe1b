"""Readiness: named checks that decide between ``ready`` and ``unready``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from mesh.tasks import keep

_log = logging.getLogger("mesh.service")


class Check(NamedTuple):
    """A check; it may take ``timeout`` seconds, and runs again after ``every`` seconds."""

    name: str
    run: Callable[[], Awaitable[bool | None]]
    timeout: float
    every: float


class Readiness:
    """Runs the checks of one instance.

    checks: the checks
    changed: called with True or False when the instance becomes ready or unready
    """

    def __init__(self, checks: Sequence[Check], changed: Callable[[bool], None]) -> None:
        self.failing: dict[str, str] = {}
        """The reasons of the checks that fail, by their names."""
        self._checks = checks
        self._changed = changed
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """True if no check fails."""
        return not self.failing

    async def start(self) -> None:
        """Run every check once, then each at its own interval."""
        await asyncio.gather(*(self._try(check) for check in self._checks))
        self._tasks = [keep(partial(self._repeat, check), f"readiness {check.name}") for check in self._checks]

    async def aclose(self) -> None:
        """Stop the checks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, check: Check) -> None:
        while True:
            await asyncio.sleep(check.every)
            before = self.ready
            await self._try(check)
            if self.ready is not before:
                self._changed(self.ready)

    async def _try(self, check: Check) -> None:
        try:
            async with asyncio.timeout(check.timeout):
                why = "it returned False" if await check.run() is False else ""
        except TimeoutError:
            why = f"it took longer than {check.timeout:g} s"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        known = self.failing.get(check.name)
        if why:
            self.failing[check.name] = why
            if known is None:
                _log.warning("readiness check %s fails: %s", check.name, why)
        elif known is not None:
            del self.failing[check.name]
            _log.info("readiness check %s passes again", check.name)
