"""Keeps accounts. The unique index decides who gets a name, also when two ask at the same moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET
from sqlalchemy import RowMapping, delete, select, update
from sqlalchemy.exc import IntegrityError

from mesh import Conflict, NotFound
from services.database import Database, insert_new
from services.users.api import Change, NewUser, User, UserPage
from services.users.models import name_key, users

_COLUMNS = (users.c.id, users.c.name, users.c.about, users.c.created_at)


class Users:
    """The accounts in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewUser) -> User:
        """Raises `Conflict` for a taken name."""
        values = {
            "name": new.name,
            "name_key": name_key(new.name),
            "about": new.about,
            "created_at": datetime.now(UTC),
        }
        async with self._database.writing() as connection:
            added = await connection.execute(insert_new(connection, users).values(values).returning(*_COLUMNS))
            row = added.mappings().first()
        if row is None:
            raise _taken(new.name)
        return _user(row)

    async def get(self, user_id: int) -> User:
        """Raises `NotFound`."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(*_COLUMNS).where(users.c.id == user_id))
            row = found.mappings().first()
        if row is None:
            raise _missing(user_id)
        return _user(row)

    async def find(self, name: str, limit: int, after: int) -> UserPage:
        """Users whose names begin with ``name``, in the order of their numbers, those above ``after``."""
        query = select(*_COLUMNS).where(users.c.id > after).order_by(users.c.id).limit(limit + 1)
        if name:
            query = query.where(users.c.name_key.startswith(name_key(name), autoescape=True))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        page = [_user(row) for row in rows[:limit]]
        return UserPage(page, page[-1].id if len(rows) > limit else None)

    async def change(self, user_id: int, change: Change) -> User:
        """Raises `NotFound`, `Conflict` for a taken name."""
        values: dict[str, Any] = {}
        if change.name is not UNSET:
            values.update(name=change.name, name_key=name_key(change.name))
        if change.about is not UNSET:
            values["about"] = change.about
        if not values:
            return await self.get(user_id)
        statement = update(users).where(users.c.id == user_id).values(values).returning(*_COLUMNS)
        try:
            async with self._database.writing() as connection:
                row = (await connection.execute(statement)).mappings().first()
        except IntegrityError as error:
            raise _taken(values["name"]) from error
        if row is None:
            raise _missing(user_id)
        return _user(row)

    async def remove(self, user_id: int) -> None:
        """Raises `NotFound`."""
        async with self._database.writing() as connection:
            removed = await connection.execute(delete(users).where(users.c.id == user_id))
        if not removed.rowcount:
            raise _missing(user_id)


def _user(row: RowMapping) -> User:
    return User(id=row["id"], name=row["name"], about=row["about"], created_at=row["created_at"])


def _missing(user_id: int) -> NotFound:
    return NotFound(f"there is no user {user_id}", reason="no_such_user")


def _taken(name: str) -> Conflict:
    return Conflict(f"the name {name!r} is taken", reason="name_taken")
