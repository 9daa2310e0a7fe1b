"""Chat: completions, as the official client reads them, and rooms across instances."""

import asyncio
import contextlib
import json
from datetime import datetime

import openai
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh import Request, Response, Service, StreamingResponse
from mesh.testing import Mesh
from services.chat import service as chat
from services.chat.api import Message
from services.chat.rooms import WAITING, Member
from tests.conditions import eventually


@pytest.fixture(autouse=True)
async def two(mesh, environment, monkeypatch):
    """Two instances, and a parrot in a hurry."""
    monkeypatch.setenv("CHAT_TOKEN_MS", "0")
    return [await mesh.start(chat) for _ in range(2)]


@pytest.fixture
async def client(mesh):
    async with openai.AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


# -- completions


async def test_the_official_client_reads_answers_whole_and_streamed(client):
    text = "the mesh\n knows  its routes"
    whole = await client.chat.completions.create(model="parrot", messages=asked(text))
    assert whole.choices[0].message.content == text
    assert (whole.choices[0].finish_reason, whole.object) == ("stop", "chat.completion")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (7, 5, 12)
    stream = await client.chat.completions.create(
        model="parrot", messages=asked(text), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert deltas == ["", "the", " mesh", "\n knows", "  its", " routes", None]
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 6 + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.total_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


async def test_parts_limits_and_models(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": " three"}]}]
    short = await client.chat.completions.create(model="parrot", messages=parts, max_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("one two", "length")
    assert [model.id async for model in client.models.list()] == ["parrot"]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-0", messages=asked("x"))
    assert caught.value.code == "model_not_found"
    assert "CHAT_UPSTREAM_URL" in caught.value.message
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(model="parrot", messages=[{"role": "king", "content": "x"}])
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(model="parrot", messages=[])


async def test_tokens_come_one_by_one(mesh, two, monkeypatch):
    """As they are made, in the bytes that the form prescribes."""
    monkeypatch.setenv("CHAT_TOKEN_MS", "1000")
    slow = await mesh.start(chat)
    for instance in two:
        await instance.drain()
    body = {"model": "parrot", "messages": asked("a b"), "stream": True}
    async with mesh.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        first = await anext(lines)
        assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert await anext(lines) == ""
        assert '"content":"a"' in await anext(lines)
        assert slow.dispatcher.inflight == 1  # the answer has not ended, and there are its tokens
    await eventually(lambda: slow.dispatcher.inflight == 0)  # who does not read on stops the parrot


async def test_another_server_is_asked_for_other_models(nats_url, prefix, environment, monkeypatch):
    seen = []
    upstream = Service("upstream")

    @upstream.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        seen.append((request.header("authorization"), json.loads(request.body)))
        if json.loads(request.body)["model"] == "busy":
            return Response({"error": {"message": "slow down", "code": "rate_limit"}}, 429)

        async def events():
            for word in ("to", " you"):
                yield f'data: {{"id":"1","choices":[{{"index":0,"delta":{{"content":"{word}"}}}}]}}\n\n'
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), content_type="text/event-stream")

    @upstream.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [{"id": "big", "object": "model", "created": 1, "owned_by": "them"}]}

    async with Mesh(upstream, nats_url=nats_url, prefix=f"{prefix}-up") as theirs:
        monkeypatch.setenv("CHAT_UPSTREAM_URL", f"{theirs.url}/v1/")
        monkeypatch.setenv("CHAT_UPSTREAM_KEY", "sk-1")
        async with (
            Mesh(chat, nats_url=nats_url, prefix=f"{prefix}-own") as mesh,
            openai.AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key="none", max_retries=0) as client,
        ):
            stream = await client.chat.completions.create(model="big", messages=asked("x"), stream=True, seed=7)
            assert [chunk.choices[0].delta.content async for chunk in stream] == ["to", " you"]
            assert [model.id async for model in client.models.list()] == ["parrot", "big"]
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="busy", messages=asked("x"))
            assert (seen[0][0], seen[0][1]["seed"]) == ("Bearer sk-1", 7)
            await theirs.__aexit__(None, None, None)
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="big", messages=asked("x"))
            assert caught.value.status_code == 503
            assert "CHAT_UPSTREAM_URL did not answer" in caught.value.message


# -- rooms


class Guest:
    """Somebody in a room."""

    def __init__(self, socket):
        self.socket = socket

    async def say(self, text):
        await self.socket.send(json.dumps({"text": text}))

    async def hears(self, kind):
        """The next event of that kind."""
        async with asyncio.timeout(20):
            while True:
                event = json.loads(await self.socket.recv())
                if event["type"] == kind:
                    return event


@contextlib.asynccontextmanager
async def guest(mesh, name, room="lobby", more=""):
    async with connect(f"{mesh.url.replace('http', 'ws')}/chat/{room}?name={name}{more}") as socket:
        yield Guest(socket)


async def test_a_room_is_one_over_all_instances(mesh, two):
    async with contextlib.AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(guest(mesh, f"g{n}")) for n in range(4)]
        stranger = await stack.enter_async_context(guest(mesh, "stranger", "elsewhere"))
        await eventually(lambda: sum(instance.dispatcher.inflight for instance in two) == 5)
        assert all(instance.dispatcher.inflight for instance in two)  # not all of them at one
        assert (await guests[0].hears("joined"))["room"] == "lobby"
        for number, speaker in enumerate(guests):
            await speaker.say(f"hello from {number}")
            for listener in guests:
                heard = await listener.hears("message")
                assert (heard["from"], heard["text"]) == (f"g{number}", f"hello from {number}")
                assert datetime.fromisoformat(heard["at"]).utcoffset() is not None
        posted = await mesh.http.post("/chat/lobby/messages", json={"from": "bot", "text": "beep"})
        assert posted.status_code == 201
        assert [await listener.hears("message") for listener in guests] == [{"type": "message", **posted.json()}] * 4
        await stranger.say("only here")
        assert (await stranger.hears("message"))["text"] == "only here"  # and nothing of the others before
        await guests[3].socket.close()
        assert (await guests[0].hears("left"))["from"] == "g3"
    await eventually(lambda: not any(instance.dispatcher.inflight for instance in two))


async def test_who_comes_back_has_missed_nothing(mesh, two):
    async with guest(mesh, "ann") as ann:
        await ann.say("one")
        first = await ann.hears("message")
    for text in ("two", "three"):
        await mesh.http.post("/chat/lobby/messages", json={"from": "bob", "text": text})
    async with guest(mesh, "ann", more=f"&after={first['id']}") as ann:
        assert [(await ann.hears("message"))["text"] for _ in range(2)] == ["two", "three"]
    async with guest(mesh, "new") as new:
        assert [(await new.hears("message"))["text"] for _ in range(3)] == ["one", "two", "three"]
    page = (await mesh.http.get("/chat/lobby/messages", params={"after": first["id"], "limit": 1})).json()
    assert [message["text"] for message in page] == ["two"]
    assert (await mesh.http.get("/chat/empty/messages")).json() == []


async def test_when_an_instance_stops_its_guests_are_told_to_come_back(mesh, two):
    async with guest(mesh, "ann") as ann:
        await ann.say("one")
        first = await ann.hears("message")
        (holder,) = [instance for instance in two if instance.dispatcher.inflight]
        await holder.drain()
        with pytest.raises(ConnectionClosed) as closed:
            await ann.hears("nothing")
        assert closed.value.rcvd.code == 1012
    async with guest(mesh, "ann", more=f"&after={first['id']}") as ann:
        await ann.say("two")
        assert (await ann.hears("message"))["text"] == "two"


async def test_what_is_no_message_is_told_and_harms_nobody(mesh):
    async with guest(mesh, "ann") as ann:
        for wrong in (
            "no json",
            "{}",
            '{"text": ""}',
            '{"text": "' + "x" * 2001 + '"}',
            '{"text": "\\u0000"}',
            b"\xff",
        ):
            await ann.socket.send(wrong)
            assert '"text"' in (await ann.hears("error"))["detail"]
        await ann.say("still here")
        assert (await ann.hears("message"))["text"] == "still here"


@pytest.mark.parametrize(
    "path", ["/chat/lobby", "/chat/lobby?name=", "/chat/No%20Room?name=ann", "/chat/a?name=b&after=x"]
)
async def test_who_cannot_come_in(mesh, path):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{mesh.url.replace('http', 'ws')}{path}"):
            pass
    assert refused.value.response.status_code == 422


class Socket:
    """What a member's connection was sent; `read` has to be set before it takes anything."""

    def __init__(self):
        self.sent, self.closed, self.read = [], None, asyncio.Event()

    async def send(self, event):
        await self.read.wait()
        self.sent.append(event)

    async def close(self, code, reason):
        self.closed = (code, reason)


async def test_who_reads_too_slowly_is_sent_away_and_nobody_waits_for_it():
    member, socket = Member("ann"), Socket()
    messages = [Message(n, "lobby", "bob", "x", datetime.now()) for n in range(WAITING * 2)]
    for message in messages:
        member.hear(message)  # never waits
    socket.read.set()
    await asyncio.wait_for(member.deliver(socket, messages[:3]), 10)
    assert [m.id for m in socket.sent] == list(range(WAITING))  # in order, none twice, none left out
    assert socket.closed[0] == 1013
    assert "?after=" in socket.closed[1]
