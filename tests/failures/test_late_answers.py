"""Answers of applications that come when nobody waits for them any more leave every place free."""

import asyncio
import contextlib
import threading

import pytest
from aiohttp import web

from mesh import adapt
from mesh.adapters import asgi_http, asgi_websocket
from mesh.bridge import Bridge
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire
from tests.servers import server

MANY = 40  # more than there are threads for WSGI
DEADLINE_S = 1.0
ABANDONED_S = 0.5
WEBSOCKET = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)


class Gate:
    """Holds the application up until the test opens it; ``reached`` is how many requests the application has."""

    def __init__(self):
        self.open = asyncio.Event()
        self.thread = threading.Event()
        self.reached = 0
        self.under_way = 0

    def release(self):
        self.open.set()
        self.thread.set()

    @contextlib.contextmanager
    def passing(self):
        self.reached += 1
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1


def plain(gate):
    async def app(scope, receive, send):
        with gate.passing():
            await gate.open.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})

    return app


def streaming(gate):
    async def app(scope, receive, send):
        with gate.passing():
            await gate.open.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(30):
                await send({"type": "http.response.body", "body": b"late", "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


def endless(gate):
    """Sends without end, and never looks whether anybody is there."""

    async def app(scope, receive, send):
        with gate.passing():
            await gate.open.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"late", "more_body": True})

    return app


def silent(gate):
    """Begins a response late, and says nothing more until its client leaves."""

    async def app(scope, receive, send):
        with gate.passing():
            await receive()
            await gate.open.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await receive())["type"] != "http.disconnect":
                pass

    return app


def wsgi(pieces):
    def make(gate):
        def app(environ, start_response):
            with gate.passing():
                gate.thread.wait(30)
                start_response("200 OK", [("content-type", "text/plain")])
                number = 0
                while number < pieces:
                    yield b"late"
                    number += 1

        return app

    return make


def socket(gate):
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            return
        with gate.passing():
            await gate.open.wait()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "late"})
            while (await receive())["type"] != "websocket.disconnect":
                pass

    return app


def chatty(gate):
    """Sends without end over a WebSocket, and never receives."""

    async def app(scope, receive, send):
        with gate.passing():
            await gate.open.wait()
            await send({"type": "websocket.accept"})
            while True:
                await send({"type": "websocket.send", "text": "late"})

    return app


def served(make, interface="asgi"):
    @contextlib.asynccontextmanager
    async def serve(gate):
        adapted = adapt(make(gate), name="late", prefix="/late", interface=interface, lifespan=False)
        yield adapted.service, lambda: not adapted.tasks

    return serve


@contextlib.asynccontextmanager
async def bridged(gate):
    async def late(request):
        with gate.passing():
            await gate.open.wait()
            return web.Response(text="late")

    async with server(web.route("*", "/late", late)) as url:
        bridge = Bridge(url, name="late", prefix="/late")
        try:
            yield await bridge.open(), lambda: gate.under_way == 0
        finally:
            await bridge.aclose()


@contextlib.asynccontextmanager
async def bridged_socket(gate):
    async def late(request):
        with gate.passing():
            await gate.open.wait()
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for _ in ws:
                pass
            return ws

    async with server(web.get("/late", late)) as url:
        bridge = Bridge(url, name="late", prefix="/late")
        try:
            yield await bridge.open(), lambda: gate.under_way == 0
        finally:
            await bridge.aclose()


KINDS = {
    "asgi": (served(plain), ()),
    "asgi streaming": (served(streaming), ()),
    "asgi endless": (served(endless), ()),
    "asgi silent": (served(silent), ()),
    "wsgi": (served(wsgi(1), "wsgi"), ()),
    "wsgi streaming": (served(wsgi(30), "wsgi"), ()),
    "wsgi endless": (served(wsgi(float("inf")), "wsgi"), ()),
    "websocket": (served(socket), WEBSOCKET),
    "chatty websocket": (served(chatty), WEBSOCKET),
    "bridge": (bridged, ()),
    "bridged websocket": (bridged_socket, WEBSOCKET),
}


# The applications differ behind the bus, the lanes before it: of the ASGI lane one of each form of response is enough.
CASES = [(kind, "direct") for kind in KINDS] + [(kind, "asgi") for kind in ("asgi", "asgi streaming", "websocket")]


@pytest.mark.parametrize("why", ["gone", "deadline"])
@pytest.mark.parametrize(("kind", "lane"), CASES)
async def test_late_answers_leave_every_place_free(nats_url, prefix, monkeypatch, kind, why, lane):
    for module in (asgi_http, asgi_websocket):  # of endless ones, which go on after they were told
        monkeypatch.setattr(module, "ABANDONED_S", ABANDONED_S)
    make, upgrade = KINDS[kind]
    gate = Gate()
    gateway = {"http_lane": lane, "timeout_ms": int(DEADLINE_S * 1000) if why == "deadline" else 30_000}
    at_once = 32 if kind.startswith("wsgi") else MANY
    before = len(asyncio.all_tasks())
    options = {"nats_url": nats_url, "prefix": prefix, "gateway": gateway, "settings": {"drain_s": 30}}
    async with make(gate) as (service, is_over), Mesh(service, **options) as mesh:
        (instance,) = mesh.instances
        idle = len(asyncio.all_tasks())
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(HttpWire(mesh.gateway.port)) for _ in range(MANY)]
            for wire in wires:
                wire.send("GET", "/late", headers=upgrade)
            if why == "gone":
                await eventually(lambda: instance.dispatcher.inflight == MANY)
                await eventually(lambda: gate.reached >= at_once)
            else:  # on a slow machine the first are over before the last have begun
                for wire in wires:
                    assert (await wire.receive()).status == 504
                assert gate.reached > 0
        if not upgrade or why == "deadline":  # until a WebSocket is accepted, nobody looks whether its client left
            works = list(instance.dispatcher._running)
            await eventually(lambda: all(work.context.cancelled.is_set() for work in works))
        gate.release()
        await eventually(lambda: instance.dispatcher.inflight == 0, 20)
        await eventually(lambda: is_over() and gate.under_way == 0, 20)
        await eventually(lambda: len(instance.streams) == 0)  # closed after the answer
        await eventually(lambda: len(asyncio.all_tasks()) <= idle)
        began = asyncio.get_running_loop().time()
        await instance.drain()
        assert asyncio.get_running_loop().time() - began < 5
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
