"""The application as a service of nats-py's own micro package, and a FastAPI gateway that calls it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import nats.micro
from fastapi import FastAPI, Request, Response
from nats.micro.request import Request as MicroRequest
from pydantic import BaseModel

from bench.apps.shared import BLOBS, ITEM

URL = os.environ.get("NATS_URL", "")


class Item(BaseModel):
    id: int
    name: str
    description: str
    price: float
    tags: list[str]
    stock: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.nats = await nats.connect(URL)
    yield
    await app.state.nats.close()


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item_id}")
async def item(item_id: int, request: Request) -> Response:
    return await _ask("item", json.dumps({"id": item_id}).encode(), request)


@app.post("/items")
async def echo(request: Request) -> Response:
    return await _ask("echo", await request.body(), request)


@app.get("/blobs/{size}")
async def down(size: int, request: Request) -> Response:
    return await _ask("down", b"%d" % size, request)


@app.post("/blobs")
async def up(request: Request) -> Response:
    return await _ask("up", await request.body(), request)


async def _ask(subject: str, payload: bytes, request: Request) -> Response:
    headers = {name: value for name, value in request.headers.items() if name != "content-length"}
    reply = await app.state.nats.request(f"bench.{subject}", payload, timeout=10, headers=headers)
    return Response(reply.data, media_type="application/json")


async def serve() -> None:
    """The service's process."""

    async def item(request: MicroRequest) -> None:
        await request.respond(Item(**json.loads(request.data), **ITEM).model_dump_json().encode())  # type: ignore[arg-type]

    async def echo(request: MicroRequest) -> None:
        await request.respond(Item.model_validate_json(request.data).model_dump_json().encode())

    async def down(request: MicroRequest) -> None:
        await request.respond(BLOBS[int(request.data)])

    async def up(request: MicroRequest) -> None:
        await request.respond(b"%d" % len(request.data))

    client = await nats.connect(URL)
    service = await nats.micro.add_service(client, name="bench", version="1.0.0")
    group = service.add_group(name="bench")
    for name, handler in (("item", item), ("echo", echo), ("down", down), ("up", up)):
        await group.add_endpoint(name=name, handler=handler)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await client.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
