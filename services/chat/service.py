"""The routes of `chat`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from mesh import (
    Context,
    Depends,
    MeshError,
    Request,
    Response,
    Service,
    StreamingResponse,
    WebSocket,
)
from services.chat.api import (
    Completion,
    CompletionRequest,
    Joined,
    Left,
    Message,
    Models,
    Name,
    Post,
    Refused,
    RoomEvent,
    RoomName,
    Say,
)
from services.chat.completions import Parrot, Upstream, refusal
from services.chat.config import load_settings
from services.chat.models import SCHEMA
from services.chat.rooms import Rooms
from services.chat.store import Messages
from services.schema import opened

service = Service("chat", version="1.0.0", description="completes chats word by word, and keeps rooms")

HISTORY = 20
"""Messages that somebody who joins is told without asking."""
CATCH_UP = 500
"""Messages that somebody who comes back is told at most; the rest is a page of ``GET``."""


async def open_messages() -> AsyncIterator[Messages]:
    """The rooms' messages, for as long as the instance lives."""
    async with opened(load_settings(), SCHEMA) as database:
        yield Messages(database)


async def open_upstream() -> AsyncIterator[Upstream | None]:
    """The connection to the server that completes chats, where one is set."""
    settings = load_settings()
    if not settings.upstream_url:
        yield None
        return
    import httpx  # takes a while, and most meshes never need it

    auth = {"authorization": f"Bearer {settings.upstream_key}"} if settings.upstream_key else {}
    async with httpx.AsyncClient(base_url=settings.upstream_url, headers=auth) as client:
        yield Upstream(client)


def hatch() -> Parrot:
    """The parrot, as fast as the settings say."""
    return Parrot(load_settings().token_ms / 1000)


Store = Annotated[Messages, Depends(open_messages, scope="service")]
Server = Annotated[Upstream | None, Depends(open_upstream, scope="service")]
Bird = Annotated[Parrot, Depends(hatch, scope="service")]
Here = Annotated[Rooms, Depends(Rooms, scope="service")]


@service.post("/v1/chat/completions", tags=("completions",), timeout=120)
async def complete(
    body: CompletionRequest, request: Request, ctx: Context, parrot: Bird, upstream: Server
) -> Completion | Response:
    """Complete a chat in the OpenAI form; ``stream`` asks for server-sent events."""
    if body.model in ("", parrot.model.id):
        if body.stream:
            events = (event.encode() async for event in parrot.stream(body))
            return StreamingResponse(events, headers={"cache-control": "no-store"}, content_type="text/event-stream")
        return await parrot.complete(body)
    if upstream is None:
        text = f"there is no model {body.model!r}; set CHAT_UPSTREAM_URL for other models than 'parrot'"
        return refusal(404, text, "model_not_found")
    return await upstream.post(request.body, ctx.remaining)


@service.get("/v1/models", tags=("completions",))
async def list_models(parrot: Bird, upstream: Server) -> Models:
    """Who may be asked."""
    models = Models([parrot.model])
    if upstream is not None:
        models.data += msgspec.json.decode(await upstream.models(), type=Models).data
    return models


@service.websocket("/chat/{room}", tags=("rooms",))
async def join(
    ws: WebSocket,
    room: RoomName,
    name: Name,
    ctx: Context,
    store: Store,
    rooms: Here,
    after: Annotated[int, Meta(ge=0)] | None = None,
) -> None:
    """Join a room. ``after`` is the number of the last message that one has."""
    await ws.accept()
    with rooms.member(room, name) as member:
        # A member first, then the past: whatever is said in between comes twice, and is sent once.
        history = await (store.newest(room, HISTORY) if after is None else store.since(room, after, CATCH_UP))
        delivering = asyncio.create_task(member.deliver(ws, history))
        try:
            await ctx.emit("chat.happened", Joined(room, name))
            await _listen(ws, room, name, ctx, store)
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
            await ctx.emit("chat.happened", Left(room, name))


async def _listen(ws: WebSocket, room: str, name: str, ctx: Context, store: Messages) -> None:
    async for text in ws:
        try:
            said = msgspec.json.decode(text, type=Say)
            await ctx.emit("chat.happened", await store.add(room, name, said.text))
        except (msgspec.DecodeError, UnicodeError) as error:
            await ws.send(Refused(f'{error}; send {{"text": "..."}}'))
        except MeshError as error:
            await ws.send(Refused(error.detail))


@service.get("/chat/{room}/messages", tags=("rooms",))
async def read(
    room: RoomName,
    store: Store,
    after: Annotated[int, Meta(ge=0)] = 0,
    limit: Annotated[int, Meta(ge=1, le=CATCH_UP)] = 100,
) -> list[Message]:
    """What was said in a room after a message, the oldest first."""
    return await store.since(room, after, limit)


@service.post("/chat/{room}/messages", status=201, tags=("rooms",))
async def say(room: RoomName, body: Post, store: Store, ctx: Context) -> Message:
    """Say something in a room without being there."""
    message = await store.add(room, body.author, body.text)
    await ctx.emit("chat.happened", message)
    return message


@service.on("chat.happened", broadcast=True)
async def tell(event: RoomEvent, rooms: Here) -> None:
    """Every instance tells the members that it has."""
    rooms.happened(event)
