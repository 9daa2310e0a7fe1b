"""What one connection may take of the event loop before others have their turn: counted, on both lanes."""

import asyncio
import math

import pytest

from gateway import request_reader
from gateway.fair_turns import ANSWER, TURN, Turns
from gateway.http_connection import SLICE
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.memory import Client
from tests.gateway.test_framing import LAST, Hung, answers, ask, frames, get

A_TURN = TURN // ANSWER
"""Requests that are answered at once in one turn."""

AT_ONCE = {
    "no route": get("/nowhere"),
    "a path near to others": get("/echoo/a"),
    "two credentials": get("/echo/a", "Authorization: a", "Authorization: b"),
    "too many headers": get("/echo/a", *["a: b"] * 120),
    "too large a body": get("/echo/a", "Content-Length: 300000", method="POST") + bytes(300_000),
}


@pytest.fixture(params=["direct", "asgi"])
async def mesh(nats_url, prefix, request):
    settings = {"http_lane": request.param, "head_s": 60, "body_idle_s": 60, "max_request_body": 200_000}
    async with Mesh(frames(Hung()), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Nobody rests: a machine that is busy elsewhere for some milliseconds must not look like a client that sends
    nothing. (uvloop's clock stands still within a turn; the clock of asyncio's own loop, which tests use, goes on.)"""
    monkeypatch.setattr(request_reader, "RESTED_S", math.inf)


def answered(client):
    return client.wire.sent.count(b"HTTP/1.1 ")


async def test_each_turn_is_one_connections():
    turns, seen = Turns(), []

    def go_on(name, times):
        seen.append(name)
        if times > 1:
            turns.wait(lambda: go_on(name, times - 1))
        asyncio.get_running_loop().call_soon(seen.append, "others")

    turns.wait(lambda: go_on("a", 2))
    turns.wait(lambda: go_on("b", 2))
    assert seen == []
    await eventually(lambda: len(seen) == 8)
    assert [name for name in seen if name != "others"] == ["a", "b", "a", "b"]
    assert all(seen[seen.index(name) :].count("others") for name in "ab")
    assert "others" in seen[:3]  # in the middle of it, and not when all are through


async def test_a_connection_that_fails_does_not_keep_others_from_their_turn():
    turns, seen, told = Turns(), [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    turns.wait(lambda: 1 / 0)
    turns.wait(lambda: seen.append("next"))
    await eventually(lambda: seen)
    assert isinstance(told[0], ZeroDivisionError)


@pytest.mark.parametrize("name", AT_ONCE)
async def test_requests_that_are_answered_at_once_leave_turns_to_others(mesh, name):
    """Of any number in one piece, a few are answered before somebody else is."""
    number = 20 if name == "too large a body" else 500
    greedy = [Client(mesh) for _ in range(3)]
    for client in greedy:
        client.connection.data_received(AT_ONCE[name] * number)
        assert answered(client) <= A_TURN
    good = Client(mesh)
    turns = 0
    good.connection.data_received(get("/livez"))
    while not answered(good):
        turns += 1
        await asyncio.sleep(0)
    assert turns <= 10
    assert sum(map(answered, greedy)) <= A_TURN * (len(greedy) + turns)
    await eventually(lambda: min(map(answered, greedy)) >= 1)
    counts = [answered(client) for client in greedy]
    assert max(counts) - min(counts) <= 2 * A_TURN  # none of them is forgotten
    await eventually(lambda: all(answered(client) == number for client in greedy), timeout=60)
    for client in (good, *greedy):
        client.close()


async def test_many_reads_in_one_turn_are_one_turn(mesh):
    """An event loop may read a socket many times before it looks at others."""
    client = Client(mesh)
    for _ in range(200):
        client.connection.data_received(get("/nowhere"))
    assert answered(client) <= A_TURN
    await eventually(lambda: answered(client) == 200)
    client.close()


async def test_a_body_in_tiny_pieces_leaves_turns_to_others(mesh):
    client, data = Client(mesh), b"1\r\na\r\n" * 50_000
    client.connection.data_received(get("/echo/a", "Transfer-Encoding: chunked", method="POST"))
    for _ in range(3):
        client.connection.data_received(data)
    assert len(client.connection._unread) >= 3 * len(data) - SLICE
    await asyncio.sleep(0)
    assert len(client.connection._unread) >= 3 * len(data) - 3 * SLICE
    await eventually(lambda: not client.connection._unread or client.connection._current.is_full, timeout=60)
    client.close()


async def test_all_of_a_long_pipeline_is_answered_in_order(mesh):
    kinds = [get("/nowhere"), get("/livez"), get("/echo/a"), get("/echo/b", "Content-Length: 3", method="PUT") + b"abc"]
    found = answers(await ask(mesh, b"".join(kinds) * 100 + LAST), *["GET", "GET", "GET", "PUT"] * 100, "GET")
    assert [status for status, _, _ in found] == [404, 200, 200, 200] * 100 + [200]


async def test_behind_an_answer_that_ends_the_connection_nothing_is_begun(mesh):
    """Its client could not be answered any more."""
    lifecycle = mesh.gateway.lifecycle
    client = Client(mesh)
    lifecycle.responses.draining = True  # every answer is the last one
    try:
        assert [status for status, _ in await client.ask(get("/nowhere") + get("/echo/a") * 3, answers=4)] == [404]
        assert client.wire.closed
        assert lifecycle.inflight == 0
    finally:
        lifecycle.responses.draining = False
        client.close()
