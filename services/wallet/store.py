"""The ledger. Every change of a balance and its entry are one transaction.

Locks are taken in one order, so that no two transactions wait for each other: the idempotency key, the day's claim,
then accounts by number. A balance changes by one conditional UPDATE: it locks the row and sees what others have
committed, so that it can neither overdraw nor lose a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import RowMapping, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import Conflict, Invalid
from services.database import Database, insert_new
from services.wallet.api import Audit, Balance, Entry, History
from services.wallet.models import MAX, accounts, claims, entries, requests


class Posting(NamedTuple):
    """One change that is wanted: ``amount`` is negative for what goes out."""

    user_id: int
    amount: int
    kind: str
    note: str = ""
    peer: int | None = None


class Ledger:
    """The wallets in one database. ``now`` is the clock."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    async def credit(self, user_id: int, amount: int, note: str = "", key: str = "") -> Entry:
        """Put money in. Raises `Conflict` above the largest balance, `Invalid` for a key used otherwise."""
        return await self._post([Posting(user_id, amount, "credit", note)], key)

    async def debit(self, user_id: int, amount: int, note: str = "", key: str = "") -> Entry:
        """Take money out. Raises `Conflict` (``insufficient_funds``), `Invalid` for a key used otherwise."""
        return await self._post([Posting(user_id, -amount, "debit", note)], key)

    async def transfer(self, from_user: int, to_user: int, amount: int, note: str = "", key: str = "") -> Entry:
        """Move money; gives the sender's entry. Raises as `debit` and `credit` do."""
        if from_user == to_user:
            raise Invalid("a transfer needs two users", reason="same_user")
        sent = Posting(from_user, -amount, "transfer", note, to_user)
        return await self._post([sent, Posting(to_user, amount, "transfer", note, from_user)], key)

    async def claim(self, user_id: int, amount: int) -> Entry:
        """The daily amount. Raises `Conflict` (``already_claimed``) but the first time in a UTC day."""
        now = self._now()
        async with self._database.writing() as connection:
            claim = insert_new(connection, claims).values(user_id=user_id, day=now.date()).returning(claims.c.day)
            if (await connection.execute(claim)).first() is None:
                tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
                raise Conflict("claimed already today", reason="already_claimed", next=tomorrow.isoformat())
            (entry,) = await self._apply(connection, [Posting(user_id, amount, "daily")], now)
        return entry

    async def balance(self, user_id: int) -> Balance:
        """What a user has; 0 for one without entries."""
        async with self._database.reading() as connection:
            found = await connection.scalar(select(accounts.c.balance).where(accounts.c.user_id == user_id))
        return Balance(user_id, found or 0)

    async def has_account(self, user_id: int) -> bool:
        """Whether the user has had an entry."""
        async with self._database.reading() as connection:
            query = select(accounts.c.user_id).where(accounts.c.user_id == user_id)
            return (await connection.execute(query)).first() is not None

    async def history(self, user_id: int, limit: int, before: int = MAX) -> History:
        """The newest entries below number ``before``."""
        query = (
            select(entries)
            .where(entries.c.user_id == user_id, entries.c.id < before)
            .order_by(entries.c.id.desc())
            .limit(limit + 1)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        page = [_entry(row) for row in rows[:limit]]
        return History(page, page[-1].id if len(rows) > limit else None)

    async def audit(self) -> Audit:
        """Add the whole ledger up and compare."""
        total = func.coalesce(func.sum(entries.c.amount), 0)
        query = (
            select(accounts.c.user_id, accounts.c.balance, total.label("total"))
            .outerjoin(entries, entries.c.user_id == accounts.c.user_id)
            .group_by(accounts.c.user_id, accounts.c.balance)
            .order_by(accounts.c.user_id)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return Audit(len(rows), int(sum(r.total for r in rows)), [r.user_id for r in rows if r.balance != r.total])

    # -- steps of a transaction

    async def _post(self, postings: list[Posting], key: str) -> Entry:
        """Apply all postings or none; the first one's entry. A ``key`` that was used for the same gives its entry."""
        owner = postings[0].user_id
        fingerprint = hashlib.sha256(msgspec.json.encode(postings)).hexdigest()
        async with self._database.writing() as connection:
            if key:
                known = await self._reserve(connection, owner, key, fingerprint)
                if known is not None:
                    return known
            first, *_ = await self._apply(connection, postings, self._now())
            if key:
                mine = (requests.c.user_id == owner) & (requests.c.key == key)
                await connection.execute(update(requests).where(mine).values(entry_id=first.id))
        return first

    async def _reserve(self, connection: AsyncConnection, owner: int, key: str, fingerprint: str) -> Entry | None:
        """Take the key, or give the entry it stands for. Who asks while another uses it waits for his end.

        A request that is refused leaves nothing behind, its key neither: it may be tried again.
        """
        values = {"user_id": owner, "key": key, "fingerprint": fingerprint}
        taken = await connection.execute(insert_new(connection, requests).values(values).returning(requests.c.key))
        if taken.first() is not None:
            return None
        mine = (requests.c.user_id == owner) & (requests.c.key == key)
        query = select(requests.c.fingerprint, entries).join(entries, entries.c.id == requests.c.entry_id).where(mine)
        row = (await connection.execute(query)).mappings().one()
        if row["fingerprint"] != fingerprint:
            raise Invalid("this Idempotency-Key was used for another request", reason="idempotency_key_reused")
        return _entry(row)

    async def _apply(self, connection: AsyncConnection, postings: list[Posting], now: datetime) -> list[Entry]:
        """Change balances, in the order of users, and write the entries; given back in the order of ``postings``."""
        written: dict[int, Entry] = {}
        for posting in sorted(postings):
            if posting.amount > 0:
                new = insert_new(connection, accounts).values(user_id=posting.user_id, balance=0)
                await connection.execute(new)
            balance = await self._change(connection, posting)
            values: dict[str, Any] = {**posting._asdict(), "balance": balance, "at": now}
            added = await connection.execute(entries.insert().values(values).returning(entries))
            written[posting.user_id] = _entry(added.mappings().one())
        return [written[posting.user_id] for posting in postings]

    async def _change(self, connection: AsyncConnection, posting: Posting) -> int:
        wanted = accounts.c.balance + posting.amount
        statement = (
            update(accounts)
            .where(accounts.c.user_id == posting.user_id, wanted >= 0, wanted <= MAX)
            .values(balance=wanted)
            .returning(accounts.c.balance)
        )
        balance: int | None = await connection.scalar(statement)
        if balance is None and posting.amount < 0:
            raise Conflict(f"user {posting.user_id} has less than {-posting.amount}", reason="insufficient_funds")
        if balance is None:
            raise Conflict(f"user {posting.user_id} would have more than {MAX}", reason="balance_limit")
        return balance


def _entry(row: RowMapping) -> Entry:
    return Entry(**{name: row[name] for name in Entry.__struct_fields__})
