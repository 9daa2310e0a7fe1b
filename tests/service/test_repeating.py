"""Attempts that take too long are repeated elsewhere, where the route allows it and never a POST that does not."""

import asyncio

import pytest

from mesh import DeadlineExceeded, Service


async def both_known(client, service):
    """Return when the client's own registry holds two instances of a service that it has called."""
    watcher, changed = client._calls._watcher, asyncio.Event()
    end = watcher.on_change(lambda changes: changed.set())
    async with asyncio.timeout(10):
        while len(watcher.registry.instances(service)) < 2:
            await changed.wait()
            changed.clear()
    end()


async def test_an_attempt_that_takes_too_long_is_repeated_elsewhere_where_the_route_allows_it(mesh):
    def make(slow: bool) -> Service:
        service = Service("repeat")
        service.calls = []

        @service.get("/get", try_timeout=0.1, timeout=5)
        async def get() -> str:
            service.calls.append("get")
            if slow:
                await asyncio.Event().wait()
            return "got"

        @service.post("/late", try_timeout=0.05, timeout=5)
        async def late() -> str:
            await asyncio.sleep(0.3)
            return "late"

        @service.post("/post", try_timeout=0.1, timeout=0.3)
        async def post() -> str:
            service.calls.append("post")
            await asyncio.Event().wait()
            return "never"

        return service

    slow, quick = make(True), make(False)
    await mesh.start(slow, drain_s=0.1)
    await mesh.start(quick, drain_s=0.1)
    for _ in range(4):
        assert (await mesh.http.get("/get")).json() == "got"
    assert "get" in slow.calls
    assert (await mesh.http.post("/late")).json() == "late"  # what is not repeated has all the time there is
    response = await mesh.http.post("/post")
    assert (response.status_code, response.json()["executed"]) == (504, "unknown")
    assert len([c for c in slow.calls + quick.calls if c == "post"]) == 1  # a POST runs at most once


async def test_calls_of_services_are_repeated_like_those_of_the_gateway(mesh, client):
    def make(slow: bool) -> Service:
        service = Service("again")
        service.calls = []

        @service.get("/read", try_timeout=0.1, timeout=5)
        async def read() -> str:
            service.calls.append("read")
            if slow:
                await asyncio.Event().wait()
            return "got"

        @service.post("/write", try_timeout=0.1, timeout=5)
        async def write() -> str:
            service.calls.append("write")
            await asyncio.Event().wait()
            return "never"

        return service

    slow, quick = make(True), make(False)
    await mesh.start(slow, drain_s=0.1)
    await mesh.start(quick, drain_s=0.1)
    with pytest.raises(DeadlineExceeded):  # nothing is known yet: this one goes to the queue group
        await client.call("again", "write", timeout=0.2)
    await both_known(client, "again")
    for _ in range(4):
        assert await client.call("again", "read", timeout=5) == "got"
    assert "read" in slow.calls
    before = (slow.calls + quick.calls).count("write")
    with pytest.raises(DeadlineExceeded):
        await client.call("again", "write", timeout=0.3)
    assert (slow.calls + quick.calls).count("write") == before + 1
