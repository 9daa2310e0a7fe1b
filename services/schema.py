"""Migrations of one service's tables, with a version table of its own: services may share a database."""

from __future__ import annotations

import argparse
import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text

from mesh.errors import ConfigError, MeshError
from services.database import Database
from services.settings import DatabaseSettings
from services.urls import parse_url

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""alembic keeps the running migration in module globals, so an event loop runs one at a time."""


class Schema(NamedTuple):
    """A service's tables, and the folder of the migrations that make them."""

    service: str
    metadata: MetaData
    folder: Path

    @property
    def version_table(self) -> str:
        return f"{self.service}_migrations"

    @property
    def config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        return config


class Status(NamedTuple):
    """Where a database stands: the revision it has, and whether migrations are missing."""

    current: str | None
    head: str | None
    behind: bool


@asynccontextmanager
async def opened(settings: DatabaseSettings, schema: Schema) -> AsyncIterator[Database]:
    """The database, ready for the service: SQLite is migrated here and now, any other must have been.

    Raises `ConfigError` where migrations are missing, `Unavailable` where the database is away.
    """
    async with Database(parse_url(settings.database_url), settings.pool_size) as database:
        if database.is_sqlite:
            await upgrade(database, schema)
        elif (await status(database, schema)).behind:
            command_line = f"python -m services.{schema.service}.migrate"
            raise ConfigError([f"the database lacks migrations of {schema.service}; run {command_line}"])
        yield database


async def upgrade(database: Database, schema: Schema, revision: str = "head") -> None:
    """Bring the tables to ``revision``, in one transaction; instances that start together wait for each other."""
    loop = asyncio.get_running_loop()
    async with _turns.setdefault(loop, asyncio.Lock()), database.writing() as connection:
        if not database.is_sqlite:
            key = zlib.crc32(schema.version_table.encode())
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        await connection.run_sync(_upgrade, schema, revision)


async def status(database: Database, schema: Schema) -> Status:
    """What the database has and what the code knows.

    A revision that the code does not know is a newer one: while versions change, the old one keeps running.
    """
    async with database.reading() as connection:
        current = await connection.run_sync(_current, schema)
    script = ScriptDirectory.from_config(schema.config)
    head = script.get_current_head()
    known = {revision.revision for revision in script.walk_revisions()}
    return Status(current, head, current is None or (current != head and current in known))


def run_migrations(schema: Schema) -> None:
    """What a service's ``migrations/env.py`` calls; alembic runs that file."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise SystemExit(f"run: python -m services.{schema.service}.migrate")
    context.configure(connection=connection, target_metadata=schema.metadata, version_table=schema.version_table)
    with context.begin_transaction():
        context.run_migrations()


def main(load: Callable[[], DatabaseSettings], schema: Schema) -> None:
    """``python -m services.<name>.migrate``: exits with 1 when behind (``--check``), 2 for wrong settings."""
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{schema.service}.migrate",
        description=f"Bring the tables of {schema.service} in DATABASE_URL up to date.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when migrations are missing")
    parser.add_argument("--to", default="head", metavar="REVISION", help="stop at this revision (default: the newest)")
    arguments = parser.parse_args()
    try:
        found = asyncio.run(_main(load(), schema, arguments.check, arguments.to))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except MeshError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        raise SystemExit(1) from None
    print(
        f"{schema.service}: {found.current or 'no tables'}{' (behind ' + str(found.head) + ')' if found.behind else ''}"
    )
    raise SystemExit(1 if arguments.check and found.behind else 0)


async def _main(settings: DatabaseSettings, schema: Schema, check: bool, revision: str) -> Status:
    async with Database(parse_url(settings.database_url), settings.pool_size) as database:
        if not check:
            await upgrade(database, schema, revision)
        return await status(database, schema)


def _upgrade(connection: Connection, schema: Schema, revision: str) -> None:
    config = schema.config
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _current(connection: Connection, schema: Schema) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": schema.version_table}).get_current_revision()
