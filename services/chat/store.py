"""Keeps what is said in rooms."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import RowMapping, select

from services.chat.api import Message
from services.chat.models import messages
from services.database import Database


class Messages:
    """The messages in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, room: str, author: str, text: str) -> Message:
        """Keep one; returns it with its number and time."""
        row = {"room": room, "author": author, "text": text, "at": datetime.now(UTC)}
        async with self._database.writing() as connection:
            statement = messages.insert().values(row).returning(messages)
            return _message((await connection.execute(statement)).mappings().one())

    async def newest(self, room: str, limit: int) -> list[Message]:
        """The last ``limit`` of a room, the oldest first."""
        query = select(messages).where(messages.c.room == room).order_by(messages.c.id.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [_message(row) for row in (await connection.execute(query)).mappings()][::-1]

    async def since(self, room: str, after: int, limit: int) -> list[Message]:
        """The first ``limit`` of a room after that number."""
        query = select(messages).where(messages.c.room == room, messages.c.id > after)
        async with self._database.reading() as connection:
            rows = await connection.execute(query.order_by(messages.c.id).limit(limit))
            return [_message(row) for row in rows.mappings()]


def _message(row: RowMapping) -> Message:
    return Message(row["id"], row["room"], row["author"], row["text"], row["at"])
