"""The live route table: the first change at once, what follows in batches and in slices."""

import asyncio
import logging

import pytest

from mesh.coalesce import PAUSE_S, Coalescer
from mesh.live_routes import CONFLICT_LINES, LiveRoutes
from mesh.messages import Announcement, Endpoint, Route, revision_of
from mesh.registry import Registry
from mesh.routes import Match, RouteTable
from mesh.routes.slices import ROUTES, finish

MANY = 3000


def announcement(service, routes, seq=1, id="one"):
    endpoints = (Endpoint(name="e", subject=f"mesh.req.{service}.e"),)
    paths = tuple(Route(method="GET", path=f"/{service}/{i}", endpoint="e") for i in range(routes))
    return Announcement(
        name=service,
        id=id,
        version="1.0.0",
        endpoints=endpoints,
        routes=paths,
        seq=seq,
        revision=revision_of(service, "1.0.0", endpoints, paths),
        state="ready",
        started="2026-01-01T00:00:00Z",
        heartbeat_ms=2000,
    )


class Hearing:
    """As much of a watcher as a live needs: the registry, its clock, who listens."""

    def __init__(self):
        self.registry = Registry()
        self.now = 0.0
        self.listeners = []

    def on_change(self, listener):
        self.listeners.append(listener)

    def hear(self, *announcements):
        for message in announcements:
            changes = self.registry.apply(message, self.now)
            for listener in self.listeners:
                listener(changes)


@pytest.fixture
def watcher():
    return Hearing()


def serves(live, service, number=0):
    return isinstance(live.table.match("GET", (service, str(number))), Match)


async def test_the_first_change_is_in_the_table_at_once_and_the_next_ones_together(watcher, clock):
    live = LiveRoutes(watcher)
    watcher.hear(announcement("a", 1))
    assert serves(live, "a")
    first = live.table
    for name in "bcde":
        watcher.hear(announcement(name, 1))
    assert live.table is first
    assert live.behind
    await clock.advance(PAUSE_S * 1.01)
    assert all(serves(live, name) for name in "bcde")
    assert not live.behind
    second = live.table
    watcher.hear(announcement("f", 1))  # so soon after the last swap it waits again
    assert live.table is second
    await clock.advance(PAUSE_S * 1.01)
    assert serves(live, "f")


async def test_after_a_rest_a_change_is_in_the_table_at_once_again(watcher, clock):
    live = LiveRoutes(watcher)
    watcher.hear(announcement("a", 1))
    await clock.advance(2 * PAUSE_S)
    watcher.hear(announcement("b", 1))
    assert serves(live, "b")


async def test_who_needs_it_now_gets_it_now(watcher, clock):
    live = LiveRoutes(watcher)
    watcher.hear(announcement("a", 1), announcement("b", 1))
    assert not serves(live, "b")
    live.update_now()
    assert serves(live, "b")
    watcher.hear(announcement("c", 1))
    await live.caught_up()
    assert serves(live, "c")


async def test_a_service_of_thousands_of_routes_leaves_turns_to_others(watcher):
    live = LiveRoutes(watcher)
    watcher.hear(announcement("many", MANY))
    turns = 0
    while live.behind:
        assert not serves(live, "many")  # all of its routes, or none
        turns += 1
        await asyncio.sleep(0)
    assert turns > 3
    assert all(serves(live, "many", number) for number in range(MANY))


async def test_what_comes_while_it_is_made_is_not_lost(watcher):
    live = LiveRoutes(watcher)
    watcher.hear(announcement("many", MANY))
    assert live.behind
    watcher.hear(announcement("late", 1))
    async with asyncio.timeout(10):
        await live.caught_up()
    assert serves(live, "many", MANY - 1)
    assert serves(live, "late")


def test_the_steps_are_short_and_come_to_what_all_at_once_comes_to():
    before = RouteTable().replace("other", [announcement("other", 10)], 0)
    entries = list(before.routes())
    steps, taken = before.replacing("many", [announcement("many", MANY)], 0), 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            after = stop.value
            break
        taken += 1
        assert list(before.routes()) == entries
    assert taken >= 2 * MANY / ROUTES  # parsing, and the trie
    whole = before.replace("many", [announcement("many", MANY)], 0)
    named = [(entry.service, entry.method, entry.template) for entry in after.routes()]
    assert named == [(entry.service, entry.method, entry.template) for entry in whole.routes()]
    assert finish(after.replacing("many", [announcement("many", MANY)], 0)) is after


async def test_news_is_told_once(clock):
    told = []
    news = Coalescer(lambda names: told.append(sorted(names)))
    news.add(["a"])
    news.add(["b"])
    news.add(["b", "c"])
    assert told == [["a"]]
    assert news.pending
    await clock.advance(PAUSE_S * 1.01)
    assert told == [["a"], ["b", "c"]]
    await clock.advance(10 * PAUSE_S)
    assert told == [["a"], ["b", "c"]]
    news.add(["d"])
    assert told[-1] == ["d"]


async def test_conflicts_without_number_take_few_lines_and_a_failing_listener_harms_nothing(watcher, clock, caplog):
    caplog.set_level(logging.INFO)
    told = []

    def fail(begun, over):
        told.extend(begun)
        raise ValueError("too much")

    live = LiveRoutes(watcher, on_conflicts=fail)
    for name in ("a", *(f"s{number:03}" for number in range(400))):
        endpoints = (Endpoint(name="e", subject="x"),)
        routes = tuple(Route(method="GET", path=f"/{number}", endpoint="e") for number in range(5))
        facts = {"version": "1", "seq": 1, "state": "ready", "started": "", "heartbeat_ms": 2000, "claimed": (1,)}
        facts |= {"revision": revision_of(name, "1", endpoints, routes), "endpoints": endpoints, "routes": routes}
        watcher.hear(Announcement(name=name, id="one", **facts))
        await clock.advance(PAUSE_S * 1.01)
    assert len(told) == 400 * 5
    assert isinstance(live.table.match("GET", ("0",)), Match)
    lines = [record.getMessage() for record in caplog.records if "route conflict" in record.getMessage()]
    assert "could not be taken in" not in caplog.text
    assert len([line for line in lines if line.startswith("route conflict")]) == CONFLICT_LINES
    assert len([line for line in lines if "left out" in line]) == 1
    assert max(map(len, lines)) < 200
