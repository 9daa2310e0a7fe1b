"""Requests of one moment for the same instance share a NATS message; their clients cannot tell."""

import asyncio
from dataclasses import replace

import pytest

from mesh import Request, Response, Service
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.memory import Client
from tests.gateway.test_framing import get

CLIENTS = 20


def names() -> Service:
    service = Service("names")
    service.hanging, service.cancelled = asyncio.Event(), asyncio.Event()

    @service.get("/hello/{name}")
    async def hello(name: str) -> dict[str, str]:
        return {"hello": name}

    @service.get("/hang")
    async def hang() -> None:
        service.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            service.cancelled.set()

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest.fixture
async def clients(mesh):
    clients = [Client(mesh) for _ in range(CLIENTS)]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
async def seen(mesh):
    """The last tokens of subjects on which requests were sent."""
    async with mesh.client() as bus:
        seen = []
        tokens = f"{bus.subjects.prefix}.to.names.*.*"
        await bus.subscribe(tokens, lambda subject, *rest: seen.append(subject.rpartition(b".")[2]))
        await bus.flush()
        yield seen


async def all_ask(clients):
    for number, client in enumerate(clients):
        client.send(get(f"/hello/{number}"))
    return [await client.answer() for client in clients]


async def test_what_comes_in_one_turn_goes_in_one_message(mesh, clients, seen):
    await mesh.start(names())
    assert await all_ask(clients) == [[(200, {"hello": str(number)})] for number in range(CLIENTS)]
    await eventually(lambda: seen)
    assert seen == [b"+"]


async def test_an_instance_that_takes_no_bundles_gets_none(mesh, clients, seen):
    mesh.bus_settings = replace(mesh.bus_settings, bundles=False)
    await mesh.start(names())
    assert await all_ask(clients) == [[(200, {"hello": str(number)})] for number in range(CLIENTS)]
    await eventually(lambda: len(seen) == CLIENTS)
    assert set(seen) == {b"hello"}


async def test_a_client_that_goes_takes_only_its_own_request_along(mesh, clients, seen):
    service = names()
    await mesh.start(service)
    gone, *others = clients
    gone.send(get("/hang"))
    answers = await all_ask(others)
    await asyncio.wait_for(service.hanging.wait(), 5)
    gone.connection.connection_lost(None)
    await asyncio.wait_for(service.cancelled.wait(), 5)
    assert [status for ((status, _),) in answers] == [200] * len(others)
    assert seen[0] == b"+"


async def test_all_of_a_bundle_that_nobody_received_are_sent_elsewhere_at_once(mesh, clients):
    instances = [await mesh.start(names()), await mesh.start(names())]
    # One is still known as ready, and listens no more.
    await instances[0].bus.unsubscribe(*instances[0]._requests)
    async with asyncio.timeout(5):
        answers = await all_ask(clients)
    assert answers == [[(200, {"hello": str(number)})] for number in range(CLIENTS)]
    await eventually(lambda: len(mesh.gateway.bus.requests) == 0)  # a probe may be open for a moment


async def test_nobody_listens_is_heard_though_the_first_client_went_in_the_same_moment(mesh, clients):
    instance = await mesh.start(names())
    gone, *others = clients
    assert await gone.ask(get("/hello/you")) == [(200, {"hello": "you"})]  # the routes are there
    await instance.bus.unsubscribe(*instance._requests)
    gone.send(get("/hello/first"))
    for client in others:
        client.send(get("/hello/next"))
    gone.connection.connection_lost(None)
    async with asyncio.timeout(5):
        answers = [await client.answer() for client in others]
    assert {status for ((status, _),) in answers} == {503}


async def test_all_of_a_bundle_that_nobody_can_receive_fail_at_once(mesh, clients):
    instance = await mesh.start(names())
    await instance.bus.unsubscribe(*instance._requests)
    async with asyncio.timeout(5):
        answers = await all_ask(clients)
    assert {status for ((status, _),) in answers} == {503}
    assert {document["reason"] for ((_, document),) in answers} == {"no_responders"}
    assert {document["executed"] for ((_, document),) in answers} == {"no"}


async def test_a_header_that_a_handler_sends_back_makes_nothing_run_twice(mesh, clients, seen):
    service, runs, go = Service("orders"), [], asyncio.Event()

    @service.post("/order/{number}")
    async def order(number: int, request: Request) -> Response:
        runs.append(number)
        if number:
            await go.wait()  # those in the bundle of the first are still waited for when its answer comes
        return Response({}, 200, {"x-echo": dict(request.pairs).get(b"x-note", b"").decode()})

    await mesh.start(service)
    for number, client in enumerate(clients):
        note = b"X-Note: mesh-bundles: off\r\n" if number == 0 else b""
        client.send(b"POST /order/%d HTTP/1.1\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n" % (number, note))
    ((status, _),) = await clients[0].answer()
    await mesh.gateway.bus.flush()
    go.set()
    answers = [await client.answer() for client in clients[1:]]
    assert {status, *(status for ((status, _),) in answers)} == {200}
    await mesh.gateway.bus.flush()
    assert sorted(runs) == list(range(CLIENTS))
