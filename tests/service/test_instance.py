"""The life of an instance, on a real server."""

import asyncio
import json
import logging

import msgspec
import pytest

from mesh import Context, Invalid, NoResponders, NotFound, Overloaded, Response, Service
from mesh.bus import Bus
from mesh.messages import Announcement, Cancel, decode, encode
from mesh.service.instance import Life, ServiceInstance
from mesh.testing import Mesh


class Witness:
    """Hears every control message of one mesh, in order."""

    def __init__(self, bus):
        self.bus = bus
        self.heard = []
        self._arrived = asyncio.Event()

    async def start(self):
        for subject in (self.bus.subjects.announce_all, self.bus.subjects.heartbeat_all):
            await self.bus.subscribe(subject, self._hear)
        await self.bus.flush()

    def _hear(self, subject, reply, block, payload):
        party = self.bus.subjects.party(subject)
        self.heard.append(decode(payload, party.service, party.instance))
        self._arrived.set()

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition(self.heard):
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest.fixture
async def witness(mesh):
    async with mesh.client() as bus:
        witness = Witness(bus)
        await witness.start()
        yield witness


def sleeper() -> Service:
    service = Service("sleeper", version="2.0.0", description="sleeps", metadata={"team": "dreams"})
    service.asleep = asyncio.Event()
    service.wake = asyncio.Event()

    @service.get("/sleep")
    async def sleep() -> str:
        service.asleep.set()
        await service.wake.wait()
        return "awake"

    @service.endpoint()
    async def add(a: int, b: int = 1) -> int:
        return a + b

    return service


async def test_what_is_announced(mesh, witness):
    instance = await mesh.start(sleeper())
    await witness.until(lambda heard: any(m.name == "sleeper" for m in heard))
    announced = next(m for m in witness.heard if m.name == "sleeper")
    assert isinstance(announced, Announcement)
    assert (announced.id, announced.version, announced.state) == (instance.id, "2.0.0", "ready")
    assert (announced.description, announced.metadata) == ("sleeps", {"team": "dreams"})
    assert [(r.method, r.path, r.endpoint) for r in announced.routes] == [("GET", "/sleep", "sleep")]
    assert [e.name for e in announced.endpoints] == ["sleep", "add"]


async def test_heartbeats_come_by_themselves_and_count_the_work(mesh, witness):
    service = sleeper()
    await mesh.start(service)
    pending = asyncio.ensure_future(mesh.http.get("/sleep"))
    await service.asleep.wait()
    await witness.until(lambda heard: any(getattr(m, "inflight", 0) == 1 for m in heard))
    service.wake.set()
    assert (await pending).json() == "awake"
    await witness.until(lambda heard: getattr(heard[-1], "inflight", 1) == 0 and heard[-1].name == "sleeper")
    seqs = [m.seq for m in witness.heard if m.name == "sleeper"]
    assert seqs == sorted(set(seqs))


async def test_who_is_asked_announces_again(mesh, witness):
    await mesh.start(sleeper())
    for subject in ("discover", "discover.sleeper", f"discover.sleeper.{mesh.instances[0].id}"):
        count = sum(isinstance(m, Announcement) and m.name == "sleeper" for m in witness.heard)
        witness.bus.publish(
            witness.bus.address(f"{witness.bus.subjects.prefix}.{subject}"),
            b'{"type":"mesh.v1.discover","window_ms":0}',
        )
        await witness.until(
            lambda heard, count=count: sum(isinstance(m, Announcement) and m.name == "sleeper" for m in heard) > count
        )


async def test_a_drain_serves_what_was_accepted_and_then_says_stopped(mesh, witness):
    service = sleeper()
    order = []
    service.on_shutdown(lambda: record(order, "hook"))
    instance = await mesh.start(service)
    pending = asyncio.ensure_future(mesh.http.get("/sleep"))
    await service.asleep.wait()
    draining = asyncio.ensure_future(instance.drain())
    await witness.until(lambda heard: heard[-1].state == "draining")
    # The handler ends only when nobody listens any more: what was accepted is served all the same.
    address = witness.bus.address(witness.bus.subjects.to("sleeper", instance.id, "add"))
    async with asyncio.timeout(10):
        while True:
            try:
                await witness.bus.request(address, b'{"a": 1}', timeout=5)
            except NoResponders:
                break
    for _ in range(100):  # round trips in which a drain that waits for nothing would have said its last word
        await witness.bus.flush()
    assert witness.heard[-1].state == "draining"
    service.wake.set()
    response = await pending
    order.append("answered")
    await draining
    assert response.json() == "awake"
    await witness.until(lambda heard: heard[-1].state == "stopped")
    states = [m.state for m in witness.heard if m.name == "sleeper"]
    assert states[-1] == "stopped"
    assert states.index("draining") < states.index("stopped")
    assert "hook" in order
    assert (await mesh.http.get("/sleep")).status_code == 503


async def test_a_handler_that_does_not_end_is_cut_off_and_its_caller_told(mesh):
    service = sleeper()
    instance = await mesh.start(service, drain_s=0.05)
    pending = asyncio.ensure_future(mesh.http.get("/sleep"))
    await service.asleep.wait()
    await instance.drain()
    response = await pending
    assert response.status_code == 503
    assert response.json()["executed"] == "unknown"


async def test_no_request_fails_while_instances_come_and_go(mesh):
    """A rolling restart under load, with the default linger."""
    service = Service("rolling")

    @service.post("/work")
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    first = await mesh.start(service, linger_ms=500)
    results, stop = [], asyncio.Event()

    async def load():
        while not stop.is_set():
            results.append((await mesh.http.post("/work")).status_code)

    loaders = [asyncio.ensure_future(load()) for _ in range(8)]
    for _ in range(2):
        second = await mesh.start(service, linger_ms=500)
        await first.drain()
        first = second
    stop.set()
    await asyncio.gather(*loaders)
    assert len(results) > 20
    assert set(results) == {200}


async def test_a_request_that_nobody_received_goes_elsewhere_whatever_its_method(mesh):
    service = Service("moved")

    @service.post("/moved")
    async def moved(ctx: Context) -> str:
        return ctx.instance

    deaf = await mesh.start(service, heartbeat_ms=30_000)
    fine = await mesh.start(service, heartbeat_ms=30_000)
    await deaf.bus.unsubscribe(*deaf._requests)  # and has told nobody
    entries = []
    mesh.gateway.access.enabled = True
    mesh.gateway.access.write = entries.append
    for _ in range(6):
        response = await mesh.http.post("/moved")
        assert (response.status_code, response.json()) == (200, fine.id)
    assert sorted(entry.attempts for entry in entries) == [1, 1, 1, 1, 1, 2]  # tried once, then skipped


async def test_who_was_cut_off_announces_again(mesh, witness):
    instance = await mesh.start(sleeper(), heartbeat_ms=30_000)
    await witness.until(lambda heard: any(m.name == "sleeper" for m in heard))
    count = len(witness.heard)
    await instance.bus._link.client.force_reconnect()
    await witness.until(lambda heard: any(m.name == "sleeper" for m in heard[count:]))
    assert isinstance(next(m for m in witness.heard[count:] if m.name == "sleeper"), Announcement)


async def test_calls_over_the_bus_without_http(mesh):
    await mesh.start(sleeper())
    async with mesh.client() as bus:
        subject = bus.address(bus.subjects.request("sleeper", "add"))
        good = await bus.request(subject, b'{"a": 2}', timeout=5)
        assert good.payload == b"3"
        bad = await bus.request(subject, b'{"a": "x", "c": 1}', timeout=5)
        assert b"Mesh-Status: 422" in bad.block
        assert b"Nats-Service-Error-Code: 422" in bad.block
        assert {e["field"] for e in json.loads(bad.payload)["errors"]} == {"a", "c"}


async def test_services_call_each_other(mesh):
    caller = Service("caller")

    @caller.get("/sum/{a}")
    async def total(a: int, ctx: Context) -> int:
        return await ctx.call("sleeper", "add", a=a, b=10, returns=int)

    @caller.get("/wrong")
    async def wrong(ctx: Context) -> str:
        try:
            await ctx.call("sleeper", "add", a="x")
        except Invalid as error:
            return error.extra["errors"][0]["field"]
        return "no error"

    @caller.get("/nobody")
    async def nobody(ctx: Context) -> None:
        await ctx.call("nobody", "here")

    await mesh.start(sleeper())
    await mesh.start(caller)
    for a in range(5):
        assert (await mesh.http.get(f"/sum/{a}")).json() == a + 10
    assert (await mesh.http.get("/wrong")).json() == "a"
    response = await mesh.http.get("/nobody")
    assert (response.status_code, response.json()["reason"]) == (503, "no_responders")


async def test_request_id_and_deadline_travel_along(mesh):
    inner, outer = Service("inner"), Service("outer")

    @inner.endpoint()
    async def facts(ctx: Context) -> list[object]:
        return [ctx.request_id, ctx.remaining, ctx.trace]

    @outer.get("/facts", timeout=3.0)
    async def ask(ctx: Context) -> list[object]:
        return await ctx.call("inner", "facts")

    await mesh.start(inner)
    await mesh.start(outer)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await mesh.http.get("/facts", headers={"x-request-id": "one-id", "traceparent": trace})
    request_id, remaining, seen = response.json()
    assert request_id == "one-id"
    assert 0 < remaining <= 3.0
    assert seen.split("-")[1] == trace.split("-")[1]


async def test_beyond_the_limit_calls_wait_and_beyond_the_queue_they_are_refused(mesh):
    service = Service("narrow")
    release, running = asyncio.Event(), []

    @service.post("/narrow")
    async def narrow(ctx: Context) -> int:
        running.append(1)
        most = len(running)
        await release.wait()
        running.pop()
        return most

    instance = await mesh.start(service, concurrency=2, queue=2)
    calls = [asyncio.ensure_future(mesh.http.post("/narrow")) for _ in range(7)]
    refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    while len(refused) < 3:
        done, _ = await asyncio.wait([c for c in calls if c not in refused], return_when=asyncio.FIRST_COMPLETED)
        refused |= done
    assert instance.dispatcher.inflight == 2
    release.set()
    responses = await asyncio.gather(*calls)
    by_status = sorted(r.status_code for r in responses)
    assert by_status == [200, 200, 200, 200, 503, 503, 503]
    overloaded = next(r for r in responses if r.status_code == 503)
    assert (overloaded.json()["reason"], overloaded.json()["executed"]) == ("overloaded", "no")
    assert overloaded.headers["retry-after"] == "1"
    assert max(r.json() for r in responses if r.status_code == 200) <= 2


async def test_a_blocking_handler_blocks_nobody_else(mesh):
    import threading

    service = Service("threads")
    gate = threading.Event()

    @service.get("/blocking")
    def blocking() -> str:
        assert gate.wait(10)
        return threading.current_thread().name

    @service.get("/quick")
    async def quick() -> str:
        gate.set()
        return "quick"

    await mesh.start(service)
    slow = asyncio.ensure_future(mesh.http.get("/blocking"))
    assert (await mesh.http.get("/quick")).json() == "quick"
    assert (await slow).json() != threading.main_thread().name


async def test_a_reply_subject_below_the_mesh_is_refused(mesh, witness):
    """Otherwise an echoing handler forges announcements with its own permissions."""
    service = Service("echoing")
    called = []

    @service.endpoint()
    async def echo(name: str, ctx: Context) -> Response:
        called.append(name)
        return Response(b"{}")

    instance = await mesh.start(service)
    bus = witness.bus
    address = bus.address(bus.subjects.request("echoing", "echo"))
    for reply in (bus.subjects.announce("echoing", instance.id), bus.subjects.control("drain", "echoing"), "$SRV.PING"):
        bus.publish(address, b'{"name": "forged"}', reply=reply.encode())
    await bus.request(address, b'{"name": "honest"}', timeout=5)
    assert called == ["honest"]
    assert not instance.stop_requested.is_set()


async def test_drain_by_message(mesh, witness):
    instance = await mesh.start(sleeper())
    bus = witness.bus
    bus.publish(bus.address(bus.subjects.control("drain", "sleeper", instance.id)), b"")
    await asyncio.wait_for(instance.stop_requested.wait(), 5)


async def test_log_lines_of_a_handler_carry_request_id_and_trace(mesh):
    from mesh.logs import JsonFormatter

    service = Service("logging")
    lines = []

    class Collect(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(JsonFormatter().format(record)))

    @service.get("/log")
    async def log(ctx: Context) -> None:
        logging.getLogger("a.library").warning("seen")

    await mesh.start(service)
    handler = Collect()
    logging.getLogger("a.library").addHandler(handler)
    try:
        await mesh.http.get("/log", headers={"x-request-id": "id-7"})
    finally:
        logging.getLogger("a.library").removeHandler(handler)
    assert (lines[0]["message"], lines[0]["request_id"]) == ("seen", "id-7")
    assert lines[0]["trace"].startswith("00-")


async def test_an_instance_lives_once(nats_url, prefix):
    seen = []
    service = Service("short")

    @service.on_startup
    async def starting() -> None:
        seen.append(instance.life)

    @service.on_shutdown
    async def stopping() -> None:
        seen.append(instance.life)

    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        instance = ServiceInstance(service, mesh.bus_settings, mesh.service_settings)
        seen.append(instance.life)
        await instance.start()
        seen.append(instance.life)
        await instance.drain()
        seen.append(instance.life)
        await instance.drain()
    assert seen == [Life.CREATED, Life.STARTING, Life.RUNNING, Life.DRAINING, Life.STOPPED]


async def test_a_startup_hook_that_fails_stops_the_start(mesh):
    service = sleeper()

    @service.on_startup
    async def fail() -> None:
        raise NotFound("no database")

    with pytest.raises(NotFound):
        await mesh.start(service)
    assert mesh.gateway.watcher.registry.instances("sleeper") == []


async def test_an_instance_started_before_nats_serves_when_it_comes(nats, prefix):
    await nats.stop()
    url = nats.url
    service = sleeper()
    from mesh.service import ServiceInstance
    from mesh.settings import BusSettings, ServiceSettings

    settings = BusSettings(servers=(url,), prefix=prefix)
    instance = ServiceInstance(service, settings, ServiceSettings())
    await instance.start()
    await nats.start()
    async with Bus(settings) as bus:
        address = bus.address(bus.subjects.request("sleeper", "add"))
        async with asyncio.timeout(5):
            await instance.bus.wait_connected(5)
            assert (await bus.request(address, b'{"a": 1}', timeout=5)).payload == b"2"
    await instance.drain()


async def test_overload_error_is_typed_for_callers():
    from mesh.bus import Reply
    from mesh.client import Answer, read_answer
    from mesh.service.dispatch import problem_reply

    block, body = problem_reply(Overloaded("busy", retry_after=3), "id")
    with pytest.raises(Overloaded) as caught:
        read_answer(Answer(Reply(block, body), "i", 1), msgspec.UNSET, "a.b")
    assert caught.value.retry_after == 3


async def record(order, what):
    order.append(what)


async def test_a_call_withdrawn_before_its_handler_began_is_never_run(mesh):
    service = sleeper()
    ran = []

    @service.endpoint()
    async def note() -> None:
        ran.append(1)

    instance = await mesh.start(service)
    async with mesh.client() as bus:
        reply = bus.requests.new_reply()
        address = bus.address(bus.subjects.to("sleeper", instance.id, "note"))
        # One write: both are read before a task of the service gets its turn.
        bus.publish(address, b"", b"", reply)
        cancel = bus.subjects.control("cancel", "sleeper", instance.id)
        bus.publish(bus.address(cancel), encode(Cancel(reply=reply.decode())))
        await bus.request(address, b"", timeout=5, lenient=True)
    assert ran == [1]
    statistics = instance.endpoints["note"].statistics
    assert (statistics.num_requests, statistics.num_errors) == (2, 1)
    assert statistics.last_error == "499:the caller went away"
    assert instance.dispatcher.inflight == 0
    assert not instance.dispatcher._running
    assert not instance.dispatcher._by_reply
