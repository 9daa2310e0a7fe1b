"""The tables of `wallet`.

``wallet_entries`` is the truth and is only ever added to (triggers see to it); ``wallet_accounts.balance`` is its sum
per user, changed in the same transaction.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, ForeignKey, Index, MetaData, Table, Text

from services.database import BigKey, Moment
from services.schema import Schema

MAX = 2**53 - 1
"""The largest amount and balance: the largest whole number that every JSON reader keeps exact."""

metadata = MetaData()

accounts = Table(
    "wallet_accounts",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("balance", BigInteger, nullable=False),
    CheckConstraint(f"balance >= 0 AND balance <= {MAX}", name="wallet_accounts_balance"),
)
entries = Table(
    "wallet_entries",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("user_id", BigInteger, ForeignKey("wallet_accounts.user_id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("peer", BigInteger),
    Column("at", Moment, nullable=False),
    CheckConstraint("amount <> 0", name="wallet_entries_amount"),
    sqlite_autoincrement=True,
)
Index("wallet_entries_user", entries.c.user_id, entries.c.id)
requests = Table(
    "wallet_requests",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("entry_id", BigInteger, ForeignKey("wallet_entries.id")),
)
claims = Table(
    "wallet_claims",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("day", Date, primary_key=True),
)

SCHEMA = Schema("wallet", metadata, Path(__file__).parent / "migrations")
