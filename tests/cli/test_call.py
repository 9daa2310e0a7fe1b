"""`mesh call`: endpoints and routes over the bus."""

import asyncio
import signal
import time

import pytest

from mesh import Response, Service
from tests.cli.builders import on_terminal, users


async def test_call_an_endpoint(shell, mesh, foreign):
    await mesh.start(users())
    done = await shell("call", "users", "greet", "name=Ada", "times:=2")
    assert (done.code, done.out, done.err) == (0, '"Ada Ada"', "")
    done = await shell("call", "users", "greet", "-d", "@-", stdin=b'{"name": "Bob"}')
    assert done.out == '"Bob"'
    done = await shell("call", "users", "greet", "times=x")
    assert (done.code, done.json["status"]) == (1, 422)
    assert "422 Unprocessable" in done.err
    done = await shell("call", foreign.name, "add", "a:=2", "b:=40")
    assert (done.code, done.out) == (0, "42")


async def test_call_a_route(shell, mesh):
    await mesh.start(users())
    done = await shell("call", "GET", "/users/7?full=true")
    assert (done.code, done.json) == (0, {"id": 7, "full": True})
    assert (await shell("call", "GET", "/users/7", "full=true")).json["full"] is True
    done = await shell("call", "POST", "/users", "name=Ada", "age:=36", "-i")
    assert (done.code, done.json) == (0, {"name": "Ada", "age": 36})
    assert done.err.startswith("201 Created\n")
    assert "content-type: application/json" in done.err
    done = await shell("call", "POST", "/users", "-d", '{"name": "Eve"}', "-H", "x-a: b", "--json")
    assert (done.json["status"], done.json["body"]["name"]) == (201, "Eve")
    done = await shell("call", "HEAD", "/users/7", "-i")
    assert (done.code, done.out) == (0, "")
    done = await shell("call", "GET", "/users/0")
    assert (done.code, done.json["reason"]) == (1, "invalid")
    done = await shell("call", "GET", "/users/avatar.bin")
    assert done.raw == b"\xff\x00\x1b[2J"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["GET", "/user/7"], "no service announces /user/7. Near: GET /users/{user_id}"),
        (["PUT", "/users"], "answers OPTIONS, POST, and not PUT"),
        (["GET", "/%2e%2e/x"], "Segment 1"),
        (["GET", "/users/7", "-H", "mesh-identity: me"], "does not cross"),
        (["GET", "/users/7", "-H", "a b: c"], "not a token"),
    ],
)
async def test_calls_that_cannot_be(shell, mesh, arguments, expected):
    await mesh.start(users())
    done = await shell("call", *arguments)
    assert (done.code, done.out) == (1, "")
    assert expected in done.err


async def test_call_gives_up_in_time(shell, mesh):
    service = Service("slow")

    @service.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    await mesh.start(service)
    began = time.monotonic()
    for arguments in (["GET", "/slow"], ["slow", "slow"]):
        done = await shell("call", *arguments, "--timeout", "0.2")
        assert (done.code, "deadline" in done.err) == (1, True)
    assert time.monotonic() - began < 9


async def test_call_on_a_terminal(shell, mesh):
    """Indented there, and a body can steer nothing."""
    service = Service("texts")

    @service.get("/json")
    async def document() -> dict[str, str]:
        return {"text": "a\x9b2J"}

    @service.get("/text")
    async def text() -> Response:
        return Response("one\ttwo\nevil\x1b[2J", content_type="text/plain")

    await mesh.start(service)
    await mesh.start(users())
    shown = await on_terminal(shell, "call", "GET", "/json")
    assert '{\n  "text": "a\\x9b2J"\n}\n' in shown
    assert "one\ttwo\nevil\\x1b[2J\n" in await on_terminal(shell, "call", "GET", "/text")
    assert "5 bytes" not in (shown := await on_terminal(shell, "call", "GET", "/users/avatar.bin", "-i"))
    assert "6 bytes that are not text" in shown
    assert "x-note: evil\\x9b2J" in shown


def streams() -> Service:
    service = Service("streams")
    service.closed = asyncio.Event()

    @service.get("/ticks")
    async def ticks():
        try:
            yield b"first\n"
            await asyncio.Event().wait()
        finally:
            service.closed.set()

    @service.get("/numbers")
    async def numbers(broken: bool = False):
        yield b"one\n"
        if broken:
            raise RuntimeError("a bug")
        yield b"two\n"

    @service.get("/texts")
    async def texts(octets: bool = False):
        yield "evil\x1b[2J\tä".encode()[:-1]
        yield b"\xff\n" if octets else "ä".encode()[1:] + b"\nlast"

    return service


async def test_call_shows_a_stream_as_it_comes(shell, mesh):
    service = streams()
    await mesh.start(service)
    for arguments in (["GET", "/ticks", "-i"], ["streams", "ticks"]):
        service.closed.clear()
        running = await shell.start("call", *arguments, "--timeout", "5")
        await running.line("^first$")
        assert not service.closed.is_set()
        assert await running.end(signal.SIGINT) == 130
        await asyncio.wait_for(service.closed.wait(), 10)  # the service was told
        assert (b"200 OK" in running.errors) == ("-i" in arguments)


async def test_call_of_a_stream_that_ends(shell, mesh):
    await mesh.start(streams())
    assert (await shell("call", "GET", "/numbers")).out == "one\ntwo\n"
    done = await shell("call", "streams", "numbers", "--json")
    assert (done.code, done.json["status"], done.json["body"]) == (0, 200, "one\ntwo\n")
    assert (await shell("call", "HEAD", "/numbers", "-i")).out == ""
    done = await shell("call", "GET", "/numbers", "broken=true")
    assert (done.code, done.out) == (1, "one\n")
    assert done.err.startswith("error: ")


async def test_a_stream_on_a_terminal(shell, mesh):
    await mesh.start(streams())
    assert "evil\\x1b[2J\tä\nlast\n" in await on_terminal(shell, "call", "GET", "/texts")
    shown = await on_terminal(shell, "call", "GET", "/texts", "octets=true")
    assert "evil\\x1b[2J\t\n" in shown
    assert "not text" in shown
