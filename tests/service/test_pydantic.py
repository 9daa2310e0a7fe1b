"""Pydantic's models as bodies, results, events and arguments of services that are written for the mesh."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from mesh import (
    BadReply,
    Body,
    Context,
    DeclarationError,
    Invalid,
    Query,
    Response,
    Service,
    WebSocket,
)
from tests.conditions import eventually


class Item(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(min_length=1)
    price: Decimal = Decimal(1)
    since: date | None = None
    item_id: int = Field(0, alias="itemId")


class Order(BaseModel):
    items: list[Item]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class User(BaseModel):
    name: str


class Stored(User):
    password: str = "secret"


@dataclass
class Basket:
    item: Item


@pydantic.dataclasses.dataclass
class Point:
    x: int = pydantic.Field(ge=0)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    since: date


def shop():
    service = Service("shop")

    @service.post("/items")
    async def add(body: Item) -> Item:
        return body

    @service.post("/orders")
    async def order(body: Order | None = None) -> Order | None:
        return body

    @service.post("/lists")
    async def lists(body: list[Item]) -> dict[str, list[Item]]:
        return {"items": body}

    @service.post("/maps")
    async def maps(body: dict[str, Item | None]) -> dict[str, Item | None]:
        return body

    @service.post("/pets")
    async def pets(pet: Annotated[Pet, Body()]) -> str:
        return type(pet).__name__

    @service.post("/baskets")
    async def baskets(body: Basket) -> Basket:
        return body

    @service.post("/points")
    async def points(body: Point) -> int:
        return body.x

    @service.post("/strict")
    async def strict(body: Strict) -> Strict:
        return body

    @service.get("/search")
    async def search(
        page: Annotated[int, Field(ge=1)],
        link: HttpUrl,
        sizes: Annotated[list[Annotated[int, Field(le=9)]], Query("size")] = [],  # noqa: B006
    ) -> dict[str, object]:
        return {"page": page, "link": link, "sizes": sizes}

    @service.get("/user")
    async def user() -> User:
        return Stored(name="ada")

    @service.get("/users")
    async def users() -> list[User]:
        return [Stored(name="ada")]

    @service.get("/untyped")
    async def untyped():
        return {"item": Item(name="a"), "items": [Item(name="b")]}

    @service.get("/dict")
    async def from_dict() -> User:
        return {"name": "ada", "more": 1}

    @service.get("/wrong")
    async def wrong() -> User:
        return {"nothing": "of it"}

    @service.get("/teapot")
    async def teapot(plain: bool = False) -> User | Response:
        return Stored(name="ada") if plain else Response(User(name="x"), 418)

    @service.get("/stream")
    async def stream() -> AsyncIterator[User]:
        yield Stored(name="ada")
        yield Stored(name="grace")

    @service.websocket("/ws")
    async def ws(ws: WebSocket) -> None:
        await ws.send(await ws.receive_json(Item))

    return service


@pytest.fixture
async def http(mesh):
    await mesh.start(shop())
    return mesh.http


@pytest.mark.parametrize(
    ("path", "given", "answer"),
    [
        ("/items", {"name": "a"}, {"name": "a", "price": "1", "since": None, "itemId": 0}),
        ("/items", {"name": "a", "itemId": 3, "price": 0.1}, {"name": "a", "price": "0.1", "since": None, "itemId": 3}),
        ("/items", {"name": "a", "item_id": 3}, {"name": "a", "price": "1", "since": None, "itemId": 3}),
        ("/lists", [{"name": "a"}], {"items": [{"name": "a", "price": "1", "since": None, "itemId": 0}]}),
        ("/maps", {"k": None}, {"k": None}),
        ("/maps", {"k": {"name": "a"}}, {"k": {"name": "a", "price": "1", "since": None, "itemId": 0}}),
        ("/pets", {"kind": "dog", "bark": "wow"}, "Dog"),
        ("/baskets", {"item": {"name": "a"}}, {"item": {"name": "a", "price": "1", "since": None, "itemId": 0}}),
        ("/points", {"x": 3}, 3),
        ("/strict", {"since": "2026-01-31"}, {"since": "2026-01-31"}),
    ],
)
async def test_bodies_and_results(http, path, given, answer):
    response = await http.post(path, json=given)
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["content-type"] == "application/json"


async def test_a_body_may_be_left_out(http):
    assert (await http.post("/orders")).status_code == 204
    assert (await http.post("/items")).json()["errors"] == [{"field": "body", "message": "is required"}]


@pytest.mark.parametrize(
    ("path", "given", "errors"),
    [
        (
            "/items",
            {"name": "", "price": "x"},
            {"body.name": "String should have at least 1 character", "body.price": "Input should be a valid decimal"},
        ),
        ("/orders", {"items": [{"name": "a"}, {}]}, {"body.items[1].name": "is required"}),
        ("/lists", [{"name": "a"}, 7], {"body[1]": "Input should be an object"}),
        ("/maps", {"k": {}}, {"body.k.name": "is required"}),
        ("/pets", {"kind": "cow"}, {"body": "Input tag 'cow' found using 'kind' does not match any of"}),
        ("/points", {"x": -1}, {"body.x": "Input should be greater than or equal to 0"}),
    ],
)
async def test_what_does_not_fit_is_named_field_by_field(http, path, given, errors):
    response = await http.post(path, json=given)
    problem = response.json()
    assert (response.status_code, problem["reason"], problem["executed"]) == (422, "invalid", "no")
    found = {error["field"]: error["message"] for error in problem["errors"]}
    assert found.keys() == errors.keys()
    for field, message in errors.items():
        assert found[field].startswith(message)
        assert f"{field}: {message}" in problem["detail"]


@pytest.mark.parametrize("body", [b'{"name"', b"\xff", b"[" * 100_000])
async def test_what_is_no_json_is_400(http, body):
    response = await http.post("/items", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["reason"]) == (400, "bad_request")


async def test_constraints_of_single_values_are_kept(http):
    found = await http.get("/search?page=2&link=http://a.example/&size=1&size=9")
    assert found.json() == {"page": 2, "link": "http://a.example/", "sizes": [1, 9]}
    wrong = await http.get("/search?page=0&link=nope&size=10")
    fields = [error["field"] for error in wrong.json()["errors"]]
    assert (wrong.status_code, fields) == (422, ["query.page", "query.link", "query.size[0]"])


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/user", 200, {"name": "ada"}),
        ("/users", 200, [{"name": "ada"}]),
        ("/dict", 200, {"name": "ada"}),
        ("/teapot", 418, {"name": "x"}),
        ("/teapot?plain=true", 200, {"name": "ada"}),
    ],
)
async def test_a_result_has_what_its_annotation_says_and_no_more(http, path, status, answer):
    response = await http.get(path)
    assert (response.status_code, response.json()) == (status, answer)


async def test_results_without_an_annotation_are_by_alias(http):
    answer = (await http.get("/untyped")).json()
    assert answer["item"]["itemId"] == answer["items"][0]["itemId"] == 0


async def test_a_result_of_another_shape_is_the_services_mistake(http, caplog):
    response = await http.get("/wrong")
    assert response.status_code == 500
    assert "name: is required" in caplog.text
    assert "of it" not in caplog.text


async def test_a_stream_of_models(http):
    assert (await http.get("/stream")).text == '{"name":"ada"}\n{"name":"grace"}\n'
    events = await http.get("/stream", headers={"accept": "text/event-stream"})
    assert events.text == 'data: {"name":"ada"}\n\ndata: {"name":"grace"}\n\n'


async def test_calls_and_events(mesh, client):
    service, caller, heard = shop(), Service("caller"), []

    @service.on("orders.made")
    async def made(event: Order) -> None:
        heard.append(event)

    @service.endpoint()
    async def count(item: Strict, times: Annotated[int, Field(ge=1)] = 1) -> list[Strict]:
        return [item] * times

    @caller.endpoint()
    async def relay(ctx: Context) -> Item:
        return await ctx.call("shop", "add", body=Item(name="a", item_id=7), returns=Item)

    await mesh.start(service)
    await mesh.start(caller)
    assert await client.call("caller", "relay", returns=Item) == Item(name="a", item_id=7)
    day = Strict(since=date(2026, 1, 31))
    assert await client.call("shop", "count", item=day, times=2, returns=list[Strict]) == [day, day]
    with pytest.raises(Invalid) as wrong:
        await client.call("shop", "count", item={"since": "no"}, times=0)
    assert [error["field"] for error in wrong.value.extra["errors"]] == ["item.since", "times"]
    with pytest.raises(BadReply, match=r"shop\.add replied with something else .*: kind: is required; bark: "):
        await client.call("shop", "add", body=Item(name="a"), returns=Annotated[Dog, Field()])
    stream = client.stream("shop", "stream", returns=User)
    assert [user async for user in stream] == [User(name="ada"), User(name="grace")]
    await client.emit("orders.made", Order(items=[Item(name="a", item_id=7)]))
    await eventually(lambda: heard == [Order(items=[Item(name="a", item_id=7)])])


async def test_messages_of_a_websocket(mesh):
    import websockets

    await mesh.start(shop())
    async with websockets.connect(mesh.url.replace("http", "ws") + "/ws") as socket:
        await socket.send('{"name":"a","itemId":4}')
        async with asyncio.timeout(10):
            assert msgspec.json.decode(await socket.recv())["itemId"] == 4


class Wrapped(msgspec.Struct):
    item: Item


def struct_around_a_model(body: Wrapped): ...
def model_in_get(item: Item): ...
def mixed(body: Annotated[list[Item], msgspec.Meta(min_length=1)]): ...
def unwritable() -> list[Item] | Wrapped: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (
            struct_around_a_model,
            "'body' of type Wrapped cannot be read: .* a model cannot stand inside of a Struct.*Wrapped",
        ),
        (mixed, "Meta is msgspec's; beside Pydantic's types write Field"),
        (unwritable, "its result of type .* cannot be written: Pydantic cannot read it"),
    ],
)
def test_mixtures_are_refused_when_they_are_declared(handler, why):
    with pytest.raises(DeclarationError, match=why):
        Service("a").post("/a")(handler)


def test_a_model_is_no_query():
    with pytest.raises(DeclarationError, match="'item' of type Item would be the body of a GET request"):
        Service("a").get("/a")(model_in_get)


def test_nothing_of_it_is_imported_without_a_model():
    code = """
import sys
from typing import Annotated
import msgspec
from mesh import Body, MeshClient, Service
import mesh.cli.run
class Pet(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
service = Service("a")
@service.post("/a/{key}")
async def a(key: int, body: list[Pet], more: Annotated[int, msgspec.Meta(ge=1)] = 1) -> dict[str, Pet]: ...
from mesh import codec
codec.decode(b'{"name":"a"}', Pet), codec.encode(Pet("a"))
assert not {"pydantic", "pydantic_core", "annotated_types"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
