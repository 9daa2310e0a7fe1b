"""Databases for the services: every test that takes ``database_url`` runs on SQLite and on PostgreSQL."""

import itertools

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from services.chat.models import SCHEMA as CHAT
from services.database import Database
from services.jokes.models import SCHEMA as JOKES
from services.schema import upgrade
from services.urls import parse_url
from services.users.models import SCHEMA as USERS
from services.wallet.models import SCHEMA as WALLET
from tests.services.postgres import INSTALLED, Cluster

SCHEMAS = (USERS, WALLET, JOKES, CHAT)
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres():
    """A server for the whole session."""
    if not INSTALLED:
        pytest.skip("PostgreSQL is not installed")
    cluster = Cluster(INSTALLED[-1])
    yield cluster
    cluster.close()


@pytest.fixture
async def postgres_url(postgres):
    """An empty database."""
    name = f"test_{next(_numbers)}"
    engine = create_async_engine(parse_url(postgres.url()), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return postgres.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def environment(monkeypatch, database_url):
    """The environment in which a service finds that database; PostgreSQL is migrated, as an operator would."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with Database(parse_url(database_url)) as database:
        if not database.is_sqlite:
            for schema in SCHEMAS:
                await upgrade(database, schema)
