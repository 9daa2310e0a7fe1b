"""What was in flight when an instance died or a connection broke: sent again where that is harmless, and only there."""

import asyncio

import aiohttp
import pytest

from mesh import BusUnavailable, Context, Overloaded, Router, Service, WebSocket
from mesh.balancer import RetryBudget, RetryPolicy
from mesh.bus import FAILOVER_S, Bus
from mesh.client import Caller, CallSpec, NamedEndpoint, recovery
from mesh.errors import NoResponders
from mesh.testing import Mesh
from tests.conditions import eventually

LANES = pytest.mark.parametrize("lane", ["direct", "asgi"])
PATIENT = {"heartbeat_ms": 30_000}
"""Of instances whose silence tells nobody anything while a test lasts."""


class Held(Service):
    """A service whose first calls of each endpoint hang, as many as ``hang`` says; it remembers who ran what."""

    def __init__(self, name: str = "held", hang: int = 1) -> None:
        super().__init__(name)
        self.runs: list[tuple[str, str]] = []
        self.ended: list[str] = []
        self.hang = hang

    async def run(self, what: str, ctx: Context) -> str:
        self.runs.append((what, ctx.instance))
        if self.count(what) <= self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.append(ctx.instance)
        return ctx.instance

    def count(self, what: str) -> int:
        return sum(name == what for name, _ in self.runs)

    async def started(self, what: str) -> str:
        """Wait for the first run; its instance."""
        await eventually(lambda: self.count(what))
        return next(instance for name, instance in self.runs if name == what)


def held(name: str = "held", **options) -> Held:
    service = Held(name, **options)

    @service.get("/read")
    async def read(ctx: Context) -> str:
        return await service.run("read", ctx)

    @service.get("/once", retry=False)
    async def once(ctx: Context) -> str:
        return await service.run("once", ctx)

    @service.post("/write")
    async def write(ctx: Context) -> str:
        return await service.run("write", ctx)

    @service.post("/keyed", idempotent=True)
    async def keyed(ctx: Context) -> str:
        return await service.run("keyed", ctx)

    @service.put("/put")
    async def put(ctx: Context) -> str:
        return await service.run("put", ctx)

    @service.get("/quick")
    async def quick(ctx: Context) -> str:
        return ctx.instance

    @service.get("/lines")
    async def lines(ctx: Context):
        service.runs.append(("lines", ctx.instance))
        yield b"one"
        await asyncio.Event().wait()

    @service.websocket("/shaken")
    async def shaken(ws: WebSocket, ctx: Context) -> None:
        name = await service.run("shaken", ctx)  # the first one before it accepts
        await ws.accept()
        await ws.send(name)

    @service.websocket("/shaken-once", retry=False)
    async def shaken_once(ws: WebSocket, ctx: Context) -> None:
        await service.run("shaken-once", ctx)
        await ws.accept()

    return service


async def die(instance):
    """What `kill -9` is to everybody else: its connection is gone, and it says nothing any more."""
    instance.bus.reply = lambda *message: None
    await instance.bus._link.aclose()


async def blink(bus):
    """The connection breaks; returns when there is another one."""
    count = bus.connections
    bus._link.lane.abort()
    await eventually(lambda: bus.connected and bus.connections > count)


async def blink_gateway(mesh, victim):
    await blink(mesh.gateway.bus)


async def kill(mesh, victim):
    await die(next(instance for instance in mesh.instances if instance.id == victim))


async def begin(mesh, method, path, what, service):
    """A request that hangs in an instance: its task, and the instance that has it."""
    asked = asyncio.ensure_future(mesh.http.request(method, path))
    id = await service.started(what)
    return asked, next(instance for instance in mesh.instances if instance.id == id)


@pytest.fixture
async def mesh(nats_url, prefix, lane):
    gateway = {"http_lane": lane, "timeout_ms": 2500}
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway=gateway, settings={"drain_s": 0.1}) as mesh:
        mesh.entries = []
        mesh.gateway.access.enabled = True
        mesh.gateway.access.write = mesh.entries.append
        yield mesh


async def two(mesh, **options):
    service = held(**options)
    await mesh.start(service, **PATIENT)
    await mesh.start(service, **PATIENT)
    return service


def reasons(mesh):
    """The gateway's retries by reason, without those that there were none of."""
    return {reason.value: count for reason, count in mesh.gateway.caller.services["held"].retries.items() if count}


@LANES
@pytest.mark.parametrize(("method", "path"), [("GET", "/read"), ("HEAD", "/read"), ("POST", "/keyed")])
async def test_what_a_dead_instance_had_is_answered_by_another_one(mesh, method, path):
    service = await two(mesh)
    asked, victim = await begin(mesh, method, path, path[1:], service)
    await die(victim)
    response = await asked
    assert response.status_code == 200
    assert service.count(path[1:]) == 2
    assert mesh.entries[-1].attempts == 2
    assert mesh.entries[-1].instance != victim.id
    assert reasons(mesh) == {"instance_lost": 1}


@LANES
@pytest.mark.parametrize(("method", "path"), [("POST", "/write"), ("PUT", "/put"), ("GET", "/once")])
async def test_what_nobody_declared_harmless_runs_once_and_waits_on(mesh, method, path):
    service = await two(mesh)
    asked, victim = await begin(mesh, method, path, path[1:], service)
    await die(victim)
    await eventually(lambda: mesh.gateway.caller._services["held"].balancer.is_skipped(victim.id))
    for _ in range(4):
        assert (await mesh.http.get("/quick")).status_code == 200
    response = await asked
    assert (response.status_code, response.json()["executed"]) == (504, "unknown")
    assert service.count(path[1:]) == 1
    assert reasons(mesh) == {}


@LANES
async def test_an_instance_that_is_lost_fails_what_may_not_be_repeated(nats_url, prefix, lane):
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway={"http_lane": lane}) as mesh:
        mesh.entries = []
        mesh.gateway.access.enabled = True
        mesh.gateway.access.write = mesh.entries.append
        service = held()
        await mesh.start(service, drain_s=0.1)
        await mesh.start(service, drain_s=0.1)
        asked, victim = await begin(mesh, "GET", "/once", "once", service)
        await die(victim)
        response = await asked
        problem = response.json()
        assert (response.status_code, problem["reason"], problem["executed"]) == (503, "instance_lost", "unknown")
        assert (mesh.entries[-1].attempts, service.count("once")) == (1, 1)


@LANES
async def test_another_request_finds_out_at_once_that_an_instance_is_gone(mesh):
    service = await two(mesh)
    mesh.gateway.caller._probes._timer.cancel()
    posted, busy = await begin(mesh, "POST", "/write", "write", service)
    asked, victim = await begin(mesh, "GET", "/read", "read", service)
    assert busy is not victim
    await die(victim)
    for _ in range(4):
        assert (await mesh.http.get("/quick")).json() == busy.id
    assert (await asked).json() == busy.id
    posted.cancel()
    assert reasons(mesh) == {"instance_lost": 1, "no_responders": 1}


@LANES
async def test_nothing_is_repeated_where_there_is_no_other_instance(mesh):
    service = held()
    victim = await mesh.start(service, **PATIENT)
    asked, _ = await begin(mesh, "GET", "/read", "read", service)
    await die(victim)
    await eventually(lambda: mesh.gateway.caller._services["held"].balancer.is_skipped(victim.id))
    response = await asked
    assert (response.status_code, response.json()["executed"]) == (504, "unknown")  # it might have come back
    assert service.count("read") == 1


@LANES
async def test_a_repetition_is_made_once(mesh):
    service = await two(mesh, hang=2)
    await mesh.start(service, **PATIENT)
    asked, victim = await begin(mesh, "GET", "/read", "read", service)
    await die(victim)
    await eventually(lambda: service.count("read") == 2)
    second = service.runs[1][1]
    await die(next(i for i in mesh.instances if i.id == second))
    response = await asked
    assert (response.status_code, response.json()["executed"]) == (504, "unknown")
    assert service.count("read") == 2


@LANES
async def test_what_was_in_flight_over_the_gateways_own_connection(mesh):
    service = await two(mesh)
    asked, first = await begin(mesh, "GET", "/read", "read", service)
    posted, _ = await begin(mesh, "POST", "/write", "write", service)
    await blink(mesh.gateway.bus)
    assert (await asked).status_code == 200
    assert [id for what, id in service.runs if what == "read"][1] != first.id
    await eventually(lambda: first.id in service.ended)  # its late answer would be for nobody
    problem = (await posted).json()
    assert (problem["reason"], problem["executed"], service.count("write")) == ("bus_unavailable", "unknown", 1)
    assert reasons(mesh) == {"connection_lost": 1}


@LANES
async def test_the_same_instance_gets_it_again_where_only_a_connection_was_lost(mesh):
    service = held(hang=2)
    instance = await mesh.start(service, **PATIENT)
    asked, _ = await begin(mesh, "GET", "/read", "read", service)
    await blink(mesh.gateway.bus)
    await eventually(lambda: service.count("read") == 2)
    asked.cancel()
    service.runs.clear()
    service.hang = 1
    asked, _ = await begin(mesh, "GET", "/read", "read", service)
    await blink(instance.bus)  # what was on its way over its old connection may be lost
    assert (await asked).json() == instance.id
    assert service.count("read") == 2


@LANES
async def test_an_instance_that_comes_back_may_still_answer_a_post(mesh):
    service = held(hang=0)
    going, go = asyncio.Event(), asyncio.Event()

    @service.post("/slow")
    async def slow() -> str:
        going.set()
        await go.wait()
        return "done"

    instance = await mesh.start(service, **PATIENT)
    asked = asyncio.ensure_future(mesh.http.post("/slow"))
    await going.wait()
    await blink(instance.bus)
    go.set()
    assert (await asked).json() == "done"


@LANES
async def test_without_a_connection_in_time_the_first_error_stands(nats, prefix, lane):
    async with Mesh(nats_url=nats.url, prefix=prefix, gateway={"http_lane": lane}) as mesh:
        service = held()
        await mesh.start(service, drain_s=0.1)
        asked, _ = await begin(mesh, "GET", "/read", "read", service)
        await nats.kill()
        problem = (await asked).json()
        assert (problem["reason"], problem["executed"]) == ("bus_unavailable", "unknown")
        await nats.start()


@LANES
async def test_that_nobody_received_the_second_does_not_say_that_nothing_ran(mesh):
    service = held()
    instance = await mesh.start(service, **PATIENT)
    asked, _ = await begin(mesh, "GET", "/read", "read", service)
    await instance.bus.unsubscribe(*instance._requests)
    await blink(mesh.gateway.bus)
    problem = (await asked).json()
    assert (problem["reason"], problem["executed"]) == ("bus_unavailable", "unknown")
    assert mesh.entries[-1].attempts == 2


@LANES
async def test_a_body_that_has_begun_is_not_repeated(mesh):
    service = await two(mesh)
    async with mesh.http.stream("GET", "/lines") as response:
        body = response.aiter_bytes()
        assert await anext(body) == b"one"
        (instance,) = (i for i in mesh.instances if i.id == service.runs[0][1])
        await die(instance)
        with pytest.raises(Exception, match=r"incomplete|closed"):
            await anext(body)
    assert service.count("lines") == 1


@LANES
async def test_a_handshake_without_an_answer_is_repeated(mesh):
    service = await two(mesh)
    async with aiohttp.ClientSession() as session:
        opening = asyncio.ensure_future(session.ws_connect(mesh.url + "/shaken"))
        victim = await service.started("shaken")
        await die(next(i for i in mesh.instances if i.id == victim))
        async with await opening as socket:
            assert await socket.receive_str() != victim
    assert service.count("shaken") == 2


@LANES
async def test_a_refusal_of_the_second_does_not_say_that_nothing_ran(mesh):
    service = held()

    @service.get("/full")
    async def full(ctx: Context) -> str:
        if service.count("full"):
            raise Overloaded("no room", executed="no")
        return await service.run("full", ctx)

    await mesh.start(service, **PATIENT)
    await mesh.start(service, **PATIENT)
    asked, victim = await begin(mesh, "GET", "/full", "full", service)
    await die(victim)
    problem = (await asked).json()
    assert (problem["reason"], problem["executed"]) == ("instance_lost", "unknown")
    assert mesh.entries[-1].attempts == 2


@pytest.mark.parametrize("lane", ["direct"])
async def test_calls_by_name_are_repeated_like_the_requests_of_their_routes(mesh, client):
    service = held()

    @service.endpoint()
    async def plain(ctx: Context) -> str:
        return await service.run("plain", ctx)

    await mesh.start(service, **PATIENT)
    await mesh.start(service, **PATIENT)
    await client.call("held", "quick")
    known = client._calls._watcher
    await eventually(lambda: known.knows("held") and len(known.registry.instances("held")) == 2)

    for name, count in (("keyed", 2), ("once", 1), ("write", 1), ("plain", 1)):
        asked = asyncio.ensure_future(client.call("held", name, timeout=2))
        await service.started(name)
        await blink(client._bus)
        if count == 2:
            await asked
        else:
            with pytest.raises(BusUnavailable) as caught:
                await asked
            assert (caught.value.executed, caught.value.attempts) == ("unknown", 1)
        assert service.count(name) == count
    asked = asyncio.ensure_future(client.call("held", "read", timeout=3))
    victim = await service.started("read")
    await die(next(i for i in mesh.instances if i.id == victim))
    assert await asked != victim


@pytest.mark.parametrize("lane", ["direct"])
async def test_a_router_passes_on_what_its_routes_declare(mesh):
    router = Router(prefix="/api")

    @router.get("/next", retry=False)
    async def number() -> int:
        return 1

    @router.websocket("/feed", retry=False)
    async def feed(ws: WebSocket) -> None: ...

    service = Service("numbers")
    service.include(router)
    assert [route.retry for route in service.announced_routes()] == [False, False]


@LANES
async def test_the_decision_is_in_the_debug_log(mesh, caplog):
    service = await two(mesh)
    with caplog.at_level("DEBUG", "mesh.client"):
        asked, victim = await begin(mesh, "GET", "/read", "read", service)
        await die(victim)
        await asked
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("attempt 2")]
    assert "held, instance_lost" in line


@LANES
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_waits_for_an_instance_that_may_be_on_its_way_to_another_node(mesh, method, monkeypatch):
    monkeypatch.setattr(Bus, "has_others", True)
    service = held(hang=0)
    instance = await mesh.start(service, **PATIENT)
    await instance.bus.unsubscribe(*instance._requests)  # as NATS has it while it connects elsewhere
    path = "/write" if method == "POST" else "/read"
    asked = asyncio.ensure_future(mesh.http.request(method, path))
    await eventually(lambda: mesh.gateway.caller._services["held"].balancer.is_skipped(instance.id))
    receive = instance.dispatcher.receive
    await instance.bus.subscribe(instance.bus.subjects.to("held", instance.id, "*"), receive, queue=instance.id)
    await instance.bus.flush()
    instance.announcer.announce()
    assert (await asked).status_code == 200
    assert service.count(path[1:]) == 1
    assert reasons(mesh) == {"no_responders": 1}


@LANES
async def test_it_does_not_wait_for_long_nor_where_there_is_no_other_node(mesh, monkeypatch):
    instance = await mesh.start(held(hang=0), **PATIENT)
    await instance.bus.unsubscribe(*instance._requests)
    problem = (await mesh.http.get("/read")).json()
    assert (problem["reason"], problem["executed"]) == ("no_responders", "no")
    assert mesh.entries[-1].duration_ms < FAILOVER_S * 1000
    monkeypatch.setattr(Bus, "has_others", True)
    (peer,) = mesh.gateway.caller.peers("held")
    peer.skipped = False
    problem = (await mesh.http.get("/read")).json()
    assert (problem["reason"], problem["executed"]) == ("no_responders", "no")
    assert mesh.entries[-1].duration_ms >= FAILOVER_S * 900


async def shake(mesh, path="/shaken"):
    """The status of a handshake, 101 where a WebSocket opens."""
    async with aiohttp.ClientSession() as session:
        try:
            socket = await session.ws_connect(mesh.url + path)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        await socket.close()
        return 101


@LANES
async def test_a_handshake_in_doubt_waits_on_where_there_is_no_other_instance(mesh):
    service = held()
    victim = await mesh.start(service, **PATIENT)
    opening = asyncio.ensure_future(shake(mesh))
    await service.started("shaken")
    await die(victim)
    await eventually(lambda: mesh.gateway.caller._services["held"].balancer.is_skipped(victim.id))
    assert await opening == 504  # the instance might have come back
    assert service.count("shaken") == 1
    assert mesh.entries[-1].attempts == 1
    assert reasons(mesh) == {}


@LANES
async def test_a_handshake_is_made_again_where_its_instance_has_another_connection(mesh):
    service = held()
    instance = await mesh.start(service, **PATIENT)
    opening = asyncio.ensure_future(shake(mesh))
    await service.started("shaken")
    await blink(instance.bus)
    assert await opening == 101
    assert service.count("shaken") == 2
    assert reasons(mesh) == {"connection_lost": 1}


@LANES
@pytest.mark.parametrize("lost", [blink_gateway, kill])
async def test_a_handshake_that_may_run_once_is_not_made_again(mesh, lost):
    service = await two(mesh)
    opening = asyncio.ensure_future(shake(mesh, "/shaken-once"))
    victim = await service.started("shaken-once")
    await lost(mesh, victim)
    assert await opening in (503, 504)
    assert service.count("shaken-once") == 1
    assert reasons(mesh) == {}


@LANES
@pytest.mark.parametrize("path", ["/once", "/shaken-once"])
async def test_what_nobody_received_goes_elsewhere_whatever_its_route_says(mesh, path):
    service = held(hang=0)
    deaf = await mesh.start(service, **PATIENT)
    await mesh.start(service, **PATIENT)
    await deaf.bus.unsubscribe(*deaf._requests)
    for _ in range(2):  # instances that are idle take turns
        status = await shake(mesh, path) if "shaken" in path else (await mesh.http.get(path)).status_code
        assert status in (101, 200)
    assert service.count(path[1:]) == 2
    assert reasons(mesh) == {"no_responders": 1}


@LANES
async def test_a_handshake_that_the_gateways_connection_lost_ends_at_its_instance(mesh, monkeypatch):
    service = await two(mesh)
    told = []
    tell = recovery.tell_cancelled
    monkeypatch.setattr(recovery, "tell_cancelled", lambda bus, *rest: told.append(rest[1]) or tell(bus, *rest))
    opening = asyncio.ensure_future(shake(mesh))
    victim = await service.started("shaken")
    await blink(mesh.gateway.bus)
    assert await opening == 101
    await eventually(lambda: victim in service.ended)
    assert told == [victim]
    assert reasons(mesh) == {"connection_lost": 1}


@LANES
async def test_a_second_handshake_that_could_not_be_sent_is_not_counted(mesh, monkeypatch):
    service = await two(mesh)
    opening = asyncio.ensure_future(shake(mesh))
    victim = await service.started("shaken")
    bus, to = mesh.gateway.bus, mesh.gateway.bus.subjects.to("held", "", "").encode().rstrip(b".")
    publish = bus.publish

    def full(address, payload, block=b"", reply=b""):
        if address.startswith(to) and block:
            raise Overloaded("NATS reads slower than this process writes")
        publish(address, payload, block, reply)

    monkeypatch.setattr(bus, "publish", full)
    await die(next(i for i in mesh.instances if i.id == victim))
    assert await opening == 503
    assert service.count("shaken") == 1
    assert reasons(mesh) == {}


@LANES
@pytest.mark.parametrize("path", ["/read", "/shaken"])
async def test_the_budget_is_not_charged_where_nobody_else_is_there(nats_url, prefix, lane, path):
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway={"http_lane": lane}) as mesh:
        service = held()
        victim = await mesh.start(service, drain_s=0.1)
        asked = asyncio.ensure_future(shake(mesh) if path == "/shaken" else mesh.http.get(path))
        await service.started(path[1:])
        budget, now = mesh.gateway.caller._services["held"].budget, mesh.gateway.bus.now
        spent = []
        spend = RetryBudget.try_spend
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RetryBudget, "try_spend", lambda self, now: spent.append(now) or spend(self, now))
            await die(victim)
            answer = await asked
        assert (answer if path == "/shaken" else answer.status_code) == 503
        assert not spent
        assert budget.left(now())


@pytest.mark.parametrize("lane", ["direct"])
async def test_a_call_that_is_cancelled_without_a_connection_ends_at_its_instance_too(mesh):
    service = held()
    instance = await mesh.start(service, **PATIENT)
    await mesh.http.get("/quick")  # the gateway knows it
    caller, bus, outcomes = mesh.gateway.caller, mesh.gateway.bus, []
    policy = RetryPolicy(after_loss=True)
    destination = NamedEndpoint("held", "read", "")
    spec = CallSpec(destination=destination, lines=b"", deadline=bus.now() + 60, policy=policy)
    call = caller.start(spec, b"{}", outcomes.append)
    await service.started("read")
    bus.on_connection(lambda connected: connected or call.cancel())
    await blink(bus)
    await eventually(lambda: service.ended == [instance.id])
    assert service.count("read") == 1
    assert not outcomes


@pytest.mark.parametrize("lane", ["direct"])
async def test_the_error_of_a_call_by_name_keeps_what_it_says(mesh, client, monkeypatch):
    async def nobody(*_):
        error = NoResponders("none is listening", retry_after=7)
        error.attempts = 3
        raise error

    monkeypatch.setattr(Caller, "call", nobody)
    with pytest.raises(NoResponders, match="nobody answers 'there' of 'nowhere'") as caught:
        await client.call("nowhere", "there", timeout=0.5)
    assert (caught.value.retry_after, caught.value.attempts, caught.value.executed) == (7, 3, "no")
