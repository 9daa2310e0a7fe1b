"""The application on FastAPI, as its users write it."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from bench.apps.shared import BLOBS, EVENT, EVENT_S, ITEM


class Item(BaseModel):
    id: int
    name: str
    description: str
    price: float
    tags: list[str]
    stock: int


app = FastAPI()


@app.get("/items/{item_id}")
async def item(item_id: int) -> Item:
    return Item(id=item_id, **ITEM)  # type: ignore[arg-type]


@app.post("/items")
async def echo(body: Item) -> Item:
    return body


@app.get("/blobs/{size}")
async def down(size: int) -> Response:
    return Response(BLOBS[size], media_type="application/octet-stream")


@app.post("/blobs")
async def up(request: Request) -> int:
    return len(await request.body())


@app.get("/events")
async def events() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        while True:
            yield f"data: {EVENT}\n\n"
            await asyncio.sleep(EVENT_S)

    return StreamingResponse(stream(), media_type="text/event-stream")
