"""A gateway as teams write it: a FastAPI catch-all that forwards with an HTTP client."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

UPSTREAM = os.environ.get("UPSTREAM", "")
HOP = {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "date", "server"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(UPSTREAM, connector=aiohttp.TCPConnector(limit=0)) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/events")
async def events(request: Request) -> StreamingResponse:
    answer = await request.app.state.session.get("/events", timeout=aiohttp.ClientTimeout(total=None))

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.content.iter_any():
                yield piece
        finally:
            answer.close()

    return StreamingResponse(pieces(), media_type="text/event-stream")


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def forward(path: str, request: Request) -> Response:
    headers = [(name, value) for name, value in request.headers.items() if name not in HOP]
    async with app.state.session.request(
        request.method, f"/{path}", headers=headers, data=await request.body() or None
    ) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
        return Response(await answer.read(), answer.status, kept)
