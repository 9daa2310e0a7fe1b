"""The table of `chat`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Index, MetaData, Table, Text

from services.database import BigKey, Moment
from services.schema import Schema

metadata = MetaData()

messages = Table(
    "chat_messages",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("room", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", Moment, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice, since clients ask for what came after one
)
Index("chat_messages_room", messages.c.room, messages.c.id)

SCHEMA = Schema("chat", metadata, Path(__file__).parent / "migrations")
