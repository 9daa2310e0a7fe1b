"""Since when a service claims its routes: a new instance asks a sibling, and receivers take the earliest."""

import asyncio

import pytest

from mesh import Service, claim_times
from mesh.bus import Bus
from mesh.claim_times import ClaimTimes
from mesh.messages import NEVER, Announcement, Route, decode, encode
from mesh.registry import Registry
from mesh.settings import BusSettings
from mesh.subjects import Subjects
from tests.registry.builders import announcement, kinds


def routes(*paths):
    return tuple(Route(method="GET", path=path, endpoint="run") for path in paths)


def sibling(*paths, claimed):
    return announcement(1, *paths, claimed=claimed)


# -- one instance's moments


def test_moments_of_routes_that_come_and_go():
    moments = ClaimTimes()
    moments.claim(routes("/a", "/b/{x}"), 10)
    assert moments.announced == (10,)
    moments.claim(routes("/c", "/b/{y}"), 20)
    assert moments.announced == (20, 10)
    moments.claim(routes("/a", "/b/{y}"), 30)  # what was given up is claimed anew
    assert moments.announced == (30, 10)
    moments.claim((), 40)
    assert moments.announced == ()


def test_a_siblings_earlier_moments_are_adopted_and_no_others():
    moments = ClaimTimes()
    moments.claim(routes("/a", "/b/{x}", "/own"), 50)
    assert moments.adopt(sibling("/b/{other}", "/a", "/more", claimed=(10, 60, 5)))
    assert moments.announced == (50, 10, 50)
    assert moments.adopt(sibling("/a", "/own", claimed=(20,)))
    assert moments.announced == (20, 10, 20)
    assert not moments.adopt(sibling("/a", "/own", claimed=(20,)))
    assert not moments.adopt(sibling("/a", claimed=()))


# -- what a receiver makes of them


def test_the_earliest_of_several_instances_counts():
    registry = Registry()
    registry.apply(announcement(1, "/a", "/b", id="one", claimed=(20,)), 0.0)
    registry.apply(announcement(1, "/a", "/b", id="two", claimed=(10, 30)), 0.0)
    (announced,) = registry.claimed_routes("users")
    assert announced.claimed == (10, 20)
    assert kinds(registry.apply(announcement(2, "/a", "/b", id="one", claimed=(5,)), 1.0)) == ["claimed"]
    assert registry.claimed_routes("users")[0].claimed == (5, 5)
    assert registry.apply(announcement(3, "/a", "/b", id="one", claimed=(5, 5)), 1.0) == []
    registry.apply(announcement(4, id="one", state="stopped"), 2.0)
    assert registry.claimed_routes("users")[0].claimed == (10, 30)


@pytest.mark.parametrize(
    ("started", "moment"),
    [
        ("2025-01-01T00:00:00.000Z", 1735689600000),
        ("2025-01-01T01:00:00+01:00", 1735689600000),
        ("1900-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 253402300799000),
        ("yesterday", NEVER),
        ("", NEVER),
    ],
)
def test_an_implementation_without_claims_has_them_since_it_started(started, moment):
    registry = Registry()
    registry.apply(announcement(1, started=started), 0.0)
    assert registry.claimed_routes("users")[0].claimed == (moment,)


@pytest.mark.parametrize("claimed", [(1, 2, 3), (-1,), (NEVER + 1,)])
def test_claims_that_cannot_be_are_refused(claimed):
    message = encode(announcement(1, "/a", "/b", claimed=claimed))
    with pytest.raises(ValueError, match="claimed"):
        decode(message, "users", "a")


# -- on the bus


def greeter(*paths):
    service = Service("greeter")
    for number, path in enumerate(paths):

        @service.get(path, name=f"greet{number}")
        async def greet() -> str:
            return "hello"

    return service


@pytest.fixture
async def announced(nats_url, prefix):
    """A function: the next announcement of greeter by whoever is none of those that were seen."""
    bus = Bus(BusSettings(servers=(nats_url,), prefix=prefix), service="client", instance="listener")
    heard = asyncio.Queue()

    def deliver(subject, reply, block, payload):
        party = bus.subjects.party(subject)
        heard.put_nowait(decode(payload, party.service, party.instance))

    async def following(accept=lambda message: True) -> Announcement:
        async with asyncio.timeout(20):
            while True:
                message = await heard.get()
                if accept(message):
                    return message

    async with bus:
        await bus.subscribe(Subjects(prefix).announce("greeter", "*"), deliver)
        await bus.flush()
        yield following


async def test_a_new_instance_takes_the_claims_of_a_sibling_over(mesh, announced):
    first = await mesh.start(greeter("/a"))
    (since,) = (await announced()).claimed
    second = await mesh.start(greeter("/b", "/a"))
    new = await announced(lambda message: message.id == second.id and message.claimed[1:] == (since,))
    assert new.claimed[0] > since
    # The first one leaves; what it knew lives on in the second.
    await first.drain()
    third = await mesh.start(greeter("/a"))
    await announced(lambda message: message.id == third.id and message.claimed == (since,))


async def test_a_claim_ends_with_the_last_instance(mesh, announced):
    first = await mesh.start(greeter("/a"))
    (since,) = (await announced()).claimed
    await first.drain()
    second = await mesh.start(greeter("/a"))
    assert (await announced(lambda message: message.id == second.id)).claimed[0] > since


async def test_a_sibling_that_does_not_answer_is_asked_again(mesh, announced, nats_url, prefix, monkeypatch):
    """It stands still, say; meanwhile the instance serves, with its own claim."""
    monkeypatch.setattr(claim_times, "RETRY_PAUSES_S", (0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1))
    asked = asyncio.Queue()
    async with Bus(BusSettings(servers=(nats_url,), prefix=prefix), service="greeter", instance="frozen") as bus:
        deliver = lambda subject, reply, block, payload: asked.put_nowait(reply)  # noqa: E731
        await bus.subscribe(Subjects(prefix).claims("greeter"), deliver, queue="q")
        await bus.flush()
        instance = await mesh.start(greeter("/a"))
        own = await announced(lambda message: message.id == instance.id)
        await asked.get()
        reply = await asked.get()
        for broken in (b"", b"{", encode(announcement(1, "/a", claimed=(1,)))):  # the last is another service's
            bus.publish(reply, broken)
            reply = await asked.get()
        frozen = announcement(1, "/a", service="greeter", id="frozen", claimed=(own.claimed[0] - 5000,))
        bus.publish(reply, encode(frozen))
        healed = await announced(lambda message: message.id == instance.id and message.claimed != own.claimed)
        assert healed.claimed == frozen.claimed
