"""What the services share: URLs, settings, transactions and migrations."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import services
from mesh import ConfigError, Unavailable
from mesh.settings_reader import documentation
from services.chat import config as chat_config
from services.chat import models as chat
from services.database import Database
from services.jokes import config as jokes_config
from services.jokes import models as jokes
from services.jokes.service import open_jokes
from services.jokes.store import Jokes
from services.schema import status, upgrade
from services.urls import parse_url
from services.users import config as users_config
from services.users import models as users
from services.wallet import config as wallet_config
from services.wallet import models as wallet

SCHEMAS = (users.SCHEMA, wallet.SCHEMA, jokes.SCHEMA, chat.SCHEMA)
ROOT = Path(services.__file__).parent


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite://", "sqlite+aiosqlite://"),
        ("sqlite:///a/b.db", "sqlite+aiosqlite:///a/b.db"),
        ("postgres://u:p@h:5433/d", "postgresql+asyncpg://u:p@h:5433/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_urls(given, meant):
    assert parse_url(given).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize("wrong", ["", "users.db", "mysql://h/d", "postgresql://h", "postgresql://h/d?options=x", 5])
def test_what_is_no_url(wrong):
    with pytest.raises(ValueError, match=r"URL|options|named"):
        parse_url(wrong)


def test_every_mistake_is_named_and_no_password_shown():
    environ = {"DATABASE_URL": "mysql://root:hunter2@h/d", "DATABASE_POOL_SIZE": "0", "WALLET_DAILY_AMOUNT": "many"}
    with pytest.raises(ConfigError) as caught:
        wallet_config.load_settings({**environ, "MESH_WINDOW_MS": "50"})
    assert len(caught.value.problems) == 3
    assert "hunter2" not in str(caught.value)
    settings = wallet_config.load_settings({"DATABASE_URL": "postgres://root:hunter2@h/d"})
    assert "hunter2" not in repr(settings)
    assert settings.database_url.endswith("hunter2@h/d")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("users", users_config.UsersSettings),
        ("wallet", wallet_config.WalletSettings),
        ("jokes", jokes_config.JokesSettings),
        ("chat", chat_config.ChatSettings),
    ],
)
def test_every_setting_is_in_the_example_with_its_default(name, settings):
    example = (ROOT / name / ".env.example").read_text()
    assert set(re.findall(r"^#?([A-Z_]+)=", example, re.M)) == {v for d in documentation([settings]) for v in d.env}
    given = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", example, re.M))
    module = sys.modules[settings.__module__]
    assert module.load_settings(given) == module.load_settings({})


async def test_services_share_a_database(database_url):
    async with Database(parse_url(database_url)) as database:
        for schema in SCHEMAS:
            assert (await status(database, schema)).behind
            await upgrade(database, schema)
            assert not (await status(database, schema)).behind
        async with database.reading() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert {s.version_table for s in SCHEMAS} <= set(tables)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.service)
async def test_migrations_make_what_the_code_declares(database_url, schema):
    def differences(connection):
        options = {"version_table": schema.version_table, "compare_type": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata)

    async with Database(parse_url(database_url)) as database:
        await upgrade(database, schema)
        async with database.reading() as connection:
            assert await connection.run_sync(differences) == []


async def test_instances_that_start_together_migrate_once(database_url):
    async with Database(parse_url(database_url)) as one, Database(parse_url(database_url)) as two:
        await asyncio.gather(*(upgrade(database, jokes.SCHEMA) for database in (one, two) for _ in range(3)))
        async with one.reading() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM jokes_migrations")) == 1


@pytest.mark.parametrize(
    ("database_url", "schema"),
    [("sqlite", users.SCHEMA), ("sqlite", jokes.SCHEMA), ("postgresql", wallet.SCHEMA), ("postgresql", chat.SCHEMA)],
    indirect=["database_url"],
    ids=lambda value: value if isinstance(value, str) else value.service,
)
async def test_processes_that_migrate_together(database_url, schema, tmp_path):
    async def migrate(*arguments):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"services.{schema.service}.migrate", *arguments),
            env={**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT.parent)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await child.communicate()
        return child.returncode, out.decode()

    assert (await migrate("--check"))[0] == 1
    done = await asyncio.gather(migrate(), migrate())
    assert [code for code, _ in done] == [0, 0], done
    assert (await migrate("--check"))[0] == 0


async def test_a_database_of_a_newer_version_is_served(database_url):
    async with Database(parse_url(database_url)) as database:
        await upgrade(database, jokes.SCHEMA)
        async with database.writing() as connection:
            await connection.execute(text("UPDATE jokes_migrations SET version_num = 'jokes_9999'"))
        assert not (await status(database, jokes.SCHEMA)).behind


async def test_postgresql_is_not_migrated_by_a_start(postgres_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    with pytest.raises(ConfigError, match=r"run python -m services\.jokes\.migrate"):
        await anext(open_jokes())


async def test_a_database_that_is_away_is_unavailable(tmp_path):
    async with Database(parse_url(f"postgresql://h/d?host={tmp_path}")) as database:
        with pytest.raises(Unavailable) as caught:
            await upgrade(database, jokes.SCHEMA)
    assert (caught.value.reason, caught.value.executed) == ("database_unavailable", "no")


async def test_a_file_that_another_process_keeps_locked_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr("services.database.BUSY_MS", 50)
    url = parse_url(f"sqlite:///{tmp_path / 'test.db'}")
    async with Database(url) as database, Database(url) as other:
        await upgrade(database, jokes.SCHEMA)
        async with other.writing():
            async with database.reading() as connection:  # readers do not wait for writers
                assert await connection.scalar(text("SELECT count(*) FROM jokes")) > 0
            with pytest.raises(Unavailable) as caught:
                await Jokes(database).add("too late", "time")
    assert (caught.value.reason, caught.value.executed) == ("database_unavailable", "no")


async def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        await Database(parse_url(f"sqlite:///{tmp_path / 'no' / 'such.db'}")).__aenter__()


async def test_what_a_writer_on_sqlite_has_read_is_still_true_when_it_writes(tmp_path):
    url = parse_url(f"sqlite:///{tmp_path / 'test.db'}")

    async def count_up(database):
        async with database.writing() as connection:
            value = await connection.scalar(text("SELECT value FROM counter"))
            await asyncio.sleep(0)
            await connection.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})

    async with Database(url) as one, Database(url) as two:
        async with one.writing() as connection:
            await connection.execute(text("CREATE TABLE counter (value INTEGER)"))
            await connection.execute(text("INSERT INTO counter VALUES (0)"))
        await asyncio.gather(*(count_up(database) for database in (one, two) for _ in range(10)))
        async with two.reading() as connection:
            assert await connection.scalar(text("SELECT value FROM counter")) == 20


async def test_what_raises_is_rolled_back(database_url):
    async with Database(parse_url(database_url)) as database:
        await upgrade(database, jokes.SCHEMA)
        try:
            async with database.writing() as connection:
                await connection.execute(text("DELETE FROM jokes"))
                raise RuntimeError
        except RuntimeError:
            pass
        async with database.reading() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM jokes")) > 0


async def test_a_connection_that_was_cut_is_replaced(postgres_url):
    async with Database(parse_url(postgres_url), 1) as database:
        async with database.reading() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        async with Database(parse_url(postgres_url), 1) as other, other.reading() as connection:
            assert await connection.scalar(text(f"SELECT pg_terminate_backend({pid}, 5000)"))  # waits for its end
        async with database.reading() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != pid
