"""Who is in which room at this instance. The same room has members at other instances, so what is said goes through
an event that every instance hears."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from mesh import WebSocket
from services.chat.api import Message, RoomEvent

WAITING = 100
"""Events that a member may be behind; who reads more slowly is sent away, and may come back for what it missed."""
TRY_AGAIN = 1013
"""Close code of a member that is sent away (RFC 6455 registry: try again later)."""


class Member:
    """One connection in a room, with what it has still to be sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.too_slow = False
        self._events: asyncio.Queue[RoomEvent | None] = asyncio.Queue(WAITING + 1)

    def hear(self, event: RoomEvent) -> None:
        """Take what happened in the room."""
        if self._events.qsize() < WAITING:
            self._events.put_nowait(event)
        elif not self.too_slow:
            self.too_slow = True
            self._events.put_nowait(None)

    async def deliver(self, ws: WebSocket, history: list[Message]) -> None:
        """Send what was said before, then what happens, until the connection ends or reads too slowly."""
        sent = {message.id for message in history}
        for message in history:
            await ws.send(message)
        while (event := await self._events.get()) is not None:
            if not (isinstance(event, Message) and event.id in sent):
                await ws.send(event)
        await ws.close(TRY_AGAIN, "you read too slowly; come back with ?after=<the last id>")


class Rooms:
    """The rooms of one instance; one without members takes no memory."""

    def __init__(self) -> None:
        self._members: dict[str, set[Member]] = defaultdict(set)

    def members(self, room: str) -> list[str]:
        """Their names."""
        return sorted(member.name for member in self._members.get(room, ()))

    @contextmanager
    def member(self, room: str, name: str) -> Iterator[Member]:
        """Somebody is in the room for as long as the context lasts."""
        member = Member(name)
        self._members[room].add(member)
        try:
            yield member
        finally:
            self._members[room].discard(member)
            if not self._members[room]:
                del self._members[room]

    def happened(self, event: RoomEvent) -> None:
        """Tell the members who are here."""
        for member in self._members.get(event.room, ()):
            member.hear(event)
