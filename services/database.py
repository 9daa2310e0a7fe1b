"""One service instance's connections to its database: SQLite or PostgreSQL, read and write transactions.

A write transaction on SQLite starts with BEGIN IMMEDIATE: it has the write lock from its first statement on, so that
what it read is still true when it writes. On PostgreSQL, row locks and constraints give the same; stores are written
for READ COMMITTED there.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, BigInteger, DateTime, Dialect, Integer, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.types import TypeDecorator

from mesh.errors import ConfigError, Executed, Unavailable

_log = logging.getLogger("services.database")

BUSY_MS = 5000
"""How long a writer waits for another process's write lock on SQLite: less than a call's default deadline."""
WAIT_S = 5.0
"""How long to wait for a free connection of the pool, and for a new one to PostgreSQL."""
_PASSING = ("08", "40", "53", "57")
"""SQLSTATE classes that pass by themselves: connection, rollback (deadlock), resources, operator."""

BigKey = BigInteger().with_variant(Integer, "sqlite")
"""A primary key that counts up by itself; SQLite counts INTEGER columns only."""


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite itself would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back the zone that SQLite has lost."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Database:
    """An engine, opened and closed with ``async with``.

    `reading` and `writing` are transactions; never open one inside another. A database that is away or busy for too
    long shows as `Unavailable` (503) with reason ``database_unavailable``.
    """

    def __init__(self, url: URL, pool_size: int = 5) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and url.database in (None, "", ":memory:")
        self.engine: AsyncEngine
        if self.is_sqlite:
            self.engine = create_async_engine(
                url,
                poolclass=AsyncAdaptedQueuePool,
                pool_size=1 if self.in_memory else pool_size,  # what is in memory lives in its one connection
                max_overflow=0,
                pool_timeout=WAIT_S,
                connect_args={"timeout": BUSY_MS / 1000},
            )
            event.listen(self.engine.sync_engine, "connect", _connected)
            event.listen(self.engine.sync_engine, "begin", _begin)
        else:
            self.engine = create_async_engine(
                url,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=WAIT_S,
                pool_pre_ping=True,
                connect_args={"timeout": WAIT_S},
            )
        # Writers of this process queue here, in order, and not in SQLite's lock, which is unfair.
        self._turn: AbstractAsyncContextManager[Any] = asyncio.Lock() if self.is_sqlite else nullcontext()

    async def __aenter__(self) -> Self:
        try:
            if self.is_sqlite and not self.in_memory:
                folder = Path(self.engine.url.database or "").parent
                if not folder.is_dir():
                    raise ConfigError([f"DATABASE_URL: there is no folder {str(folder)!r}"])
                await self._use_wal()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; may be called twice."""
        await self.engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads. Raises `Unavailable`."""
        try:
            async with self.engine.connect() as connection, connection.begin():
                yield connection
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise _translated(error, "no") from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed at the end of the block, rolled back by an exception.

        Raises `Unavailable`.
        """
        executed: Executed = "no"
        try:
            async with self._turn, self.engine.connect() as connection:
                await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                async with connection.begin():
                    yield connection
                    executed = "unknown"  # from here on the commit may have happened
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise _translated(error, executed) from error

    async def _use_wal(self) -> None:
        """Let readers and one writer work side by side. The file remembers it."""
        async with self.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 0):
                try:
                    await (await driver.execute("PRAGMA journal_mode=WAL")).close()
                    return
                except sqlite3.OperationalError:
                    # Changing the mode does not wait for locks: another instance is just starting on the same file.
                    if not pause:
                        raise
                    await asyncio.sleep(pause)


def insert_new(connection: AsyncConnection, table: Table) -> Any:
    """An INSERT that does nothing where a row with the same key exists; add ``returning`` to see which it was."""
    module = sqlite if connection.dialect.name == "sqlite" else postgresql
    return module.insert(table).on_conflict_do_nothing()


def _connected(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver leaves BEGIN to us
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Any) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _translated(error: Exception, executed: Executed) -> Exception:
    """`Unavailable` for what may be better in a moment; anything else is a mistake in our code and stays."""
    if isinstance(error, DBAPIError) and not isinstance(error, OperationalError):
        state = getattr(error.orig, "sqlstate", None) or ""
        if not error.connection_invalidated and not state.startswith(_PASSING):
            return error
    _log.warning("the database is not available: %s", getattr(error, "orig", None) or error)
    away = Unavailable("the database does not answer", reason="database_unavailable", executed=executed)
    away.origin = "service"
    return away
