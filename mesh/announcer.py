"""Announces one instance: its complete state at every change and when asked, a heartbeat in between.

Everything is published without waiting, so heartbeats never queue behind anything else that this process does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from mesh import logs, messages
from mesh.bus import Bus, Subscription
from mesh.claim_times import Claims, now_ms
from mesh.errors import MeshError
from mesh.messages import MAX_COUNT, MAX_LEAP, Announcement, BadMessage, Endpoint, Heartbeat, Route, State
from mesh.own_announcements import OwnMessages, contradicts, details
from mesh.tasks import keep

JITTER = 0.2
"""Part of the heartbeat interval by which it varies, so that instances started together drift apart."""
ANSWER_GAP_S = 0.1
"""Least time between two answers to discover messages, whoever asks how often."""
SAME_AGAIN_S = 5.0
"""Least time between our last announcement and the next one if somebody says a second time what we corrected already.
It concerns only what two copies of one process differ in: else they would answer each other without end."""

TOO_LARGE = (
    "Give it fewer routes, or shorter summaries and metadata, make several services of it, or raise max_payload of"
    " nats-server where that is the limit"
)

_log = logging.getLogger("mesh.announcer")


class Load(NamedTuple):
    """What a heartbeat says of an instance's work: calls running now, and how many it takes (0: unlimited)."""

    inflight: int = 0
    capacity: int = 0


class Announcer:
    """Speaks for the instance of its bus (``bus.service``, ``bus.instance``).

    ``load`` is asked at every heartbeat. All of ``description``, ``metadata`` and ``heartbeat_ms`` stay as they are
    while the instance lives; endpoints, routes and state may change.

    It hears its own subjects too: NATS lets everybody publish there whom no permission keeps from it. Whatever somebody
    else says in this instance's name is followed by its own word with a higher ``seq``.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        version: str,
        description: str = "",
        metadata: dict[str, str] | None = None,
        endpoints: tuple[Endpoint, ...] = (),
        routes: tuple[Route, ...] = (),
        heartbeat_ms: int = 2000,
        load: Callable[[], Load] = Load,
    ) -> None:
        self.state: State = "starting"
        self.lag_ms = 0
        self.started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._bus = bus
        self._version = version
        self._description = description
        self._metadata = dict(metadata or {})
        self._heartbeat_ms = heartbeat_ms
        self._load = load
        self._seq = 0
        self._claims = Claims(bus, self._current, self.announce)
        self._set_content(endpoints, routes)
        subjects = bus.subjects
        self._announce_to = bus.address(subjects.announce(bus.service, bus.instance))
        self._heartbeat_to = bus.address(subjects.heartbeat(bus.service, bus.instance))
        self._subscriptions: list[Subscription] = []
        self._beating: asyncio.Task[None] | None = None
        self._answer: asyncio.TimerHandle | None = None
        self._answered = -ANSWER_GAP_S
        self._announced = 0.0
        self._own = OwnMessages()
        self._false_details: tuple[object, ...] = ()
        self.contradicted = 0
        """Messages that somebody else published in the name of this instance."""
        self.problem = ""
        """Why this instance cannot be announced; empty when it can. Meanwhile its heartbeats say ``unready``."""

    @property
    def revision(self) -> str:
        return self._revision

    def _set_content(self, endpoints: tuple[Endpoint, ...], routes: tuple[Route, ...]) -> None:
        self._endpoints, self._routes = endpoints, routes
        self._revision = messages.revision_of(self._bus.service, self._version, endpoints, routes)
        self._claims.moments.claim(routes, now_ms())

    async def start(self, state: State = "ready") -> None:
        """Listen for discover messages, announce ``state``, and beat from now on. Where another instance of the service
        lives, its claims to the routes are asked for before.

        The caller has flushed its own subscriptions before: whoever hears the announcement may call at once.
        """
        bus, subjects = self._bus, self._bus.subjects
        for subject in (
            subjects.discover(),
            subjects.discover(bus.service),
            subjects.discover(bus.service, bus.instance),
        ):
            self._subscriptions.append(await bus.subscribe(subject, self._asked))
        for address in (self._announce_to, self._heartbeat_to):
            self._subscriptions.append(await bus.subscribe(address.decode(), self._overheard))
        bus.on_connection(self._reconnected)
        if self._routes:
            await self._claims.start()
        self.declare(state)
        self._beating = keep(self._beat, "heartbeat")

    def declare(self, state: State) -> None:
        """Set the state and announce it. While disconnected it is announced with the next connection."""
        self.state = state
        self.announce()

    def update(self, endpoints: tuple[Endpoint, ...], routes: tuple[Route, ...]) -> None:
        """Announce other endpoints and routes."""
        self._set_content(endpoints, routes)
        self.announce()

    def announce(self) -> None:
        """Publish the complete state; where it is too large for that, say so in the log."""
        self._next()
        try:
            data = messages.encode(self._current())
            if len(data) > self._bus.max_payload:
                raise BadMessage(f"announcement of {len(data)} bytes; NATS takes {self._bus.max_payload} (max_payload)")
        except BadMessage as error:
            if self.problem != str(error):  # once, however often somebody asks
                self.problem = str(error)
                _log.error("this instance cannot be announced, so it gets no requests: %s. %s", error, TOO_LARGE)
            return
        self.problem = ""
        self._announced = asyncio.get_running_loop().time()
        self._publish(self._announce_to, data)

    def _current(self) -> Announcement:
        return Announcement(
            name=self._bus.service,
            id=self._bus.instance,
            version=self._version,
            description=self._description,
            metadata=self._metadata,
            endpoints=self._endpoints,
            routes=self._routes,
            seq=self._seq,
            revision=self._revision,
            state=self.state,
            started=self.started,
            heartbeat_ms=self._heartbeat_ms,
            bundles=self._bus.settings.bundles,
            claimed=self._claims.moments.announced,
            connection=self._bus.connections,
        )

    async def aclose(self, *, stopped: bool = True) -> None:
        """Announce ``stopped`` (final) and stop beating."""
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None
        if stopped and self.state != "stopped":
            self.declare("stopped")
        await self._claims.aclose()
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)

    # -- the rest

    def _next(self) -> int:
        self._seq = min(MAX_COUNT, self._seq + 1)
        return self._seq

    def _publish(self, address: bytes, data: bytes) -> None:
        self._own.add(data)
        try:
            self._bus.publish(address, data)
        except MeshError as error:  # heals itself: the next connection announces
            _log.debug("not announced: %s", error)

    def _asked(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        if self.state != "stopped":
            self._respond_within(messages.decode_discover(payload).window_ms / 1000)

    def _respond_within(self, window: float, earliest: float = 0.0) -> None:
        """Announce in the next ``window`` seconds, though not before ``earliest`` on the event loop's clock, and not
        sooner than `ANSWER_GAP_S` after the last time.

        An announcement that is due in that time already is kept: many who ask at once do not bring it forward.
        """
        loop = asyncio.get_running_loop()
        now, earliest = loop.time(), max(earliest, self._answered + ANSWER_GAP_S)
        if self._answer is not None:
            if self._answer.when() <= max(now + window, earliest):
                return
            self._answer.cancel()
        self._answer = loop.call_at(max(now + random.uniform(0, window), earliest), self._respond)

    def _respond(self) -> None:
        self._answer = None
        self._answered = asyncio.get_running_loop().time()
        self.announce()

    def _overheard(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """A message on our own subjects: our own one, as a rule."""
        if payload in self._own or self.state == "stopped":
            return
        try:
            message = messages.decode(payload, self._bus.service, self._bus.instance)
        except BadMessage:  # nobody takes it in
            return
        self.contradicted += 1
        count = self.contradicted
        if logs.is_due(count):
            _log.warning(
                "somebody else speaks for this instance (%d messages so far): state %s, seq %d, while it is %s at %d."
                " Is it a copy of this process, or an attack? NATS permissions can forbid the latter",
                count,
                message.state,
                message.seq,
                self.state,
                self._seq,
            )
        if message.seq - self._seq <= MAX_LEAP:  # a greater leap is believed by nobody who knows us
            self._seq = max(self._seq, message.seq)
        truth = self._current()
        if contradicts(message, truth):
            self._respond_within(0)  # the truth, not more often than whoever asks could have it
        elif isinstance(message, Announcement) and (said := details(message)) != details(truth):
            same = said == self._false_details
            self._false_details = said
            self._respond_within(0, self._announced + SAME_AGAIN_S if same else 0.0)

    def _reconnected(self, connected: bool) -> None:
        if connected and self._beating is not None:
            self.announce()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pause = self._heartbeat_ms / 1000 * random.uniform(1 - JITTER, 1)
            due = loop.time() + pause
            await asyncio.sleep(pause)
            self.lag_ms = max(0, round((loop.time() - due) * 1000))
            if not self._bus.connected:
                continue
            load = self._load()
            heartbeat = Heartbeat(
                name=self._bus.service,
                id=self._bus.instance,
                seq=self._next(),
                revision=self._revision,
                state="unready" if self.problem and self.state == "ready" else self.state,
                inflight=load.inflight,
                capacity=load.capacity,
                lag_ms=self.lag_ms,
            )
            self._publish(self._heartbeat_to, messages.encode(heartbeat))
