"""Random pipelines in random segments, on both lanes: h11 says what they are, and every connection ends.

Whatever comes, each whole request is answered in its order, and places, memory, tasks and connections come back.
"""

import asyncio
import contextlib
import json
import os
import random

import h11
import pytest

from mesh import Request, Response, Service
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.memory import Peer
from tests.gateway.test_framing import answers, get

SEQUENCES, MORE_SEQUENCES = 250, 1000
"""For each lane; more in full."""
AT_ONCE = 50


BROKEN = [
    b"GARBAGE\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n",
]


def echoing():
    service = Service("echoing")

    async def answer(request: Request) -> Response:
        return Response({"method": request.method, "target": request.target, "body": request.body.decode("latin-1")})

    @service.route("*", "/echo")
    async def echo(request: Request) -> Response:
        return await answer(request)

    @service.route("*", "/slow")
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.005)
        return await answer(request)

    @service.get("/lines")
    async def lines():
        yield b"one\n"
        yield b"two\n"

    return service


def body_of(rng):
    size = rng.choice([0, 1, 5, 60, 900, 20_000, 90_000])
    return (bytes(rng.choices(b"abc \r\n{}0", k=min(size, 100))) * (size // 100 + 1))[:size]


def chunked(rng, body):
    pieces, at = [], 0
    while at < len(body):
        size = rng.choice([1, 3, 1000, 70_000])
        piece = body[at : at + size]
        pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), rng.choice([b"", b";a=b"]), piece))
        at += size
        if len(pieces) > 20:
            pieces.append(b"%x\r\n%b\r\n" % (len(body) - at, body[at:]) if at < len(body) else b"")
            break
    return b"".join(pieces) + b"0\r\n" + rng.choice([b"", b"X-Trailer: t\r\nHost: other\r\n"]) + b"\r\n"


def request_of(rng, number):
    """One request, as bytes."""
    path = f"{rng.choice(['/echo', '/slow', '/nowhere'])}?n={number}"
    kind = rng.randrange(8)
    if kind == 0:
        return get(rng.choice(["/livez", "/lines"]))
    if kind == 1:
        return get(path, method=rng.choice(["HEAD", "DELETE", "GET"]))
    if kind == 2:
        return get(path.replace("/", "http://mesh.test/", 1))
    body = body_of(rng)
    expect = [] if rng.random() < 0.8 else ["Expect: 100-continue"]
    if kind in (3, 4):
        return get(path, "Transfer-Encoding: chunked", *expect, method="POST") + chunked(rng, body)
    if kind in (5, 6):
        return get(path, f"Content-Length: {len(body)}", *expect, method=rng.choice(["POST", "PUT"])) + body
    return get(path)


def sequence_of(rng):
    """Bytes, and whether their sender closes its half behind them."""
    stream = b"".join(request_of(rng, number) for number in range(rng.randint(1, 6)))
    ending = rng.randrange(5)
    if ending == 0:
        return stream + rng.choice(BROKEN), False
    if ending == 1:
        return stream + get("/echo", "Content-Length: 9", method="POST") + b"abc", True
    if ending == 2:
        return stream, True
    return stream + get(rng.choice(["/echo", "/slow"]), "Connection: close"), False


def segments_of(rng, stream):
    """The same bytes, cut in places that are near to each other, or far."""
    size, at, segments = rng.choice([7, 100, 3000, 300_000]), 0, []
    if len(stream) > 3000 * size:
        size = 3000
    while at < len(stream):
        length = rng.randint(1, size)
        segments.append(stream[at : at + length])
        at += length
    return segments


def requests_in(stream):
    """What h11 sees: (method, target, body) of the whole requests, and whether something else comes behind them."""
    server, seen = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), []
    server.receive_data(stream)
    server.receive_data(b"")
    while True:
        method, target, body = "", "", b""
        try:
            while True:
                event = server.next_event()
                if isinstance(event, h11.Request):
                    method, target = event.method.decode(), event.target.decode().removeprefix("http://mesh.test")
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    assert isinstance(event, h11.ConnectionClosed), event
                    return seen, False
        except h11.RemoteProtocolError as error:
            return seen, "without sending complete message" not in str(error)
        seen.append((method, target, body.decode()))
        server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        if server.our_state is h11.MUST_CLOSE:
            return seen, False
        server.start_next_cycle()


def check(stream, received):
    """The answers are those to what h11 sees, each in its place; the last may be a refusal of what is no request."""
    expected, is_broken = requests_in(stream)
    found = [one for one in answers(received, *[method for method, _, _ in expected], "GET") if one[0] >= 200]
    if is_broken:
        assert found.pop()[0] == 400
    assert len(found) == len(expected)
    for (method, target, body), (status, _, answer) in zip(expected, found, strict=True):
        if target.startswith("/nowhere"):
            assert status == 404
        elif target == "/lines":
            assert answer == b"one\ntwo\n"
        else:
            assert status == 200
            if method != "HEAD" and target != "/livez":
                assert json.loads(answer) == {"method": method, "target": target, "body": body}


@pytest.mark.parametrize("lane", ["direct", "asgi"])
async def test_random_pipelines_in_random_segments(nats_url, prefix, full, lane):
    sequences = MORE_SEQUENCES if full else SEQUENCES
    start = 0 if lane == "direct" else sequences  # each lane its own: twice as many different ones
    settings = {"http_lane": lane, "foreign_s": 0, "access_log": False}
    async with Mesh(echoing(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        before = None
        for first in range(start, start + sequences, AT_ONCE):
            peers = []
            for seed in range(first, first + AT_ONCE):
                rng = random.Random(seed)
                stream, eof = sequence_of(rng)
                peers.append((seed, stream, Peer(mesh, segments_of(rng, stream), eof=eof)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    for _, _, peer in peers:
                        await peer.ended.wait()
            assert [seed for seed, _, peer in peers if not peer.ended.is_set()] == []
            wrong = [(seed, error) for seed, stream, peer in peers if (error := fault(stream, peer.received))]
            assert wrong == []
            await eventually(lambda: taken(mesh)[:5] == (0, 0, 0, 0, 0))
            before = before or taken(mesh)  # what the first of them leave for good: tasks of the bus and of streams
            await eventually(lambda: all(now <= then for now, then in zip(taken(mesh), before, strict=True)))  # noqa: B023


def fault(stream, received):
    """What `check` has against it, if anything."""
    try:
        check(stream, received)
    except AssertionError as error:
        return str(error) or "different"
    return None


def taken(mesh):
    """What must be as it was when everything is over."""
    lifecycle, state = mesh.gateway.lifecycle, mesh.gateway._listeners[0].server_state
    waiting = lifecycle.limits.waiting + sum(lifecycle.limits._inflight.values())
    held = lifecycle.inflight, lifecycle.body_memory.used, waiting, len(state.connections), len(state.tasks)
    return *held, len(asyncio.all_tasks()), len(os.listdir("/dev/fd"))
