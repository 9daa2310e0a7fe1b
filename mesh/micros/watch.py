"""Finds the foreign micro services, and notices when they go: they have no heartbeats, so they are asked."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.micros.routes import announcement_of
from mesh.micros.survey import Micro, read, survey
from mesh.watcher import Watcher

EVERY_S = 10.0
"""Seconds between two rounds of ``$SRV.PING``."""
ANEW = 6
"""In every so many rounds those that are known are asked for their INFO again."""
PATIENCE_S = 1.0
"""How long one that missed a round has to answer for itself."""
AT_ONCE = 16
"""Instances that are asked at the same time."""
SOONEST_S = 0.2
"""Pause between two rounds that somebody's doubt causes."""

_log = logging.getLogger("mesh.micros")


class ForeignWatch:
    """Keeps the foreign services of ``watcher``'s registry in step with who answers; ``every_s`` of 0 is never."""

    def __init__(self, bus: Bus, watcher: Watcher, every_s: float = EVERY_S) -> None:
        self._bus = bus
        self._watcher = watcher
        self._every_s = every_s
        self._known: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask now, whenever there is a new connection, and every so often."""
        if self._every_s:
            self._watcher.on_doubt(self._doubt)
            self._bus.on_connection(lambda connected: self._soon.set() if connected else None)
            self._task = asyncio.create_task(self._run(), name="foreign services")

    async def aclose(self) -> None:
        """Ask no more; what is known stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _doubt(self, service: str) -> None:
        if any(name == service for name, _ in self._known):
            self._soon.set()

    async def _run(self) -> None:
        number = 0
        while True:
            self._soon.clear()
            try:
                if self._bus.connected:
                    await self.round(anew=number % ANEW == 0)
                    number += 1
            except MeshError as error:  # cut off: nobody is judged by that
                _log.debug("not asked: %s", error)
            await asyncio.sleep(min(SOONEST_S, self._every_s))
            try:
                async with asyncio.timeout(self._every_s * random.uniform(0.8, 1.0)):
                    await self._soon.wait()
            except TimeoutError:
                pass

    async def round(self, *, anew: bool = False) -> None:
        """Ask who is there, and take in what changed; ``anew`` asks everybody for everything. Raises `MeshError`."""
        there = {(micro.name, micro.id) for micro in await survey(self._bus, "PING") if micro.foreign}
        wanted = there if anew else there - self._known
        for _, micro in await self._ask("INFO", wanted):
            if micro is not None and micro.foreign:
                self._take(micro)
        # Answers get lost, and a process may have been slow: only who stays silent when asked itself is gone.
        for key, micro in await self._ask("PING", self._known - there):
            if micro is None and self._bus.connected:
                self._known.discard(key)
                self._watcher.dismiss(*key)

    async def _ask(self, verb: str, keys: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], Micro | None]]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(name: str, id: str) -> tuple[tuple[str, str], Micro | None]:
            async with limit:
                try:
                    address = self._bus.address(f"$SRV.{verb}.{name}.{id}")
                    return (name, id), read(
                        (await self._bus.request(address, b"", timeout=PATIENCE_S, lenient=True)).payload
                    )
                except (MeshError, ValueError):
                    return (name, id), None

        return await asyncio.gather(*(one(*key) for key in keys))

    def _take(self, micro: Micro) -> None:
        problems: list[str] = []
        found = announcement_of(micro, problems)
        for problem in problems:
            if problem not in self._told and len(self._told) < 1000:
                self._told.add(problem)
                _log.warning("foreign service: %s", problem)
        if found is not None:
            self._known.add((micro.name, micro.id))
            self._watcher.adopt(found)
