"""Finds the foreign micro services, and notices when they go: they have no heartbeats, so they are asked."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.foreign.routes import announcement_of
from mesh.foreign.survey import MicroInstance, read, survey
from mesh.tasks import keep
from mesh.watcher import Watcher

EVERY_S = 10.0
"""Seconds between two rounds of ``$SRV.PING``."""
ANEW = 6
"""In every so many rounds those that are known are asked for their INFO again."""
PATIENCE_S = 1.0
"""How long one that missed a round has to answer for itself."""
AT_ONCE = 16
"""Instances that are asked at the same time."""
ASKING_S = 20.0
"""How long those who answered a round are asked for; who was not asked by then is in the next round."""
SOONEST_S = 0.2
"""Pause between two rounds that somebody's doubt causes."""

Key = tuple[str, str]
"""Service and instance."""

_log = logging.getLogger("mesh.foreign")


class ForeignWatch:
    """Keeps the foreign services of ``watcher``'s registry in step with who answers; ``every_s`` of 0 is never."""

    def __init__(self, bus: Bus, watcher: Watcher, every_s: float = EVERY_S) -> None:
        self._bus = bus
        self._watcher = watcher
        self._every_s = every_s
        self._known: set[Key] = set()
        self._told: set[str] = set()
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask now, whenever there is a new connection, and every so often."""
        if self._every_s:
            self._watcher.on_doubt(self._doubt)
            self._bus.on_connection(lambda connected: self._soon.set() if connected else None)
            self._task = keep(self._run, "foreign services")

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
        registry = self._watcher.registry
        answers = await survey(self._bus, "PING")
        there = {(micro.name, micro.id) for micro in answers if micro.foreign and self._may_have(micro.name)}
        self._known = {key for key in self._known if registry.get(*key) is not None}  # the others were ousted
        wanted = there if anew else there - self._known

        def take(key: Key, micro: MicroInstance | None) -> None:
            if micro is not None and micro.foreign and (micro.name, micro.id) == key:
                self._take(micro)

        # Answers get lost, and a process may have been slow: only who stays silent when asked itself is gone.
        def judge(key: Key, micro: MicroInstance | None) -> None:
            if micro is None and self._bus.connected:
                self._known.discard(key)
                self._watcher.dismiss(*key)

        await self._ask("PING", self._known - there, judge)
        await self._ask("INFO", wanted, take)

    async def _ask(self, verb: str, keys: Iterable[Key], then: Callable[[Key, MicroInstance | None], None]) -> None:
        """Ask each of ``keys``, some at a time and in any order; ``then`` gets each answer, or None for none.

        Ends after `ASKING_S`, whoever has not been asked: there may be very many who do not answer.
        """
        rest = list(keys)
        random.shuffle(rest)

        async def asking() -> None:
            while rest:
                key = rest.pop()
                try:
                    address = self._bus.address(f"$SRV.{verb}.{key[0]}.{key[1]}")
                    reply = await self._bus.request(address, b"", timeout=PATIENCE_S, lenient=True)
                    micro = read(reply.payload)
                except (MeshError, ValueError):
                    micro = None
                then(key, micro)

        try:
            async with asyncio.timeout(ASKING_S), asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(rest))):
                    group.create_task(asking())
        except TimeoutError:
            self._tell(f"some were not asked for {verb} within {ASKING_S:g} s: too many do not answer")

    def _may_have(self, name: str) -> bool:
        """Whether a foreign service may have that name; it is told when it may not."""
        if not self._watcher.registry.is_native(name):
            return True
        self._tell(
            f"{name!r} is a service of the mesh: who answers $SRV under that name without mesh.prefix in its metadata"
            " gets no requests"
        )
        return False

    def _take(self, micro: MicroInstance) -> None:
        problems: list[str] = []
        found = announcement_of(micro, self._bus.subjects.prefix, problems)
        for problem in problems:
            self._tell(problem)
        if found is not None:
            self._known.add((micro.name, micro.id))
            self._watcher.adopt(found)

    def _tell(self, problem: str) -> None:
        if problem not in self._told and len(self._told) < 1000:
            self._told.add(problem)
            _log.warning("foreign service: %s", problem)
