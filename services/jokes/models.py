"""The table of `jokes`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Index, MetaData, Table, Text

from services.database import BigKey
from services.schema import Schema

metadata = MetaData()

jokes = Table(
    "jokes",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("text", Text, nullable=False),
    Column("category", Text, nullable=False),
)
Index("jokes_category", jokes.c.category, jokes.c.id)

SCHEMA = Schema("jokes", metadata, Path(__file__).parent / "migrations")
