"""What a gateway tells services of the routes that they and others claim: who the rival is, and never a flood."""

import logging

import pytest

from gateway.conflict_notices import LOSERS, MOST, PAUSE_S, QUEUE, SERVICES, ConflictNotices
from mesh.errors import TooLarge
from mesh.messages import RouteConflict, decode_conflicts
from mesh.registry import Change
from mesh.subjects import Subjects


class Bus:
    """Keeps what would be published, by the service and the instance that it is for."""

    def __init__(self):
        self.subjects, self.max_payload, self.sent = Subjects("mesh"), 1 << 20, []

    def address(self, subject):
        return subject.encode()

    def publish(self, address, payload):
        if len(payload) > self.max_payload:
            raise TooLarge("too large")
        self.sent.append((address.decode().removeprefix("mesh.ctl.").removesuffix(".conflicts"), payload))

    def told(self):
        """By receiver the conflicts that begin and that end, of all messages until now."""
        found = {}
        for party, payload in self.sent:
            notice = decode_conflicts(payload)
            begun, over = found.setdefault(party, ([], []))
            begun += notice.begun
            over += notice.over
        self.sent.clear()
        return found


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
async def notices(bus):
    return ConflictNotices(bus)


def contested(number=0, winner="winner", losers=("loser",)):
    return RouteConflict("GET", f"/{number}", winner, tuple(losers), "earlier")


def joined(service, instance):
    return Change(kind="joined", service=service, instance=instance, version="1", state="ready")


async def test_a_loser_is_told_of_itself_and_the_winner_of_a_few(bus, notices, clock):
    names = [f"s{number:03}" for number in range(60)]
    notices.changed([contested(losers=names)], [])
    told = bus.told()
    assert told.keys() == {"winner", *names}
    for name in names:
        assert told[name] == ([contested(losers=[name])], [])
    ((conflict,), _) = told["winner"]
    assert (conflict.losers, conflict.more) == (tuple(names[:LOSERS]), 60 - LOSERS)


async def test_what_begins_and_ends_is_told_once_a_second_as_it_is_by_then(bus, notices, clock):
    notices.changed([contested()], [])
    assert bus.told() == {party: ([contested()], []) for party in ("winner", "loser")}
    for _ in range(20):
        notices.changed([], [contested()])
        notices.changed([contested()], [])
    notices.changed([contested(1)], [contested()])
    assert bus.told() == {}
    await clock.advance(PAUSE_S)
    assert bus.told() == {party: ([contested(1)], [contested()]) for party in ("winner", "loser")}
    notices.changed([], [contested(1)])
    notices.changed([contested(1)], [])
    await clock.advance(3 * PAUSE_S)
    assert bus.told() == {}


async def test_another_loser_is_no_news_to_the_first(bus, notices, clock):
    notices.changed([contested()], [])
    bus.told()
    both = contested(losers=("loser", "second"))
    notices.changed([both], [contested()])
    await clock.advance(3 * PAUSE_S)
    assert bus.told() == {"winner": ([both], []), "second": ([contested(losers=["second"])], [])}


async def test_who_joins_is_told_alone(bus, notices, clock):
    notices.changed([contested()], [])
    bus.told()
    notices.joined([joined("loser", "L1"), joined("other", "O1")])
    await clock.advance(PAUSE_S)
    assert bus.told() == {"loser.L1": ([contested()], [])}


async def test_a_flood_costs_little_and_everybody_has_its_turn(bus, notices, clock):
    services = [f"s{number}" for number in range(3 * SERVICES)]
    notices.changed([contested(number, losers=services) for number in range(100)], [])
    assert len(bus.sent) == SERVICES
    told = bus.told()
    assert all(len(begun) == MOST for begun, _ in told.values())
    while len(told) < len(services) + 1:
        notices.changed([], [contested(99, losers=services)])
        notices.changed([contested(99, losers=services)], [])
        notices.joined([joined("s1", f"i{number}") for number in range(QUEUE)])
        await clock.advance(PAUSE_S)
        assert len(bus.sent) <= 2 * SERVICES
        told |= bus.told()
    assert len(notices._due) <= QUEUE


async def test_a_notice_that_cannot_be_sent_disturbs_nothing(bus, notices, clock, caplog):
    caplog.set_level(logging.DEBUG)
    bus.max_payload = 100
    notices.changed([contested()], [])
    assert "is not told of its conflicts" in caplog.text
    caplog.clear()
    notices.joined([joined("loser", "L1")])
    await clock.advance(PAUSE_S)
    assert "is not told of its conflicts" in caplog.text
