"""Streams between services."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from mesh import BadReply, Context, NotFound, Service, StreamBroken, Unavailable
from tests.conditions import eventually


class Row(msgspec.Struct):
    number: int


def source() -> Service:
    service = Service("source")
    service.running = 0

    @service.endpoint()
    async def rows(count: int) -> AsyncIterator[Row]:
        service.running += 1
        try:
            for number in range(count):
                yield Row(number)
        finally:
            service.running -= 1

    @service.endpoint()
    async def data(size: int) -> AsyncIterator[bytes]:
        while size > 0:
            yield bytes(min(size, 100_000))
            size -= 100_000

    @service.endpoint()
    async def one() -> Row:
        return Row(7)

    @service.endpoint()
    async def missing() -> AsyncIterator[Row]:
        raise NotFound("no such table")
        yield Row(0)

    @service.endpoint()
    async def hangs() -> AsyncIterator[Row]:
        yield Row(1)
        await asyncio.Event().wait()

    return service


async def test_a_service_reads_what_another_yields(mesh):
    await mesh.start(source())
    reader = Service("reader")

    @reader.get("/sum")
    async def total(ctx: Context, count: int) -> int:
        return sum([row.number async for row in ctx.stream("source", "rows", count=count, returns=Row)])

    @reader.get("/pass")
    async def pass_on(ctx: Context, size: int) -> AsyncIterator[bytes]:
        async for piece in ctx.stream("source", "data", size=size):
            yield piece

    await mesh.start(reader)
    assert (await mesh.http.get("/sum?count=1000")).json() == 499_500
    assert (await mesh.http.get("/pass?size=3000000")).content == bytes(3_000_000)


async def test_a_client_reads_streams_and_single_answers(mesh, client):
    await mesh.start(source())
    assert [row async for row in client.stream("source", "rows", count=2, returns=Row)] == [Row(0), Row(1)]
    assert [row async for row in client.stream("source", "one", returns=Row)] == [Row(7)]
    assert sum([len(piece) async for piece in client.stream("source", "data", size=250_000)]) == 250_000
    with pytest.raises(NotFound, match="no such table"):
        await anext(client.stream("source", "missing"))
    with pytest.raises(BadReply, match="yields something else"):
        await anext(client.stream("source", "rows", count=1, returns=str))


async def test_who_stops_reading_ends_the_producer(mesh, client):
    service = source()
    instance = await mesh.start(service)
    rows = client.stream("source", "rows", count=1_000_000_000, returns=Row)
    assert await anext(rows) == Row(0)
    assert service.running == 1
    await rows.aclose()
    await eventually(lambda: service.running == 0)
    assert len(instance.streams) == 0


async def test_a_stream_that_breaks_off_raises(mesh, client):
    instance = await mesh.start(source(), drain_s=0.1)
    rows = client.stream("source", "hangs", returns=Row)
    assert await anext(rows) == Row(1)
    await instance.drain()
    with pytest.raises((StreamBroken, Unavailable)) as caught:
        await anext(rows)
    assert caught.value.status in (502, 503)
