"""What a service logs of each request at level debug, and only there."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import pytest

from mesh import NotFound, Service
from mesh.errors import NoInstances, NoResponders
from tests.conditions import eventually


def shop():
    service = Service("shop")

    @service.get("/items/{key}")
    async def item(key: int) -> int:
        if key > 9:
            raise NotFound("no such item")
        return key

    @service.get("/lines")
    async def lines() -> AsyncIterator[str]:
        yield "a"

    @service.post("/slow", concurrency=1, queue=0)
    async def slow(cancelled: bool = False) -> None:
        await asyncio.sleep(0.3)

    return service


def lines_of(caplog):
    return [re.sub(r"[\d.]+ ms", "T", r.getMessage()) for r in caplog.records if r.name == "mesh.requests"]


async def test_a_line_for_each_request(mesh, client, caplog):
    with caplog.at_level(logging.DEBUG, "mesh.requests"):
        await mesh.start(shop())
        for path in ("/items/3?secret=1", "/items/10", "/items/x", "/lines"):
            await mesh.http.get(path)
        await client.call("shop", "item", key=4)
        await asyncio.gather(mesh.http.post("/slow"), mesh.http.post("/slow"))
        await eventually(lambda: len(lines_of(caplog)) == 7)
    assert lines_of(caplog) == [
        "GET /items/3 200 in T",
        "GET /items/10 404 in T",
        "GET /items/x 422 in T",
        "GET /lines streamed in T",
        "CALL item 200 in T",
        "POST /slow 503 in T",
        "POST /slow 204 in T",
    ]
    assert {r.endpoint for r in caplog.records if r.name == "mesh.requests"} == {"item", "lines", "slow"}


async def test_none_at_other_levels(mesh, caplog):
    with caplog.at_level(logging.INFO, "mesh.requests"):
        await mesh.start(shop())
        assert (await mesh.http.get("/items/3")).status_code == 200
    assert lines_of(caplog) == []


async def test_a_call_that_nobody_serves_names_service_and_endpoint(mesh, client):
    for _ in range(2):
        with pytest.raises((NoInstances, NoResponders), match=r"^nobody answers 'count' of 'words': \w+"):
            await client.call("words", "count", text="a")


async def test_a_call_of_an_endpoint_that_does_not_exist_leads_to_the_nearest(mesh, client):
    await mesh.start(shop())
    with pytest.raises((NoInstances, NoResponders, NotFound), match=r"'itme'.*'shop'|'shop'.*'itme'"):
        await client.call("shop", "itme", key=1)
    await client.call("shop", "item", key=1)
    await eventually(lambda: client._calls._watcher.registry.instances("shop"))
    with pytest.raises(NotFound, match="'shop' has no endpoint 'itme'; did you mean 'item'"):
        await client.call("shop", "itme", key=1)
