"""Fixtures for pytest. Write ``pytest_plugins = ["mesh.testing.fixtures"]`` in a ``conftest.py``.

``nats_url``
    The URL of a NATS server with JetStream for the whole session, which no test disturbs. A process that stands still,
    at a breakpoint or on a busy machine, keeps its connection for ten minutes.
``prefix``
    A mesh prefix for this test alone on that server.
``nats``
    A NATS server for this test alone, to be killed, paused and restarted.
``mesh``
    A gateway on ``nats_url`` in the test's process. ``await mesh.start(service)`` adds an instance, ``mesh.http`` is a
    client of the gateway.
``client``
    A `MeshClient` of that mesh.
``clock``
    The event loop's clock, paused: see `PausedClock`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from mesh.client import MeshClient
from mesh.embedded import NatsServer
from mesh.testing.clock import PausedClock
from mesh.testing.mesh import FROZEN_S, Mesh

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    server = NatsServer(ping_max=FROZEN_S)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.aclose())


@pytest.fixture
def prefix() -> str:
    return f"t{next(_prefixes)}"


@pytest_asyncio.fixture
async def nats() -> AsyncIterator[NatsServer]:
    async with NatsServer() as server:
        yield server


@pytest_asyncio.fixture
async def mesh(nats_url: str, prefix: str) -> AsyncIterator[Mesh]:
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest_asyncio.fixture
async def client(mesh: Mesh) -> AsyncIterator[MeshClient]:
    async with MeshClient(mesh.bus_settings) as client:
        yield client


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[PausedClock]:
    with PausedClock() as clock:
        yield clock
