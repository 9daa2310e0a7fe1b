"""Events between services, plain and durable."""

import asyncio
from typing import Annotated

import msgspec
import nats.errors
import pytest
from nats.js import JetStreamContext

from mesh import Context, DeclarationError, Depends, Service, Unavailable
from mesh.embedded import NatsServer
from mesh.testing import Mesh


class Settled(msgspec.Struct):
    bet: int
    won: bool = False


class Inbox:
    """What handlers saw, with a wait for it."""

    def __init__(self):
        self.seen = []
        self._changed = asyncio.Event()

    def add(self, item):
        self.seen.append(item)
        self._changed.set()

    async def until(self, count):
        async with asyncio.timeout(20):
            while len(self.seen) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.seen


def bets() -> Service:
    service = Service("bets")

    @service.post("/bets/{bet}/settle", status=202)
    async def settle(bet: int, ctx: Context, durable: bool = False) -> None:
        await ctx.emit("bets.settled", Settled(bet, True), durable=durable)

    return service


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(bets(), nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


async def test_every_service_gets_an_event_and_one_instance_of_each(mesh):
    inboxes = {name: Inbox() for name in ("wallet", "mail", "audit")}

    def listener(name: str, event: str) -> Service:
        service = Service(name)

        @service.on(event)
        async def settled(event: Settled, ctx: Context) -> None:
            inboxes[name].add((event.bet, ctx.request_id))

        return service

    for name, event in (
        ("wallet", "bets.settled"),
        ("wallet", "bets.settled"),
        ("mail", "bets.*"),
        ("audit", "*.settled"),
    ):
        await mesh.start(listener(name, event))
    for bet in range(10):
        response = await mesh.http.post(f"/bets/{bet}/settle", headers={"x-request-id": f"id-{bet}"})
        assert response.status_code == 202
    expected = [(bet, f"id-{bet}") for bet in range(10)]
    for inbox in inboxes.values():
        assert sorted(await inbox.until(10)) == expected


async def test_a_broadcast_reaches_every_instance(mesh):
    inbox, service = Inbox(), Service("screens")

    @service.on("bets.settled", broadcast=True)
    async def show(event: Settled, ctx: Context) -> None:
        inbox.add(ctx.instance)

    instances = [await mesh.start(service) for _ in range(3)]
    await mesh.http.post("/bets/7/settle")
    assert sorted(await inbox.until(3)) == sorted(instance.id for instance in instances)


async def test_a_handler_has_dependencies(mesh):
    """Of service scope: made before the start though no endpoint asks for it; and of its own, torn down after it."""
    inbox, service = Inbox(), Service("books")

    def open_book():
        inbox.add("opened")
        yield ["book"]
        inbox.add("closed")

    def page(book: Annotated[list, Depends(open_book, scope="service")], ctx: Context):
        yield [*book, ctx.service]
        inbox.add("turned")

    @service.on("bets.settled")
    async def note(event: Settled, page: Annotated[list, Depends(page)]) -> None:
        inbox.add((event.bet, page))

    instance = await mesh.start(service)
    assert inbox.seen == ["opened"]
    await mesh.http.post("/bets/7/settle")
    assert await inbox.until(3) == ["opened", (7, ["book", "books"]), "turned"]
    await instance.drain()
    assert inbox.seen[3:] == ["closed"]


async def test_a_handler_that_fails_harms_nobody(mesh, caplog):
    service, inbox = Service("fragile"), Inbox()

    @service.on("bets.settled")
    async def settled(event: Settled) -> None:
        inbox.add(event.bet)
        raise RuntimeError("boom")

    await mesh.start(service)
    for bet in (1, 2):
        await mesh.http.post(f"/bets/{bet}/settle")
    assert await inbox.until(2) == [1, 2]
    assert "the event is lost" in caplog.text


async def test_durable_events_are_redelivered_and_buried(mesh, monkeypatch):
    from mesh.bus import jetstream

    monkeypatch.setattr(jetstream.DurableEvents.__init__, "__kwdefaults__", {"first_pause_s": 0.05})
    service, inbox = Service("careful"), Inbox()
    dead = Inbox()

    @service.on("bets.settled", durable=True, attempts=3)
    async def settled(event: Settled) -> None:
        inbox.add(event.bet)
        if event.bet == 13 or (event.bet == 7 and inbox.seen.count(7) < 2):
            raise RuntimeError(f"cannot take {event.bet}")

    async with mesh.client() as bus:
        await bus.subscribe(
            f"{bus.subjects.prefix}.dead.>", lambda subject, r, block, payload: dead.add((subject, block, payload))
        )
        await bus.flush()
        # Emitted before anybody listens: kept.
        assert (await mesh.http.post("/bets/1/settle?durable=true")).status_code == 202
        await mesh.start(service)
        assert await inbox.until(1) == [1]
        for bet in (7, 13, 2):
            assert (await mesh.http.post(f"/bets/{bet}/settle?durable=true")).status_code == 202
        seen = await inbox.until(1 + 2 + 3 + 1)
        assert (seen.count(7), seen.count(13), seen.count(2)) == (2, 3, 1)
        [(subject, block, payload)] = await dead.until(1)
        assert subject == f"{bus.subjects.prefix}.dead.careful.bets.settled".encode()
        assert b"Mesh-Dead-Reason: RuntimeError: cannot take 13" in block
        assert msgspec.json.decode(payload, type=Settled) == Settled(13, True)


async def test_the_first_durable_event_is_kept_though_a_plain_handler_hears_it_too(mesh):
    service, inbox = Service("plainly"), Inbox()

    @service.on("bets.*")
    async def settled(event: Settled) -> None:
        inbox.add(event.bet)

    await mesh.start(service)
    response = await mesh.http.post("/bets/1/settle?durable=true")
    assert response.status_code == 202, response.text
    assert await inbox.until(1) == [1]


@pytest.mark.parametrize("error", [asyncio.TimeoutError, nats.errors.TimeoutError])
async def test_a_consumer_without_events_is_no_fault(mesh, monkeypatch, caplog, error):
    fetch, tried = JetStreamContext.PullSubscription.fetch, []

    async def first_in_vain(self, *arguments, **options):
        tried.append(self)
        if len(tried) == 1:
            raise error
        return await fetch(self, *arguments, **options)

    monkeypatch.setattr(JetStreamContext.PullSubscription, "fetch", first_in_vain)
    service, inbox = Service("idle"), Inbox()

    @service.on("bets.settled", durable=True)
    async def settled(event: Settled) -> None:
        inbox.add(event.bet)

    await mesh.start(service)
    assert (await mesh.http.post("/bets/1/settle?durable=true")).status_code == 202
    assert await inbox.until(1) == [1]
    assert len(set(tried)) == 1  # the same subscription goes on
    assert "waits" not in caplog.text


async def test_a_durable_event_survives_its_consumer(mesh):
    inbox = Inbox()

    def make() -> Service:
        service = Service("keeper")

        @service.on("bets.settled", durable=True)
        async def settled(event: Settled) -> None:
            inbox.add(event.bet)

        return service

    first = await mesh.start(make())
    await mesh.http.post("/bets/1/settle?durable=true")
    await inbox.until(1)
    await first.drain()
    await mesh.http.post("/bets/2/settle?durable=true")
    await mesh.start(make())
    assert await inbox.until(2) == [1, 2]


async def test_without_jetstream_a_durable_event_is_refused_and_says_what_to_do(prefix, caplog):
    async with NatsServer(jetstream=False) as server, Mesh(bets(), nats_url=server.url, prefix=prefix) as mesh:
        response = await mesh.http.post("/bets/1/settle?durable=true")
        assert response.status_code == 503
        assert response.json()["reason"] == "jetstream_off"
        assert "nats-server with -js" in response.json()["detail"]
        assert (await mesh.http.post("/bets/1/settle")).status_code == 202


@pytest.mark.parametrize("name", ["", "a b", "a..b", "a.", "a.>", "x" * 65, ".".join("abcdefghi")])
async def test_event_names_are_checked(mesh, name):
    async with mesh.client() as bus:
        from mesh.client import Calls
        from mesh.streams import Streams

        with pytest.raises(ValueError, match="no event name"):
            await Calls(bus, Streams(bus)).emit(name, 1)
    if name:
        with pytest.raises(DeclarationError, match="no event name"):
            Service("a").on(name)(handle)


async def handle(event: Settled) -> None: ...
async def two(event: Settled, other: int) -> None: ...
def text(q: str): ...
async def depending(event: Settled, x: Annotated[str, Depends(text)]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "why"),
    [
        (two, {}, "takes one parameter"),
        (handle, {"durable": True, "broadcast": True}, "no broadcast"),
        (depending, {}, "takes q, which an event does not have"),
        (handle, {"attempts": 0}, "attempts 0"),
        (handle, {"name": "a b"}, "cannot be its name"),
    ],
)
def test_handlers_are_checked(handler, options, why):
    with pytest.raises(DeclarationError, match=why):
        Service("a").on("bets.settled", **options)(handler)


async def test_an_error_of_jetstream_is_typed():
    from mesh.bus.jetstream import JetStreamOff

    assert issubclass(JetStreamOff, Unavailable)
