"""Keeps jokes."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import RowMapping, func, select

from mesh import NotFound
from services.database import Database
from services.jokes.models import jokes


class Joke(Struct):
    id: int
    text: str
    category: str


class Category(Struct):
    name: str
    jokes: int


class Jokes:
    """The jokes in one database; an empty category means any."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, category: str, limit: int) -> list[Joke]:
        """The newest first."""
        query = select(jokes).order_by(jokes.c.id.desc()).limit(limit)
        if category:
            query = query.where(jokes.c.category == category)
        async with self._database.reading() as connection:
            return [_joke(row) for row in (await connection.execute(query)).mappings()]

    async def any(self, category: str) -> Joke:
        """Raises `NotFound` where there is none."""
        query = select(jokes).order_by(func.random()).limit(1)
        if category:
            query = query.where(jokes.c.category == category)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound(f"there is no joke about {category}" if category else "there is no joke")
        return _joke(row)

    async def get(self, joke_id: int) -> Joke:
        """Raises `NotFound`."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(jokes).where(jokes.c.id == joke_id))).mappings().first()
        if row is None:
            raise NotFound(f"there is no joke {joke_id}")
        return _joke(row)

    async def add(self, text: str, category: str) -> Joke:
        """Add one, also if it is known already."""
        async with self._database.writing() as connection:
            statement = jokes.insert().values(text=text, category=category).returning(jokes)
            return _joke((await connection.execute(statement)).mappings().one())

    async def categories(self) -> list[Category]:
        """Every category with the number of its jokes, by name."""
        query = select(jokes.c.category, func.count()).group_by(jokes.c.category).order_by(jokes.c.category)
        async with self._database.reading() as connection:
            return [Category(name, number) for name, number in await connection.execute(query)]


def _joke(row: RowMapping) -> Joke:
    return Joke(id=row["id"], text=row["text"], category=row["category"])
