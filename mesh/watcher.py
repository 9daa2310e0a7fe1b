"""Keeps a registry in step with what instances say on the bus.

It owns the registry's clock: liveness time, which stands still while this process is cut off from NATS or
stalled, so that nobody is called dead because the receiver could not hear.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh import messages
from mesh.bus import Bus, Subscription
from mesh.errors import MeshError
from mesh.messages import Announcement, BadMessage, Discover
from mesh.registry import Change, DiscoverRequest, Liveness, Registry
from mesh.tasks import keep

TICK_S = 0.1
SYNC_MARGIN_S = 0.5
"""A watcher counts itself synchronised the discover window plus this after it asked."""

_log = logging.getLogger("mesh.watcher")


class Watcher:
    """Watches every service, or those named with `watch` where ``everything`` is False.

    Callbacks run synchronously in the order of `on_change`; they must not block.
    """

    def __init__(
        self, bus: Bus, *, everything: bool = True, window_ms: int = 500, margin_s: float = SYNC_MARGIN_S
    ) -> None:
        self.registry = Registry()
        self.synchronised = asyncio.Event()
        self.refused = 0
        self._bus = bus
        self._everything = everything
        self._window_ms = window_ms
        self._margin_s = margin_s
        self._liveness = Liveness()
        self._now = 0.0
        self._listeners: list[Callable[[Sequence[Change]], None]] = []
        self._hearers: list[Callable[[str, str], None]] = []
        self._doubters: list[Callable[[str], None]] = []
        self._subscriptions: list[Subscription] = []
        self._watched: dict[str, float] = {}  # service -> event-loop time at which it counts as synchronised
        self._synchronising: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[None] | None = None

    # -- facts

    @property
    def stale(self) -> bool:
        """Whether the table is frozen: no news from NATS, so what it holds is the last known state."""
        return self._liveness.stale or not self._bus.connected

    @property
    def now(self) -> float:
        """Liveness time in seconds, the registry's clock."""
        return self._now

    def knows(self, service: str) -> bool:
        """Whether the registry can be trusted to hold that service's instances."""
        if self._everything:
            return self.synchronised.is_set()
        due = self._watched.get(service)
        return due is not None and asyncio.get_running_loop().time() >= due

    # -- life

    def on_change(self, listener: Callable[[Sequence[Change]], None]) -> Callable[[], None]:
        """Call ``listener`` with every batch of changes; returns a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_heard(self, hearer: Callable[[str, str], None]) -> None:
        """Call ``hearer(service, instance)`` for every accepted message of an instance."""
        self._hearers.append(hearer)

    def on_doubt(self, hook: Callable[[str], None]) -> None:
        """Call ``hook(service)`` when somebody found that nobody of a service listens."""
        self._doubters.append(hook)

    def doubt(self, service: str) -> None:
        """Say that nobody of ``service`` listens, though the registry knows instances."""
        for hook in self._doubters:
            hook(service)

    def adopt(self, announcement: Announcement) -> None:
        """Take in a foreign service: it has no heartbeats, and stays until it is dismissed."""
        self._handle(self.registry.adopt(announcement, self._now))

    def dismiss(self, service: str, instance: str) -> None:
        """A foreign service is gone."""
        self._handle(self.registry.dismiss(service, instance))

    async def start(self) -> None:
        """Subscribe, ask everyone to announce, and keep time. Needs no connection yet: it asks when there is one."""
        subjects = self._bus.subjects
        if self._everything:
            for subject in (subjects.announce_all, subjects.heartbeat_all):
                self._subscriptions.append(await self._bus.subscribe(subject, self._receive))
        self._bus.on_connection(self._connection)
        await self._settle()
        if self._bus.connected:
            self._ask_all()
        self._ticking = keep(self._tick, "watcher")

    async def watch(self, service: str) -> None:
        """Watch one service more."""
        if self._everything or service in self._watched:
            return
        self._watched[service] = float("inf")
        subjects = self._bus.subjects
        for subject in (subjects.announce(service), subjects.heartbeat(service)):
            self._subscriptions.append(await self._bus.subscribe(subject, self._receive))
        await self._settle()
        self._ask_service(service)

    async def _settle(self) -> None:
        """Have the server know our subscriptions before anybody is asked: an answer may come at once."""
        try:
            if self._bus.connected:
                await self._bus.flush()
        except MeshError as error:  # the next connection asks
            _log.debug("not flushed: %s", error)

    async def aclose(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
            self._ticking = None
        if self._synchronising is not None:
            self._synchronising.cancel()
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)

    # -- from the bus

    def _receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        party = self._bus.subjects.party(subject)
        if party is None:
            self.refused += 1
            return
        try:
            message = messages.decode(payload, party.service, party.instance)
        except BadMessage as error:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: never a flood
                _log.warning("refused a message on %s (%d so far): %s", subject.decode(), self.refused, error)
            return
        self._handle(self.registry.apply(message, self._now))
        for hearer in self._hearers:
            hearer(party.service, party.instance)

    def _connection(self, connected: bool) -> None:
        if connected:
            self._now = self._liveness.advance(self._time(), self._bus.last_bytes, True)
            self.registry.restart(self._now)
            self._ask_all()
        else:
            self._liveness.advance(self._time(), None, False)

    # -- time

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            stale = self._liveness.stale
            self._now = self._liveness.advance(self._time(), self._bus.last_bytes, self._bus.connected)
            if stale and not self._liveness.stale:
                self.registry.restart(self._now)
            if not self._liveness.stale:
                self._handle(self.registry.expire(self._now))

    def _synchronise(self) -> None:
        if self._bus.connected:  # otherwise everybody is asked again with the next connection
            self.synchronised.set()

    # -- asking

    def _ask_all(self) -> None:
        if self._everything:
            self._discover(self._bus.subjects.discover(), self._window_ms)
            if not self.synchronised.is_set():
                if self._synchronising is not None:
                    self._synchronising.cancel()
                wait = self._window_ms / 1000 + self._margin_s
                self._synchronising = asyncio.get_running_loop().call_later(wait, self._synchronise)
        for service in self._watched:
            self._ask_service(service)

    def _ask_service(self, service: str) -> None:
        if self._discover(self._bus.subjects.discover(service), self._window_ms):
            due = self._time() + self._window_ms / 1000 + self._margin_s
            self._watched[service] = min(due, self._watched[service])

    def _discover(self, subject: str, window_ms: int) -> bool:
        try:
            self._bus.publish(self._bus.address(subject), messages.encode(Discover(window_ms=window_ms)))
        except MeshError as error:  # asked again with the next connection, or by the registry's backing off
            _log.debug("not asked: %s", error)
            return False
        return True

    def _handle(self, outcome: Sequence[Change | DiscoverRequest]) -> None:
        if not outcome:
            return
        changes = [item for item in outcome if isinstance(item, Change)]
        for item in outcome:
            if isinstance(item, DiscoverRequest):
                self._discover(self._bus.subjects.discover(item.service, item.instance), 0)
        if changes:
            for listener in list(self._listeners):
                try:
                    listener(changes)
                except Exception:
                    _log.exception("a listener of registry changes failed")
