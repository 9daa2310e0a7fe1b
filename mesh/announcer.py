"""Announces one instance: its complete state at every change and on request, and heartbeats in between.

Everything is published without waiting, so heartbeats never queue behind other work of this process.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from mesh import logs, messages
from mesh.bus import Bus, Subscription
from mesh.claim_times import ClaimTimeSync, now_ms
from mesh.errors import MeshError
from mesh.impersonation import PublishedMessages, details, misleads
from mesh.messages import MAX_COUNT, MAX_LEAP, Announcement, BadMessage, Endpoint, Heartbeat, Route, State
from mesh.tasks import keep

JITTER: Final = 0.2
"""Part of the heartbeat interval by which it varies, so that instances started together drift apart."""
ANNOUNCE_GAP_S: Final = 0.1
"""Seconds between two announcements on request at least: a flood of requests must not become a flood of answers."""
SAME_CORRECTION_GAP_S: Final = 5.0
"""Seconds after an announcement before `details` that were corrected already are corrected again.

Two copies of one process differ in them, and would answer each other without end."""

TOO_LARGE: Final = (
    "Give it fewer routes, or shorter summaries and metadata, make several services of it, or raise max_payload of"
    " nats-server where that is the limit"
)

_log = logging.getLogger("mesh.announcer")


class Load(NamedTuple):
    """The work of an instance in a heartbeat: calls that run now, and how many may run (0: unlimited)."""

    inflight: int = 0
    capacity: int = 0


class Announcer:
    """Announces the instance of its bus (``bus.service``, ``bus.instance``).

    bus: where it publishes
    version, description, metadata, heartbeat_ms: fixed while the instance lives
    endpoints, routes: what it has at first; `update` changes them
    load: called for every heartbeat

    The announcer hears its own subjects too: without permissions, every client of NATS can publish there. A false
    message in the name of this instance is followed by a true one with a higher ``seq``.
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
        self._claims = ClaimTimeSync(bus, self._current, self.announce)
        self._set_content(endpoints, routes)
        subjects = bus.subjects
        self._announce_to = bus.address(subjects.announce(bus.service, bus.instance))
        self._heartbeat_to = bus.address(subjects.heartbeat(bus.service, bus.instance))
        self._subscriptions: list[Subscription] = []
        self._heartbeats: asyncio.Task[None] | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._answered_at = -ANNOUNCE_GAP_S
        self._announced_at = 0.0
        self._published = PublishedMessages()
        self._false_details: tuple[object, ...] = ()
        self.contradicted = 0
        """Messages that another process published in the name of this instance."""
        self.problem = ""
        """Why this instance cannot be announced; empty if it can. Meanwhile its heartbeats say ``unready``."""

    @property
    def revision(self) -> str:
        return self._revision

    def _set_content(self, endpoints: tuple[Endpoint, ...], routes: tuple[Route, ...]) -> None:
        self._endpoints, self._routes = endpoints, routes
        self._revision = messages.revision_of(self._bus.service, self._version, endpoints, routes)
        self._claims.times.claim(routes, now_ms())

    async def start(self, state: State = "ready") -> None:
        """Listen for discover messages, announce ``state``, and send heartbeats from now on.

        If another instance of the service lives, it is asked for its claim times first. The caller must have flushed
        its subscriptions before: an instance that is announced may be called at once.
        """
        bus, subjects = self._bus, self._bus.subjects
        for subject in (
            subjects.discover(),
            subjects.discover(bus.service),
            subjects.discover(bus.service, bus.instance),
        ):
            self._subscriptions.append(await bus.subscribe(subject, self._asked))
        for address in (self._announce_to, self._heartbeat_to):
            self._subscriptions.append(await bus.subscribe(address.decode(), self._heard_own_subject))
        bus.on_connection(self._reconnected)
        if self._routes:
            await self._claims.start()
        self.declare(state)
        self._heartbeats = keep(self._send_heartbeats, "heartbeat")

    def declare(self, state: State) -> None:
        """Set the state and announce it. While disconnected it is announced with the next connection."""
        self.state = state
        self.announce()

    def update(self, endpoints: tuple[Endpoint, ...], routes: tuple[Route, ...]) -> None:
        """Announce other endpoints and routes."""
        self._set_content(endpoints, routes)
        self.announce()

    def announce(self) -> None:
        """Publish the complete state. If it is too large for that, the log says so."""
        self._next()
        try:
            data = messages.encode(self._current())
            if len(data) > self._bus.max_payload:
                raise BadMessage(f"announcement of {len(data)} bytes; NATS takes {self._bus.max_payload} (max_payload)")
        except BadMessage as error:
            if self.problem != str(error):  # once, however often discover messages come
                self.problem = str(error)
                _log.error("this instance cannot be announced, so it gets no requests: %s. %s", error, TOO_LARGE)
            return
        self.problem = ""
        self._announced_at = asyncio.get_running_loop().time()
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
            claimed=self._claims.times.announced,
            connection=self._bus.connections,
        )

    async def aclose(self, *, stopped: bool = True) -> None:
        """Announce ``stopped``, which is final, and end the heartbeats.

        stopped: False announces nothing
        """
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)
            self._heartbeats = None
        if stopped and self.state != "stopped":
            self.declare("stopped")
        await self._claims.aclose()
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._bus.unsubscribe(*subscriptions)

    # -- messages

    def _next(self) -> int:
        self._seq = min(MAX_COUNT, self._seq + 1)
        return self._seq

    def _publish(self, address: bytes, data: bytes) -> None:
        self._published.add(data)
        try:
            self._bus.publish(address, data)
        except MeshError as error:  # the next connection announces
            _log.debug("not announced: %s", error)

    def _asked(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        if self.state != "stopped":
            self._respond_within(messages.decode_discover(payload).window_ms / 1000)

    def _respond_within(self, window_s: float, earliest: float = 0.0) -> None:
        """Announce in the next ``window_s`` seconds, but at least `ANNOUNCE_GAP_S` after the last response.

        earliest: time of the event loop before which it does not announce

        An announcement that is due in that time already stays as it is: many requests do not bring it forward.
        """
        loop = asyncio.get_running_loop()
        now, earliest = loop.time(), max(earliest, self._answered_at + ANNOUNCE_GAP_S)
        if self._answer_timer is not None:
            if self._answer_timer.when() <= max(now + window_s, earliest):
                return
            self._answer_timer.cancel()
        self._answer_timer = loop.call_at(max(now + random.uniform(0, window_s), earliest), self._respond)

    def _respond(self) -> None:
        self._answer_timer = None
        self._answered_at = asyncio.get_running_loop().time()
        self.announce()

    def _heard_own_subject(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """A message on the subjects of this instance: usually one of its own."""
        if payload in self._published or self.state == "stopped":
            return
        try:
            message = messages.decode(payload, self._bus.service, self._bus.instance)
        except BadMessage:  # no receiver takes it in
            return
        self.contradicted += 1
        count = self.contradicted
        if logs.is_due(count):
            _log.warning(
                "another process speaks for this instance (%d messages so far): state %s, seq %d, while it is %s at %d."
                " Is it a copy of this process, or an attack? NATS permissions can forbid the latter",
                count,
                message.state,
                message.seq,
                self.state,
                self._seq,
            )
        if message.seq - self._seq <= MAX_LEAP:  # no receiver that knows this instance believes a greater leap
            self._seq = max(self._seq, message.seq)
        current = self._current()
        if misleads(message, current):
            self._respond_within(0)  # not more often than discover messages could cause it
        elif isinstance(message, Announcement) and (said := details(message)) != details(current):
            same = said == self._false_details
            self._false_details = said
            self._respond_within(0, self._announced_at + SAME_CORRECTION_GAP_S if same else 0.0)

    def _reconnected(self, connected: bool) -> None:
        if connected and self._heartbeats is not None:
            self.announce()

    async def _send_heartbeats(self) -> None:
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
