"""The application as a service of the mesh."""

import asyncio
from collections.abc import AsyncIterator

from msgspec import Struct

from bench.apps.shared import BLOBS, EVENT, EVENT_S, ITEM
from mesh import Event, Response, Service

service = Service("bench", version="1.0.0")


class Item(Struct):
    id: int
    name: str
    description: str
    price: float
    tags: list[str]
    stock: int


@service.get("/items/{item_id}")
async def item(item_id: int) -> Item:
    return Item(item_id, **ITEM)  # type: ignore[arg-type]


@service.post("/items")
async def echo(body: Item) -> Item:
    return body


@service.get("/blobs/{size}")
async def down(size: int) -> Response:
    return Response(BLOBS[size], content_type="application/octet-stream")


@service.post("/blobs")
async def up(body: bytes) -> int:
    return len(body)


@service.get("/events")
async def events() -> AsyncIterator[Event]:
    while True:
        yield Event(EVENT)
        await asyncio.sleep(EVENT_S)
