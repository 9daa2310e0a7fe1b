"""Since when a service claims its routes: asked of a sibling at the start, told to the siblings that come later.

Of two services that announce one route, the one with the earlier claim keeps it. A claim is the service's, not an
instance's: a new instance takes over the moments of one that lives, so that a claim lasts through rolling restarts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from mesh import messages
from mesh.bus import Bus, Subscription
from mesh.errors import MeshError, NoResponders
from mesh.messages import Announcement, Route
from mesh.routes import BadTemplate, parse_template
from mesh.subjects import QUEUE
from mesh.tasks import keep

ASK_S = 0.25
"""How long one sibling may take for its answer: it may stand still."""
ASK_AGAIN_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses before each further question to siblings that did not answer."""

_log = logging.getLogger("mesh.claims")


class Moments:
    """Since when each route is claimed, in Unix milliseconds; two templates of one shape are one route.

    ``announced`` has one moment for all routes, or one for each.
    """

    def __init__(self) -> None:
        self.announced: tuple[int, ...] = ()
        self._since: dict[object, int] = {}
        self._routes: list[object] = []

    def claim(self, routes: tuple[Route, ...], now: int) -> None:
        """These are the routes from ``now`` on: those that were there before keep their moments."""
        self._routes = [_identity(route) for route in routes]
        self._since = {route: self._since.get(route, now) for route in self._routes}
        self._changed()

    def adopt(self, sibling: Announcement) -> bool:
        """Take over the earlier moments of a sibling; whether there was one."""
        before, claimed = self.announced, sibling.claimed
        for place, route in enumerate(map(_identity, sibling.routes) if claimed else ()):
            if route in self._since:
                self._since[route] = min(self._since[route], claimed[place if len(claimed) > 1 else 0])
        self._changed()
        return self.announced != before

    def _changed(self) -> None:
        moments = tuple(self._since[route] for route in self._routes)
        self.announced = moments[:1] if len(set(moments)) == 1 else moments


def _identity(route: Route) -> object:
    try:
        return parse_template(route.path).shape, route.method
    except BadTemplate:  # serves nothing, and is rejected by name
        return route.path, route.method


def now_ms() -> int:
    """The wall clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Claims:
    """Asks the siblings of the instance of ``bus``, then answers them.

    ``current`` is the instance's announcement as it is now; ``adopted`` is called when an answer that came late brought
    earlier moments.
    """

    def __init__(self, bus: Bus, current: Callable[[], Announcement], adopted: Callable[[], None]) -> None:
        self.moments = Moments()
        self._bus = bus
        self._current = current
        self._adopted = adopted
        self._subject = bus.subjects.claims(bus.service)
        self._subscription: Subscription | None = None
        self._asking: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    async def start(self) -> None:
        """Ask a sibling, for a moment; whoever does not answer is asked again later. Needs no connection yet."""
        if self._bus.connected and await self._ask():
            await self._answer()
        else:
            self._bus.on_connection(lambda there: self._connected.set() if there else self._connected.clear())
            if self._bus.connected:
                self._connected.set()
            self._asking = keep(self._ask_later, "claims")

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def _ask_later(self) -> None:
        for pause in ASK_AGAIN_S:
            await asyncio.sleep(pause)
            await self._connected.wait()
            if await self._ask():
                break
        else:
            _log.info("no other instance of %s told since when its routes are claimed", self._bus.service)
        await self._answer()

    async def _ask(self) -> bool:
        """Whether it is settled: a sibling answered, or there is none."""
        bus = self._bus
        try:
            reply = await bus.request(bus.address(self._subject), b"", timeout=ASK_S, lenient=True)
        except NoResponders:
            return True
        except MeshError as error:
            _log.debug("not told since when the routes are claimed: %s", error)
            return False
        sibling = messages.decode_sibling(reply.payload, bus.service)
        if sibling is None:
            return False
        if self.moments.adopt(sibling) and self._asking is not None:
            self._adopted()
        return True

    async def _answer(self) -> None:
        """Answer from now on. Not before: who does not know the moments yet would spread its own."""
        self._subscription = await self._bus.subscribe(self._subject, self._asked, queue=QUEUE)

    def _asked(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        bus = self._bus
        if not reply or not bus.subjects.may_reply(reply):
            return
        try:
            bus.reply(reply, messages.encode(self._current()), b"")
        except MeshError as error:  # the sibling asks another one
            _log.debug("not told since when the routes are claimed: %s", error)
