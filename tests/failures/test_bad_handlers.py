"""Handlers that hang, raise or answer garbage: the client is told which, and its connection lives on."""

import asyncio
from functools import partial

import pytest

from mesh import Context, Service
from mesh.streams import frames
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire, NatsWire, hpub, pub

STATUS = b"NATS/1.0\r\nMesh-Status: 200\r\n"


def good() -> Service:
    service = Service("good")

    @service.get("/alive")
    async def alive() -> str:
        return "yes"

    return service


def bad() -> Service:
    service = Service("bad")

    @service.get("/hang", timeout=0.3)
    async def hang(ctx: Context) -> None:
        await ctx.cancelled.wait()

    @service.get("/deaf", timeout=0.3)
    async def deaf() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # takes its time to go
            raise

    @service.get("/raise")
    async def fail() -> None:
        raise ZeroDivisionError("a secret")

    @service.get("/exit")
    async def leave() -> None:
        raise SystemError("a secret too")

    @service.get("/unencodable")
    async def unencodable() -> object:
        return object()

    @service.get("/recursive")
    async def recursive() -> object:
        nested: list[object] = []
        nested.append(nested)
        return nested

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(good(), bad(), nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


async def alive(http):
    answer = await http.ask("GET", "/alive")
    assert (answer.status, answer.body) == (200, b'"yes"')


async def test_a_handler_that_fails_costs_nobody_the_connection(mesh):
    expected = {
        "/hang": (504, "deadline_exceeded"),
        "/deaf": (504, "deadline_exceeded"),
        "/raise": (500, "internal"),
        "/exit": (500, "internal"),
        "/unencodable": (500, "internal"),
        "/recursive": (500, "internal"),
    }
    async with HttpWire(mesh.gateway.port) as http:
        seen = {}
        for path in expected:
            answer = await http.ask("GET", path)
            seen[path] = (answer.status, answer.reason)
            assert b"secret" not in answer.body
            await alive(http)
        assert seen == expected
    await eventually(lambda: len(mesh.gateway.bus.requests) == 0)  # a probe may be open for a moment
    await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)


# What a responder sends that is no instance of the mesh, or a broken one: header block, payload, and what the
# client sees of it.
GARBAGE = {
    "no headers": (None, b"hello", 504),
    "an empty block": (b"NATS/1.0\r\n\r\n", b"", 504),
    "no status": (b"NATS/1.0\r\nx-other: 1\r\n\r\n", b"x", 504),
    "a status in a value": (b"NATS/1.0\r\nx-text: Mesh-Status: 200\r\n\r\n", b"x", 504),
    "a status in the first line": (b"NATS/1.0 Mesh-Status: 200\r\n\r\n", b"x", 504),
    "no block at all": (b"Mesh-Status: 200", b"x", 504),
    "binary": (bytes(range(256)) + b"Mesh-Status:", b"x", 504),
    "a status of letters": (b"NATS/1.0\r\nMesh-Status: abc\r\n\r\n", b"x", 502),
    "an empty status": (b"NATS/1.0\r\nMesh-Status:\r\n\r\n", b"x", 502),
    "a status with its phrase": (b"NATS/1.0\r\nMesh-Status: 200 OK\r\n\r\n", b"x", 502),
    "a status below": (b"NATS/1.0\r\nMesh-Status: 099\r\n\r\n", b"x", 502),
    "an informational status": (b"NATS/1.0\r\nMesh-Status: 101\r\n\r\n", b"x", 502),
    "a status beyond": (b"NATS/1.0\r\nMesh-Status: 600\r\n\r\n", b"x", 502),
    "a negative status": (b"NATS/1.0\r\nMesh-Status: -20\r\n\r\n", b"x", 502),
    "wide digits": ("NATS/1.0\r\nMesh-Status: \uff12\uff10\uff10\r\n\r\n".encode(), b"x", 502),
    "an endless status": (b"NATS/1.0\r\nMesh-Status: " + b"2" * 10_000 + b"\r\n\r\n", b"x", 502),
    "cut off in the status": (b"NATS/1.0\r\nMesh-Status: 2", b"", 502),
    "cut off before the status": (b"NATS/1.0\r\nMesh-Sta", b"", 504),
    "a line break in a value": (STATUS + b"x-bad: a\nset-cookie: forged=1\r\n\r\n", b"x", 502),
    "a carriage return in a value": (STATUS + b"x-bad: a\rset-cookie: forged=1\r\n\r\n", b"x", 502),
    "a NUL in a value": (STATUS + b"x-bad: a\0b\r\n\r\n", b"x", 502),
    "a blank in a name": (STATUS + b"x bad: 1\r\n\r\n", b"x", 502),
    "a control character in a name": (STATUS + b"x\x07: 1\r\n\r\n", b"x", 502),
    "a name that is no text": (STATUS + b"\xff\xfe: 1\r\n\r\n", b"x", 502),
    "a stream from elsewhere": (STATUS + b"Mesh-Stream: mesh.announce.a.b\r\n\r\n", b"", 502),
    "a stream after a bad header": (STATUS + b"x bad: 1\r\nMesh-Stream: PREFIX.stream.a.b.c\r\n\r\n", b"", 502),
}


@pytest.fixture
async def impostor(mesh, nats_url, prefix):
    """A responder of bare bytes on the subjects of an instance; ``impostor.say`` sets what it answers."""
    fake = Service("fake")

    @fake.route("*", "/fake", timeout=0.4)
    async def answer() -> None: ...

    instance = await mesh.start(fake)
    await instance.bus.unsubscribe(*instance._requests)
    async with NatsWire(nats_url) as wire:
        wire.say = lambda reply: b""
        await wire.answer(f"{prefix}.to.fake.{instance.id}.*", lambda reply: wire.say(reply))
        yield wire


async def test_garbage_is_502_or_ignored_and_the_connection_lives_on(mesh, impostor, prefix):
    reasons = {502: "bad_reply", 504: "deadline_exceeded"}
    seen = {}
    async with HttpWire(mesh.gateway.port) as http:
        for what, (block, payload, _) in GARBAGE.items():
            reply_with = hpub if block is not None else _bare
            impostor.say = partial(_say, reply_with, block and block.replace(b"PREFIX", prefix.encode()), payload)
            answer = await http.ask("GET", "/fake")
            seen[what] = (answer.status, answer.reason)
            assert "set-cookie" not in answer.headers, what
            await alive(http)
    assert seen == {what: (status, reasons[status]) for what, (_, _, status) in GARBAGE.items()}
    assert len(mesh.gateway.streams) == 0
    assert mesh.gateway.bus.statistics()["reconnects"] == 0
    await eventually(lambda: len(mesh.gateway.bus.requests) == 0)  # a probe may be open for a moment


def _bare(reply, _, payload):
    return pub(reply, payload)


def _say(command, block, payload, reply):
    return command(reply, block, payload)


# How a reply describes its own body, which nobody must believe: header block, payload, method; and the status and
# length that the client is told.
FRAMING = [
    (STATUS + b"content-length: 5\r\n\r\n", b"x", "GET", 200, "1"),
    (STATUS + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", b"abc", "GET", 200, "3"),
    (STATUS + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n", b"abc", "GET", 200, "3"),
    (STATUS + b"content-length: -1\r\n\r\n", b"", "HEAD", 200, "0"),
    (STATUS + b"no colon here\r\n: no name\r\n\r\n", b"abc", "GET", 200, "3"),
    (STATUS, b"abc", "GET", 200, "3"),  # its last line break is missing
    (b"NATS/1.0\r\nMesh-Status: 204\r\n\r\n", b"a body", "GET", 204, None),
    (b"NATS/1.0\r\nmesh-status: 304\r\n\r\n", b"a body", "GET", 304, None),
]


async def test_the_gateway_frames_its_responses_itself(mesh, impostor):
    """Nothing that a service says can shift the response that comes next."""
    async with HttpWire(mesh.gateway.port) as http:
        for block, payload, method, status, length in FRAMING:
            impostor.say = partial(_say, hpub, block, payload)
            answer = await http.ask(method, "/fake")
            assert (answer.status, answer.headers.get("content-length")) == (status, length), block
            assert "transfer-encoding" not in answer.headers
            assert answer.headers.get("connection") != "close"
            await alive(http)


async def test_second_replies_and_replies_to_nobody_are_dropped(mesh, impostor, prefix):
    inbox = mesh.gateway.bus._inbox.encode()
    answered = STATUS + b"\r\n"
    impostor.say = lambda reply: hpub(reply, answered, b"first") + hpub(reply, answered, b"second")
    async with HttpWire(mesh.gateway.port) as http:
        assert (await http.ask("GET", "/fake")).body == b"first"
        late = mesh.gateway.bus.requests.late
        for token in (b"0" * 12, b"x", b"%s" % (b"y" * 500)):
            await impostor.send(hpub(inbox + b"." + token, answered, b"forged"))
        await mesh.gateway.bus.flush()
        assert mesh.gateway.bus.requests.late >= late + 3
        await alive(http)


async def test_whoever_gives_up_an_upload_chooses_no_status_outside_http(mesh, impostor):
    abort = b"NATS/1.0\r\nMesh-Frame: 1 %b\r\n\r\n" % frames.ABORT
    body = b"x" * (mesh.gateway.bus.max_payload + 1)
    async with HttpWire(mesh.gateway.port) as http:
        for document in (b'{"status":99999}', b'{"status":-1}', b'{"status":true}', b'{"status":200}', b"[", b""):
            impostor.say = partial(_say, hpub, abort, document)
            assert (await http.ask("POST", "/fake", body)).status == 502, document
            await alive(http)
