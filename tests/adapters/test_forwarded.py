"""Whose request it is, as applications and servers behind a bridge hear it."""

import json

import pytest
from aiohttp import web
from fastapi import FastAPI, Request, WebSocket
from flask import Flask
from flask import request as flask_request
from websockets.asyncio.client import connect

from mesh import adapt
from mesh.bridge.proxy import Proxy
from mesh.testing import Mesh
from tests.adapters.test_bridge import bridged, server

PROXIED = {
    "x-forwarded-for": "6.6.6.6, 2001:db8::7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "shop.test:8443",
    "host": "inner.test",
    "x_forwarded_for": "6.6.6.6",
}
TRUSTED = {"trusted_proxies": ("127.0.0.1",)}


@pytest.fixture(params=["direct", "asgi"])
def lane(request):
    return request.param


def asgi():
    app = FastAPI()

    def facts(request):
        return {
            "client": request.client.host,
            "url": str(request.url),
            "server": list(request.scope["server"]),
            "host": request.headers.getlist("host"),
            "forwarded": [name for name in request.headers if "forwarded" in name],
        }

    @app.get("/facts")
    async def of_a_request(request: Request) -> dict[str, object]:
        return facts(request)

    @app.websocket("/socket")
    async def of_a_socket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_json(facts(ws))
        await ws.close()

    return app


@pytest.mark.parametrize(
    ("settings", "client", "url", "at"),
    [
        (TRUSTED, "2001:db8::7", "s://shop.test:8443", ["shop.test", 8443]),
        ({}, "127.0.0.1", "://inner.test", ["inner.test", 80]),
    ],
)
async def test_an_asgi_application(nats_url, prefix, lane, settings, client, url, at):
    gateway = {**settings, "http_lane": lane}
    async with Mesh(adapt(asgi(), name="shop").service, nats_url=nats_url, prefix=prefix, gateway=gateway) as mesh:
        expected = {"client": client, "server": at, "host": [url.partition("//")[2]], "forwarded": []}
        found = (await mesh.http.get("/facts", headers=PROXIED)).json()
        assert found == {**expected, "url": f"http{url}/facts"}
        given = {name: value for name, value in PROXIED.items() if name != "host"}
        async with connect(f"ws://127.0.0.1:{mesh.gateway.port}/socket", additional_headers=given) as ws:
            found = json.loads(await ws.recv())
        if settings:
            assert found == {**expected, "url": f"ws{url}/socket"}
        else:
            assert (found["client"], found["url"]) == (client, f"ws://127.0.0.1:{mesh.gateway.port}/socket")


async def test_a_wsgi_application(nats_url, prefix, lane):
    app = Flask(__name__)

    @app.get("/facts")
    def facts():
        names = [name for name in flask_request.environ if "FORWARDED" in name]
        return [flask_request.remote_addr, flask_request.url, flask_request.is_secure, names]

    service = adapt(app, name="shop", prefix="/facts").service
    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway={**TRUSTED, "http_lane": lane}) as mesh:
        found = (await mesh.http.get("/facts", headers=PROXIED)).json()
        assert found == ["2001:db8::7", "https://shop.test:8443/facts", True, []]


async def test_a_server_behind_a_bridge(nats_url, prefix, lane, monkeypatch):
    async def facts(request):
        return web.json_response([[name.lower(), value] for name, value in request.headers.items()])

    monkeypatch.setenv("MESH_HTTP_LANE", lane)
    async with server(web.get("/facts", facts)) as url, bridged(nats_url, prefix, url, routes=["GET /facts"]) as mesh:
        sent = {name: value for name, value in PROXIED.items() if name != "host"}
        for given in ({}, sent, {"forwarded": "for=6.6.6.6", "x-real-ip": "6.6.6.6", "cf-connecting-ip": "6.6.6.6"}):
            found = (await mesh.http.get("/facts", headers=given)).json()
            told = sorted(pair for pair in found if "forwarded" in pair[0].replace("_", "-"))
            host = f"127.0.0.1:{mesh.gateway.port}"
            assert told == [
                ["x-forwarded-for", "127.0.0.1"],
                ["x-forwarded-host", host],
                ["x-forwarded-proto", "http"],
            ]
            assert "6.6.6.6" not in str(found)
            assert ["host", host] in found


def test_a_bridge_says_it_once_whatever_callers_on_the_bus_send():
    forged = [(b"x-forwarded-for", b"6.6.6.6"), (b"x_forwarded_host", b"evil.test"), (b"forwarded", b"for=6.6.6.6")]
    scope = {"headers": [(b"host", b"shop.test"), *forged, (b"x-a", b"b")], "client": ("192.0.2.1", 0), "scheme": "wss"}
    assert Proxy._headers(scope) == [
        ("host", "shop.test"),
        ("x-a", "b"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.test"),
    ]
