"""A WebSocket as a handler sees it: messages as JSON."""

import json
from typing import Annotated

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from mesh import BadRequest, Invalid, Service, WebSocket
from mesh.testing import Mesh


class Move(msgspec.Struct):
    player: str
    field: Annotated[int, msgspec.Meta(ge=0, le=8)]


@pytest.fixture
async def url(nats_url, prefix):
    service = Service("game")

    @service.websocket("/game")
    async def game(ws: WebSocket) -> None:
        while True:
            try:
                move = await ws.receive_json(Move)
            except (Invalid, BadRequest) as error:
                await ws.send({"wrong": error.detail})
            else:
                await ws.send({"field": move.field, "any": await ws.receive_json()})

    @service.websocket("/strict")
    async def strict(ws: WebSocket) -> None:
        await ws.receive_json(Move)

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh.url.replace("http://", "ws://")


async def test_messages_are_read_as_json_of_a_type(url):
    async with connect(f"{url}/game") as client:
        await client.send('{"player": "x", "field": 4}')
        await client.send(b"[1, null]")  # bytes are read like text
        assert json.loads(await client.recv()) == {"field": 4, "any": [1, None]}


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ('{"player": "x", "field": 9}', "body.field: Expected `int` <= 8"),
        ('{"player": "x"}', "body.field: is required"),
        ("hello", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        ('{"other": ' + "[" * 100_000, "the body is nested too deeply"),
    ],
)
async def test_a_message_that_does_not_fit_is_an_error_and_the_connection_goes_on(url, message, wrong):
    async with connect(f"{url}/game") as client:
        await client.send(message)
        assert wrong in json.loads(await client.recv())["wrong"]
        await client.send('{"player": "o", "field": 0}')
        await client.send("true")
        assert json.loads(await client.recv()) == {"field": 0, "any": True}


async def test_a_handler_that_does_not_catch_the_error_closes_the_connection_with_it(url):
    async with connect(f"{url}/strict") as client:
        await client.send("{}")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd.code == 1011
    assert "player: is required" in closed.value.rcvd.reason
