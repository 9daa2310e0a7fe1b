"""One table of requests, answered by uvicorn directly and through the mesh: status, headers and bodies are the same.

Left out of the comparison: ``date`` and ``server``, and what the gateway adds (``x-request-id``), frames itself
(``content-length`` against ``transfer-encoding``, ``connection``).
"""

import asyncio
import contextlib
import re
import socket

import httpx
import pytest
import uvicorn

from mesh import adapt
from mesh.testing import Mesh
from tests.adapters import flask_app, litestar_app
from tests.adapters.fastapi_app import app as fastapi_app
from tests.conditions import eventually

EXPIRES = re.compile(r"expires=[^;]*")  # of cookies: the second in which it was asked
OWN = {"date", "server", "x-request-id", "content-length", "transfer-encoding", "connection"}


@contextlib.asynccontextmanager
async def under_uvicorn(app, **options):
    """The application's own address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, **options))
    serving = asyncio.create_task(server.serve([sock]))
    await eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        sock.close()


def upload(*files, **fields):
    return {"files": [("files", file) for file in files], "data": fields}


BIG = b"0123456789abcdef" * 200_000  # 3.2 MB: more than one message
JSON = {"content-type": "application/json"}

FASTAPI = [
    ("GET", "/", {}),
    ("HEAD", "/", {}),
    ("GET", "/?", {}),
    ("GET", "/items/7", {}),
    ("GET", "/items/7?q=a%20b+c&color=blue", {}),
    ("GET", "/items/7?q=%C3%A9%E2%98%83", {}),
    ("GET", "/items/7?color=green", {}),
    ("GET", "/items/x", {}),
    ("GET", "/items/1001", {}),
    ("GET", "/items/%37", {}),
    ("POST", "/items", {"json": {"name": "cup", "price": 2.5, "tags": ["a"]}}),
    ("POST", "/items", {"json": {"name": "", "price": -1}}),
    ("POST", "/items", {"content": b"{", "headers": JSON}),
    ("POST", "/items", {"content": b"", "headers": JSON}),
    ("POST", "/items", {"content": b'{"name":"cup","price":1}', "headers": {"content-type": "text/plain"}}),
    ("POST", "/items", {}),
    ("GET", "/any", {}),
    ("PUT", "/any", {"content": b"put"}),
    ("PATCH", "/any", {"content": b"\xe2\x98\x83"}),
    ("DELETE", "/any", {}),
    ("OPTIONS", "/any", {}),
    ("GET", "/search", {}),
    ("GET", "/search?skip=5&limit=7&tag=a&tag=b&tag=", {}),
    ("GET", "/search?limit=101", {}),
    ("GET", "/me", {}),
    ("GET", "/me", {"headers": {"authorization": "Bearer good"}}),
    ("GET", "/me", {"headers": {"authorization": "Bearer bad"}}),
    ("GET", "/cookies", {}),
    ("GET", "/cookies", {"headers": {"cookie": "other=1; seen=yes%20; x"}}),
    ("GET", "/headers", {"headers": [("x-repeated", "1"), ("X-Repeated", "2"), ("x-repeated", "")]}),
    ("GET", "/redirect", {}),
    ("GET", "/redirect?code=303", {}),
    ("GET", "/redirect?code=301", {}),
    ("GET", "/url", {}),
    ("GET", "/url?a=1&a=%202&b", {}),
    ("GET", "/files/a", {}),
    ("GET", "/files/a/b%2Fc/d%20e", {}),
    ("GET", "/files/", {}),
    ("GET", "/files/%C3%A9/%E2%98%83.txt", {}),
    ("GET", "/reports/july.csv", {}),
    ("GET", "/reports/july.txt", {}),
    ("POST", "/form", {"data": {"name": "Ann & Bob", "age": "7"}}),
    ("POST", "/form", {"data": {"age": "x"}}),
    ("POST", "/upload", upload(("a.txt", b"small", "text/plain"), note="hi")),
    ("POST", "/upload", upload(("a.bin", BIG, "application/octet-stream"), ("b", b"", "text/x"), note="\N{SNOWMAN}")),
    ("POST", "/upload", {"data": {"note": "no file"}}),
    ("POST", "/raw", {"content": b""}),
    ("POST", "/raw", {"content": b"x" * 1000}),
    ("POST", "/raw", {"content": BIG}),
    ("GET", "/html", {}),
    ("HEAD", "/html", {}),
    ("GET", "/bytes/0", {}),
    ("GET", "/bytes/1000", {}),
    ("GET", "/bytes/5000", {}),
    ("GET", "/bytes/5000", {"headers": {"accept-encoding": "identity"}}),
    ("GET", "/bytes/3000000", {"headers": {"accept-encoding": "identity"}}),
    ("GET", "/bytes/3000000", {"headers": {"accept-encoding": "gzip"}}),
    ("GET", "/stream", {}),
    ("GET", "/stream?count=0", {}),
    ("GET", "/stream?count=2000", {"headers": {"accept-encoding": "gzip"}}),
    ("GET", "/file", {}),
    ("GET", "/file", {"headers": {"range": "bytes=0-99"}}),
    ("GET", "/broken", {}),
    ("GET", "/crash", {}),
    ("GET", "/status/201", {}),
    ("GET", "/status/204", {}),
    ("GET", "/status/304", {}),
    ("GET", "/status/404", {}),
    ("GET", "/status/503", {}),
    ("POST", "/background", {}),
    ("GET", "/v1/things", {}),
    ("DELETE", "/v1/things/9", {}),
    ("GET", "/v1/inner/deep", {}),
    ("GET", "/sub/page", {}),
]

FLASK = [
    ("GET", "/legacy", {}),
    ("GET", "/legacy/", {}),
    ("HEAD", "/legacy/", {}),
    ("GET", "/legacy/hello/Ann%20B?x=1&x=2", {}),
    ("GET", "/legacy/nowhere", {}),
    ("POST", "/legacy/form", {"data": {"name": "Ann"}}),
    ("POST", "/legacy/json", {"json": {"a": [1, 2]}}),
    ("POST", "/legacy/json", {"content": b"{", "headers": JSON}),
    ("POST", "/legacy/raw", {"content": BIG}),
    ("GET", "/legacy/cookies", {"headers": {"cookie": "seen=1"}}),
    ("GET", "/legacy/redirect", {}),
    ("GET", "/legacy/stream", {}),
    ("GET", "/legacy/crash", {}),
    ("DELETE", "/legacy/json", {}),
    ("GET", "/legacy/url/a%2Fb", {}),
]

LITESTAR = [
    ("GET", "/shop", {}),
    ("GET", "/shop/items/7?q=a%20b", {}),
    ("GET", "/shop/items/x", {}),
    ("POST", "/shop/items", {"json": {"name": "cup", "price": 2.5}}),
    ("POST", "/shop/items", {"json": {"name": 1}}),
    ("POST", "/shop/upload", {"files": {"data": ("a.bin", BIG)}}),
    ("GET", "/shop/stream", {}),
    ("GET", "/shop/cookies", {}),
    ("GET", "/shop/redirect", {}),
    ("GET", "/shop/crash", {}),
    ("GET", "/shop/nowhere", {}),
    ("PUT", "/shop/items", {}),
]


async def answer(client, method, path, options):
    response = await client.request(method, path, **options)
    pairs = [(name, EXPIRES.sub("", value)) for name, value in response.headers.multi_items() if name not in OWN]
    return response, sorted(pairs)


async def compare(direct, through, table, monkeypatch):
    """Ask both for everything."""
    # httpx draws a boundary for every form: the same one for both, or lengths would differ.
    monkeypatch.setattr("os.urandom", lambda n: bytes(n))
    for method, path, options in table:
        here, here_headers = await answer(direct, method, path, options)
        there, there_headers = await answer(through, method, path, options)
        where = f"{method} {path} {str(options)[:200]}"
        assert there.status_code == here.status_code, (where, here.text[:300], there.text[:300])
        assert there_headers == here_headers, where
        assert there.content == here.content, where
        if method == "HEAD":
            assert there.headers.get("content-length") == here.headers.get("content-length"), where


@contextlib.asynccontextmanager
async def both(app, nats_url, mesh_prefix, *, direct_lifespan="on", **options):
    """Clients of the application under uvicorn, and through the mesh; both use the same Host."""
    adapted = adapt(app, name="adapted", **options)
    headers = {"host": "shop.example", "user-agent": "test"}
    async with (
        Mesh(adapted.service, nats_url=nats_url, prefix=mesh_prefix) as mesh,
        under_uvicorn(adapted.app, root_path=adapted.root_path, lifespan=direct_lifespan) as url,
        httpx.AsyncClient(base_url=url, headers=headers) as direct,
        httpx.AsyncClient(base_url=mesh.url, headers=headers) as through,
    ):
        yield direct, through


async def test_fastapi(nats_url, prefix, monkeypatch):
    assert len(FASTAPI) >= 60
    async with both(fastapi_app, nats_url, prefix, encoded_slashes=True) as (direct, through):
        await compare(direct, through, FASTAPI, monkeypatch)


async def test_flask(nats_url, prefix, monkeypatch):
    options = {"prefix": "/legacy", "encoded_slashes": True, "direct_lifespan": "off"}
    async with both(flask_app.app, nats_url, prefix, **options) as (direct, through):
        await compare(direct, through, FLASK, monkeypatch)


async def test_litestar(nats_url, prefix, monkeypatch):
    # One object cannot live two lives at a time here.
    async with both(litestar_app.app, nats_url, prefix, prefix="/shop", direct_lifespan="off") as (direct, through):
        await compare(direct, through, LITESTAR, monkeypatch)


@pytest.mark.parametrize("path", ["/nowhere", "/docs", "/openapi.json", "/hidden", "/health/x"])
async def test_what_is_not_announced_is_the_gateways(nats_url, prefix, path):
    async with both(fastapi_app, nats_url, prefix) as (_, through):
        response = await through.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
