"""What headers come to is remembered on a connection, and nobody can tell but by the time it takes.

Whatever is sent behind a request with the same headers must be answered as it is on a fresh connection.
"""

import random

import pytest

from gateway.request_reader import REMEMBERED
from mesh import Request, Service
from mesh.testing import Mesh
from tests.gateway.memory import Client
from tests.gateway.test_framing import get

HEADERS = ("Accept: text/plain", "Cookie: a=b", "X-A: b")


def echoing() -> Service:
    service = Service("echoing")

    @service.route("*", "/echo/{path:path}")
    async def echo(request: Request, path: str) -> dict[str, object]:
        headers = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request.pairs if n in (b"x-a", b"cookie")]
        return {"method": request.method, "target": request.target, "body": request.body.decode(), "headers": headers}

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(echoing(), nats_url=nats_url, prefix=prefix, gateway={"http_lane": "direct"}) as mesh:
        yield mesh


@pytest.fixture
async def client(mesh):
    """Makes connections: fresh ones, and such that have seen a request with the usual headers."""
    made = []

    async def connect(first=None):
        client = Client(mesh)
        made.append(client)
        if first is not None:
            assert [status for status, _ in await client.ask(first)] == [200]
            assert client.connection._known is not None
        return client

    yield connect
    for one in made:
        one.close()


REST = get("/", *HEADERS).partition(b"\r\n")[2]
LINES = [
    b"GET /echo/a?x=1 HTTP/1.1",
    b"DELETE /echo/a HTTP/1.1",
    b"PROPFIND /echo/a HTTP/1.1",
    b"OPTIONS /echo/a HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT x.test:1 HTTP/1.1",
    b"get /echo/a HTTP/1.1",
    b"GETT /echo/a HTTP/1.1",
    b"GET /echo/a HTTP/1.0",
    b"GET /echo/a HTTP/2.0",
    b"GET /echo/a HTTP/1.1 ",
    b"GET  /echo/a HTTP/1.1",
    b"GET /echo/a  HTTP/1.1",
    b"GET\t/echo/a HTTP/1.1",
    b" GET /echo/a HTTP/1.1",
    b"GET /echo/a",
    b"GET /echo/a http/1.1",
    b"GET echo/a HTTP/1.1",
    b"GET http://mesh.test/echo/a HTTP/1.1",
    b"GET /echo/a#b HTTP/1.1",
    b"GET /echo/../a HTTP/1.1",
    b"GET /echo/%zz HTTP/1.1",
    b"GET /echo/%2e%2e/x HTTP/1.1",
    b"GET /nobody HTTP/1.1",
    b"GET /health HTTP/1.1",
    b"GET /he%61lth HTTP/1.1",
    b"GET /livez HTTP/1.1",
    b"GET /echo/" + b"a" * 9000 + b" HTTP/1.1",
    b"",
    *[b"GET /echo/a%cb HTTP/1.1" % byte for byte in range(256)],
    *[b"GET /echo/a?b%cc HTTP/1.1" % byte for byte in range(256)],
]


async def test_every_request_line_is_answered_as_on_a_fresh_connection(client):
    usual = get("/echo/first", *HEADERS)
    different = []
    for line in LINES:
        request = line + b"\r\n" + REST
        fresh, used = await client(), await client(usual)
        expected, found = await fresh.ask(request), await used.ask(request)
        for seen in (expected, found):
            if seen and seen[0][0] == 200 and "uptime_s" in str(seen[0][1]):
                seen[0] = (200, "the gateway's own")
        if (found, fresh.wire.closed) != (expected, used.wire.closed):
            different.append((line, expected, found))
    assert different == []


async def test_headers_that_come_again_are_not_read_again(client, monkeypatch):
    used = await client(get("/echo/first", *HEADERS))
    monkeypatch.setattr("gateway.request_reader.read_head", None)  # whoever used it would fail
    for number in range(3):
        ((status, document),) = await used.ask(get(f"/echo/{number}?q={number}", *HEADERS))
        assert (status, document["target"]) == (200, f"/echo/{number}?q={number}")
        assert document["headers"] == [["cookie", "a=b"], ["x-a", "b"]]


async def test_a_header_that_differs_is_seen(client):
    used = await client(get("/echo/first", *HEADERS))
    for value in ("c", "b ", "bb", ""):
        ((_, document),) = await used.ask(get("/echo/a", *HEADERS[:2], f"X-A: {value}"))
        assert document["headers"][1] == ["x-a", value.strip()]
    ((_, document),) = await used.ask(get("/echo/a"))
    assert document["headers"] == []


async def test_bodies_of_the_same_length_and_others(client):
    used = await client(get("/echo/a", "Content-Length: 5", method="POST") + b"first")
    same = get("/echo/a", "Content-Length: 5", method="PUT")
    ((_, document),) = await used.ask(same + b"again")
    assert (document["method"], document["body"]) == ("PUT", "again")
    ((_, document),) = await used.ask(same, b"piece")
    assert document["body"] == "piece"
    ((_, document),) = await used.ask(same + b"cut", b"!!")
    assert document["body"] == "cut!!"
    found = await used.ask(same + b"one11" + same + b"two22", answers=2)
    assert [document["body"] for _, document in found] == ["one11", "two22"]
    ((_, document),) = await used.ask(get("/echo/a", "Content-Length: 4", method="PUT") + b"four")
    assert document["body"] == "four"


async def test_a_request_in_pieces_behind_one_that_was_not_parsed(client):
    usual = get("/echo/first", *HEADERS)
    used = await client(usual)
    for cut in range(1, len(usual)):
        found = await used.ask(usual) + await used.ask(usual[:cut], usual[cut:])
        assert [status for status, _ in found] == [200, 200]


async def test_a_body_that_looks_like_a_request_is_a_body(client):
    usual = get("/echo/first", *HEADERS)
    used = await client(usual)
    found = await used.ask(get("/echo/a", f"Content-Length: {len(usual)}", method="POST"), usual)
    assert [document["body"] for _, document in found] == [usual.decode()]


async def test_a_refused_request_and_the_head_behind_it_leave_nothing_for_the_next(client):
    """Their lengths fit each other, as if the one were the headers of the other."""
    used, refused = await client(), get("/%zz", *HEADERS)
    second = get("/echo/second", "Authorization: Bearer X", "Content-Length: 200", method="POST")
    second = second.replace(b"/second", b"/second" + b"d" * (200 - len(second)))
    third, fourth = get("/echo/third", *HEADERS), get("/echo/" + "f" * (200 - len(get("/echo/"))))
    assert len(second) == len(fourth) == 200
    found = await used.ask(refused + second, b"x" * 200, third + fourth, answers=4)
    assert [status for status, _ in found] == [400, 200, 200, 200]
    assert [document["method"] for _, document in found[1:]] == ["POST", "GET", "GET"]
    assert [document["body"] for _, document in found[1:]] == ["x" * 200, "", ""]


async def test_pipelined_requests_are_read_by_the_parser_and_in_order(client):
    usual = get("/echo/first", *HEADERS)
    used = await client(usual)
    requests = [get(f"/echo/{number}", *HEADERS) for number in range(5)]
    found = await used.ask(*requests, answers=5)
    assert [document["target"] for _, document in found] == [f"/echo/{number}" for number in range(5)]
    found = await used.ask(b"".join(requests), answers=5)
    assert [document["target"] for _, document in found] == [f"/echo/{number}" for number in range(5)]


@pytest.mark.parametrize(
    "first",
    [get("/echo/a", "X-A: " + "b" * REMEMBERED), get("/echo/a", version="1.0", host=b"")],
    ids=["much", "without a host"],
)
async def test_what_is_large_or_unusual_is_not_remembered(client, first):
    used = await client()
    await used.ask(first)
    assert used.connection._known is None


PIECES = [
    *[get(f"/echo/{number}", *HEADERS[:number]) for number in range(4)],
    *[get("/echo/b", *HEADERS, f"Content-Length: {size}", method="POST") + b"x" * size for size in (0, 1, 97)],
    get("/echo/b", *HEADERS, "Content-Length: 200", method="POST"),
    get("/%zz", *HEADERS),
    get("/nobody", *HEADERS),
    REST,
    b"x",
    b"\r\n",
]


async def test_random_bytes_are_answered_alike_with_and_without_what_is_remembered(client):
    """Valid requests, pieces of them and bytes that are nothing, on a connection that remembers and one that cannot."""
    for seed in range(300):
        rng = random.Random(seed)
        pieces = []
        for _ in range(rng.randint(1, 6)):
            piece = b"".join(rng.choices(PIECES, k=rng.randint(1, 3)))
            if rng.random() < 0.2:
                at = rng.randrange(len(piece))
                piece = piece[:at] + rng.randbytes(1) + piece[at + rng.randint(0, 1) :]
            pieces.append(piece)
        end = b"\r\n" + get("/echo/end", "Connection: close") + b"\0"
        seen = []
        for remembers in (True, False):
            one = await client()
            for piece in [*pieces, end]:
                if not remembers:
                    one.connection._known = None
                one.send_more(piece)
            seen.append(await one.settled())
        assert seen[0] == seen[1], (seed, pieces)
