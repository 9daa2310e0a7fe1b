"""The tables of `users`."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from sqlalchemy import Column, Index, MetaData, Table, Text

from services.database import BigKey, Moment
from services.schema import Schema

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("name", Text, nullable=False),
    Column("name_key", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    # A number is never given twice: other services keep things under it for longer than the account lives.
    sqlite_autoincrement=True,
)
Index("users_name_key", users.c.name_key, unique=True)

SCHEMA = Schema("users", metadata, Path(__file__).parent / "migrations")


def name_key(name: str) -> str:
    """What is equal for names that people would take for the same: ``Ada``, ``ADA``."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
