"""Since when a service claims its routes: asked of a sibling at the start, told to the siblings that start later.

If two services announce one route, the one with the earlier claim keeps it. A claim belongs to the service and not to
an instance: a new instance takes over the claim times of a live one, so a claim outlasts rolling restarts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from mesh import messages
from mesh.bus import Bus, Subscription
from mesh.errors import MeshError, NoResponders
from mesh.messages import Announcement, Route
from mesh.routes import BadTemplate, parse_template
from mesh.subjects import QUEUE
from mesh.tasks import keep

REPLY_TIMEOUT_S: Final = 0.25
"""Seconds that one sibling may take for its reply: it may be frozen, and the start waits for it."""
RETRY_PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further request, if no sibling replied to the first."""

_log = logging.getLogger("mesh.claims")


class ClaimTimes:
    """Since when each route is claimed, in Unix milliseconds. Two templates of one shape are one route.

    ``announced`` has one time for all routes, or one for each in their order.
    """

    def __init__(self) -> None:
        self.announced: tuple[int, ...] = ()
        self._since: dict[object, int] = {}
        self._routes: list[object] = []

    def claim(self, routes: tuple[Route, ...], now: int) -> None:
        """Set the routes. New ones are claimed since ``now``, the others keep their times."""
        self._routes = [_identity(route) for route in routes]
        self._since = {route: self._since.get(route, now) for route in self._routes}
        self._update()

    def adopt(self, sibling: Announcement) -> bool:
        """Take over the earlier times of a sibling. True if there were any."""
        before, claimed = self.announced, sibling.claimed
        for number, route in enumerate(map(_identity, sibling.routes) if claimed else ()):
            if route in self._since:
                self._since[route] = min(self._since[route], claimed[number if len(claimed) > 1 else 0])
        self._update()
        return self.announced != before

    def _update(self) -> None:
        times = tuple(self._since[route] for route in self._routes)
        self.announced = times[:1] if len(set(times)) == 1 else times


def _identity(route: Route) -> object:
    try:
        return parse_template(route.path).shape, route.method
    except BadTemplate:  # it serves nothing, and receivers reject it by its text
        return route.path, route.method


def now_ms() -> int:
    """The wall clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class ClaimTimeSync:
    """Asks the siblings of an instance for their claim times, then answers the siblings that ask.

    bus: its service and instance are asked and answered for
    current: returns the instance's announcement as it is now
    adopted: called when a late reply brought earlier times
    """

    def __init__(self, bus: Bus, current: Callable[[], Announcement], adopted: Callable[[], None]) -> None:
        self.times = ClaimTimes()
        self._bus = bus
        self._current = current
        self._adopted = adopted
        self._subject = bus.subjects.claims(bus.service)
        self._subscription: Subscription | None = None
        self._asking: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    async def start(self) -> None:
        """Ask a sibling and wait a moment for its reply. If none comes, ask again later, in the background."""
        if self._bus.connected and await self._ask():
            await self._answer_others()
        else:
            self._bus.on_connection(lambda there: self._connected.set() if there else self._connected.clear())
            if self._bus.connected:
                self._connected.set()
            self._asking = keep(self._ask_later, "claims")

    async def aclose(self) -> None:
        """Stop asking and answering."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def _ask_later(self) -> None:
        for pause in RETRY_PAUSES_S:
            await asyncio.sleep(pause)
            await self._connected.wait()
            if await self._ask():
                break
        else:
            _log.info("no other instance of %s said since when its routes are claimed", self._bus.service)
        await self._answer_others()

    async def _ask(self) -> bool:
        """True if no further request is needed: a sibling replied, or there is none."""
        bus = self._bus
        try:
            reply = await bus.request(bus.address(self._subject), b"", timeout=REPLY_TIMEOUT_S, lenient=True)
        except NoResponders:
            return True
        except MeshError as error:
            _log.debug("no reply to the request for claim times: %s", error)
            return False
        sibling = messages.decode_sibling(reply.payload, bus.service)
        if sibling is None:
            return False
        if self.times.adopt(sibling) and self._asking is not None:
            self._adopted()
        return True

    async def _answer_others(self) -> None:
        """Answer from now on, and not earlier: an instance that does not know the times yet would spread its own."""
        self._subscription = await self._bus.subscribe(self._subject, self._asked, queue=QUEUE)

    def _asked(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        bus = self._bus
        if not reply or not bus.subjects.may_reply(reply):
            return
        try:
            bus.reply(reply, messages.encode(self._current()), b"")
        except MeshError as error:  # the sibling asks another one
            _log.debug("the request for claim times got no reply: %s", error)
