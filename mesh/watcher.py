"""Keeps a registry in step with what instances announce on the bus.

It owns the registry's clock. That is liveness time, which stands still while this process is cut off from NATS or
stalled: no instance is called lost because the receiver could not hear it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from mesh import logs, messages
from mesh.bus import Bus, Subscription
from mesh.errors import MeshError
from mesh.messages import Announcement, BadMessage, Discover
from mesh.registry import Change, DiscoverRequest, Liveness, Registry
from mesh.tasks import keep

TICK_S: Final = 0.1
"""Seconds between two looks at the clock: so much later than due an instance is called suspect or lost at most."""
SYNC_MARGIN_S: Final = 0.5
"""Seconds after the end of the discover window in which late answers may come, before a watcher is synchronised."""

_log = logging.getLogger("mesh.watcher")


class Watcher:
    """Feeds a registry with the announcements and heartbeats of services.

    bus: where it subscribes and asks
    everything: watch every service; False watches those named with `watch`
    window_ms: milliseconds over which instances spread their answers to a discover message
    margin_s: seconds after that window before the watcher is synchronised

    ``synchronised`` is set when every live instance had the time to answer. Callbacks run synchronously in the order of
    `on_change`; they must not block.
    """

    def __init__(
        self, bus: Bus, *, everything: bool = True, window_ms: int = 500, margin_s: float = SYNC_MARGIN_S
    ) -> None:
        self.registry = Registry()
        self.synchronised = asyncio.Event()
        self.refused = 0
        """Messages that did not follow the protocol."""
        self._bus = bus
        self._everything = everything
        self._window_ms = window_ms
        self._margin_s = margin_s
        self._liveness = Liveness()
        self._now = 0.0
        self._on_change: list[Callable[[Sequence[Change]], None]] = []
        self._on_heard: list[Callable[[str, str], None]] = []
        self._on_no_responders: list[Callable[[str], None]] = []
        self._subscriptions: list[Subscription] = []
        self._watched: dict[str, float] = {}  # service -> event-loop time at which it counts as synchronised
        self._synchronising: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[None] | None = None

    # -- facts

    @property
    def stale(self) -> bool:
        """True if nothing is heard from NATS, so that the registry holds the last known state."""
        return self._liveness.stale or not self._bus.connected

    @property
    def now(self) -> float:
        """Liveness time in seconds, the registry's clock."""
        return self._now

    def knows(self, service: str) -> bool:
        """True if the registry has the instances of that service: they had the time to answer."""
        if self._everything:
            return self.synchronised.is_set()
        due = self._watched.get(service)
        return due is not None and asyncio.get_running_loop().time() >= due

    # -- life

    def on_change(self, listener: Callable[[Sequence[Change]], None]) -> Callable[[], None]:
        """Call ``listener`` with every batch of changes. Returns a function that ends that."""
        self._on_change.append(listener)
        return lambda: self._on_change.remove(listener)

    def on_heard(self, listener: Callable[[str, str], None]) -> None:
        """Call ``listener(service, instance)`` for every message of an instance that follows the protocol."""
        self._on_heard.append(listener)

    def on_no_responders(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(service)`` for every `report_no_responders`."""
        self._on_no_responders.append(listener)

    def report_no_responders(self, service: str) -> None:
        """A caller reports that NATS had no responders for ``service``, though the registry has instances of it."""
        for listener in self._on_no_responders:
            listener(service)

    def adopt(self, announcement: Announcement) -> None:
        """Take in a foreign service. It has no heartbeats, so it stays until it is dismissed."""
        self._handle(self.registry.adopt(announcement, self._now))

    def dismiss(self, service: str, instance: str) -> None:
        """Remove an instance of a foreign service."""
        self._handle(self.registry.dismiss(service, instance))

    async def start(self) -> None:
        """Subscribe, ask every instance to announce itself, and keep time.

        Needs no connection yet: with the next one, it asks.
        """
        subjects = self._bus.subjects
        if self._everything:
            for subject in (subjects.announce_all, subjects.heartbeat_all):
                self._subscriptions.append(await self._bus.subscribe(subject, self._receive))
        self._bus.on_connection(self._connection)
        await self._flush_subscriptions()
        if self._bus.connected:
            self._ask_all()
        self._ticking = keep(self._tick, "watcher")

    async def watch(self, service: str) -> None:
        """Watch one more service."""
        if self._everything or service in self._watched:
            return
        self._watched[service] = float("inf")
        subjects = self._bus.subjects
        for subject in (subjects.announce(service), subjects.heartbeat(service)):
            self._subscriptions.append(await self._bus.subscribe(subject, self._receive))
        await self._flush_subscriptions()
        self._ask_service(service)

    async def _flush_subscriptions(self) -> None:
        """Return when the server has the subscriptions: the answer to a discover message may come at once."""
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
            if logs.is_due(self.refused):
                _log.warning("refused a message on %s (%d so far): %s", subject.decode(), self.refused, error)
            return
        clashes = self.registry.revision_clashes
        self._handle(self.registry.apply(message, self._now))
        if clashes != self.registry.revision_clashes and logs.is_due(clashes + 1):
            what = "%s.%s announces a revision that another instance has with other routes or endpoints (%d so far)"
            _log.warning(what, party.service, party.instance, clashes + 1)
        for listener in self._on_heard:
            listener(party.service, party.instance)

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
        if self._bus.connected:  # otherwise all are asked again with the next connection
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
        except MeshError as error:  # asked again with the next connection, or when the registry's wait is over
            _log.debug("not asked: %s", error)
            return False
        return True

    def _handle(self, effects: Sequence[Change | DiscoverRequest]) -> None:
        if not effects:
            return
        changes = [item for item in effects if isinstance(item, Change)]
        for item in effects:
            if isinstance(item, DiscoverRequest):
                self._discover(self._bus.subjects.discover(item.service, item.instance), 0)
        if changes:
            for listener in list(self._on_change):
                try:
                    listener(changes)
                except Exception:
                    _log.exception("a listener of registry changes failed")
