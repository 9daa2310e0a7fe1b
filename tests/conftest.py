"""Real servers for all tests: one NATS server for the session, a mesh prefix of its own for each test."""

import asyncio
import itertools

import pytest

from mesh.embedded import NatsServer

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def nats_url():
    """A NATS server that no test disturbs; tests that break one start their own."""
    server = NatsServer()
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.aclose())


@pytest.fixture
def prefix():
    """A mesh of its own on the shared server."""
    return f"t{next(_prefixes)}"


@pytest.fixture
async def nats():
    """A NATS server of this test's own, to be killed, paused and restarted."""
    async with NatsServer() as server:
        yield server
