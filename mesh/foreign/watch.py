"""Finds foreign micro services, and notices when they end: they have no heartbeats, so they are asked."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.foreign.routes import announcement_of
from mesh.foreign.survey import MicroInstance, read, survey
from mesh.tasks import keep
from mesh.watcher import Watcher

ROUND_INTERVAL_S: Final = 10.0
"""Seconds between two rounds of ``$SRV.PING``."""
INFO_ROUNDS: Final = 6
"""In one of so many rounds all instances are asked for their INFO, in the others only new ones: once a minute."""
REPLY_TIMEOUT_S: Final = 1.0
"""Seconds that one instance has for its reply."""
CONCURRENT_REQUESTS: Final = 16
"""Instances that are asked at the same time."""
ASKING_LIMIT_S: Final = 20.0
"""Seconds for asking instances one by one in a round. Those that were not asked by then wait for the next round."""
SHORTEST_PAUSE_S: Final = 0.2
"""Seconds between two rounds at least, however often callers report that there are no responders."""
MAX_WARNINGS: Final = 1000
"""Different warnings that are logged at most: a bound for the memory of them."""

InstanceKey = tuple[str, str]
"""Service and instance."""

_log = logging.getLogger("mesh.foreign")


class ForeignWatch:
    """Keeps the foreign services of a watcher's registry in step with those that answer ``$SRV``.

    bus: where they are asked
    watcher: gets their announcements
    interval_s: seconds between two rounds; 0 never asks
    """

    def __init__(self, bus: Bus, watcher: Watcher, interval_s: float = ROUND_INTERVAL_S) -> None:
        self._bus = bus
        self._watcher = watcher
        self._interval_s = interval_s
        self._known: set[InstanceKey] = set()
        self._warned: set[str] = set()
        self._wanted_soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask now, with every new connection, and regularly."""
        if self._interval_s:
            self._watcher.on_no_responders(self._no_responders)
            self._bus.on_connection(lambda connected: self._wanted_soon.set() if connected else None)
            self._task = keep(self._run, "foreign services")

    async def aclose(self) -> None:
        """Stop asking. The services that are known stay in the registry."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _no_responders(self, service: str) -> None:
        if any(name == service for name, _ in self._known):
            self._wanted_soon.set()

    async def _run(self) -> None:
        number = 0
        while True:
            self._wanted_soon.clear()
            try:
                if self._bus.connected:
                    await self.round(all_info=number % INFO_ROUNDS == 0)
                    number += 1
            except MeshError as error:  # cut off from NATS: that says nothing about any service
                _log.debug("not asked: %s", error)
            await asyncio.sleep(min(SHORTEST_PAUSE_S, self._interval_s))
            try:
                async with asyncio.timeout(self._interval_s * random.uniform(0.8, 1.0)):
                    await self._wanted_soon.wait()
            except TimeoutError:
                pass

    async def round(self, *, all_info: bool = False) -> None:
        """Ask which instances are there, and take in what changed. Raises `MeshError` without a connection.

        all_info: ask all of them for their INFO, and not only new ones
        """
        registry = self._watcher.registry
        answers = await survey(self._bus, "PING")
        there = {(micro.name, micro.id) for micro in answers if micro.foreign and self._may_have(micro.name)}
        # Those that are not in the registry any more had to make room for a service of the mesh.
        self._known = {key for key in self._known if registry.get(*key) is not None}
        wanted = there if all_info else there - self._known

        def take_in(key: InstanceKey, micro: MicroInstance | None) -> None:
            if micro is not None and micro.foreign and (micro.name, micro.id) == key:
                self._take_in(micro)

        # Answers get lost, and a process may have been slow: only an instance that does not answer alone is gone.
        def dismiss_silent(key: InstanceKey, micro: MicroInstance | None) -> None:
            if micro is None and self._bus.connected:
                self._known.discard(key)
                self._watcher.dismiss(*key)

        await self._ask("PING", self._known - there, dismiss_silent)
        await self._ask("INFO", wanted, take_in)

    async def _ask(
        self, verb: str, keys: Iterable[InstanceKey], then: Callable[[InstanceKey, MicroInstance | None], None]
    ) -> None:
        """Ask each instance, `CONCURRENT_REQUESTS` at a time and in random order.

        then: called with each answer, or with None if there was none

        Ends after `ASKING_LIMIT_S` even if some were not asked: there may be very many that do not answer.
        """
        remaining = list(keys)
        random.shuffle(remaining)

        async def asking() -> None:
            while remaining:
                key = remaining.pop()
                try:
                    address = self._bus.address(f"$SRV.{verb}.{key[0]}.{key[1]}")
                    reply = await self._bus.request(address, b"", timeout=REPLY_TIMEOUT_S, lenient=True)
                    micro = read(reply.payload)
                except (MeshError, ValueError):
                    micro = None
                then(key, micro)

        try:
            async with asyncio.timeout(ASKING_LIMIT_S), asyncio.TaskGroup() as group:
                for _ in range(min(CONCURRENT_REQUESTS, len(remaining))):
                    group.create_task(asking())
        except TimeoutError:
            self._warn(f"some were not asked for {verb} within {ASKING_LIMIT_S:g} s: too many do not answer")

    def _may_have(self, name: str) -> bool:
        """True if a foreign service may have that name; if not, the log says so."""
        if not self._watcher.registry.is_native(name):
            return True
        self._warn(
            f"{name!r} is a service of the mesh: an instance that answers $SRV under that name without mesh.prefix in"
            " its metadata gets no requests"
        )
        return False

    def _take_in(self, micro: MicroInstance) -> None:
        problems: list[str] = []
        found = announcement_of(micro, self._bus.subjects.prefix, problems)
        for problem in problems:
            self._warn(problem)
        if found is not None:
            self._known.add((micro.name, micro.id))
            self._watcher.adopt(found)

    def _warn(self, problem: str) -> None:
        if problem not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add(problem)
            _log.warning("foreign service: %s", problem)
