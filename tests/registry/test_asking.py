"""A lost announcement heals itself: the instance is asked for it."""

from __future__ import annotations

import random
from itertools import pairwise

from mesh.registry import DiscoverRequest, Registry
from mesh.registry.registry import FORGET_S
from tests.registry.builders import announcement, heartbeat, kinds

ASK = DiscoverRequest("users", "a")


def make(**options: int) -> Registry:
    return Registry(rng=random.Random(1), **options)


def test_an_unknown_instance_is_asked_at_once_and_only_once() -> None:
    registry = make()
    assert registry.apply(heartbeat(1), 0.0) == [ASK]
    assert registry.apply(heartbeat(2), 1.0) == []
    assert registry.unknown() == [("users", "a")]
    assert len(registry) == 0
    assert registry.counters["asks"] == 1


def test_asking_backs_off_from_two_to_sixty_seconds() -> None:
    registry = make()
    registry.apply(heartbeat(1), 0.0)
    times = [0.0]
    for tick in range(1, 4000):
        now = tick / 10
        if tick % 20 == 0:
            assert registry.apply(heartbeat(1 + tick), now) == []
        times += [now for _ in registry.expire(now)]
    waits = [round(b - a, 1) for a, b in pairwise(times)]
    for wait, least in zip(waits, (2, 4, 8, 16, 32, 60, 60), strict=False):
        assert least <= wait <= min(60, least * 1.2) + 0.1
    assert len(waits) >= 7


def test_the_answer_ends_it() -> None:
    registry = make()
    registry.apply(heartbeat(1), 0.0)
    assert kinds(registry.apply(announcement(2), 0.1)) == ["joined"]
    assert registry.unknown() == []
    assert kinds(registry.expire(3.0)) == []


def test_an_overtaken_announcement_joins_with_the_heartbeats_state_and_time() -> None:
    registry = make()
    registry.apply(heartbeat(5, state="unready", inflight=4), 0.0)
    registry.apply(heartbeat(3, state="starting"), 0.5)  # late: dropped
    assert kinds(registry.apply(announcement(4, state="ready"), 1.0)) == ["joined"]
    instance = registry.instances()[0]
    assert (instance.seq, instance.announced, instance.state, instance.inflight) == (5, 4, "unready", 4)
    assert instance.seen == 0.0
    assert kinds(registry.expire(3.0)) == ["suspect"]


def test_an_answer_of_another_revision_than_the_heartbeat_does_not_end_it() -> None:
    registry = make()
    registry.apply(heartbeat(5, "/new"), 0.0)
    assert kinds(registry.apply(announcement(4, "/old"), 0.1)) == ["joined"]
    assert registry.unknown() == []
    assert kinds(registry.expire(2.9)) == ["ask"]
    assert kinds(registry.apply(announcement(6, "/new"), 3.0)) == ["changed"]
    registry.apply(heartbeat(7, "/new"), 6.0)
    assert registry.expire(8.9) == []


def test_another_revision_of_a_known_instance_is_asked_for() -> None:
    registry = make()
    registry.apply(announcement(1, "/old"), 0.0)
    assert registry.apply(heartbeat(3, "/new"), 1.0) == [ASK]
    assert registry.apply(heartbeat(4, "/new"), 2.0) == []
    assert kinds(registry.expire(3.5)) == ["ask"]
    assert kinds(registry.apply(announcement(2, "/new"), 3.6)) == ["changed"]
    assert registry.apply(heartbeat(5, "/new"), 4.0) == []
    assert registry.expire(6.9) == []


def test_a_heartbeat_of_the_known_revision_ends_it_too() -> None:
    registry = make()
    registry.apply(announcement(1, "/old"), 0.0)
    registry.apply(heartbeat(2, "/new"), 1.0)
    registry.apply(heartbeat(3, "/old"), 2.0)
    assert registry.expire(4.9) == []


def test_the_instances_own_announcement_counts_not_that_of_another() -> None:
    registry = make()
    registry.apply(announcement(1, "/new", id="b"), 0.0)
    registry.apply(announcement(1, "/old", id="a"), 0.0)
    assert registry.apply(heartbeat(2, "/new", id="a"), 0.1) == [ASK]


def test_a_silent_unknown_is_forgotten() -> None:
    registry = make()
    registry.apply(heartbeat(1), 0.0)
    now = 0.0
    while registry.unknown():
        now += 1.0
        registry.expire(now)
    assert FORGET_S <= now <= FORGET_S + 60
    assert registry.expire(now + 600) == []
    assert registry.apply(heartbeat(2), now) == [ASK]


def test_a_lost_instance_is_asked_no_more() -> None:
    registry = make()
    registry.apply(announcement(1, "/old"), 0.0)
    registry.apply(heartbeat(2, "/new"), 0.0)
    assert kinds(registry.expire(8.0)).count("lost") == 1
    assert registry.expire(100.0) == []


def test_the_unknown_are_bounded() -> None:
    registry = make(max_unknown=2)
    for id in "abcd":
        registry.apply(heartbeat(1, id=id), 0.0)
    assert len(registry.unknown()) == 2
    assert registry.counters["asks_refused"] == 2
    registry.apply(announcement(2, id="a"), 0.1)
    assert registry.apply(heartbeat(2, id="c"), 2.0) == [DiscoverRequest("users", "c")]  # there is room again
    assert kinds(registry.apply(announcement(1, id="d"), 2.0)) == ["joined"]  # joining needs no room


def test_a_restart_asks_again_soon() -> None:
    registry = make()
    registry.apply(heartbeat(1), 0.0)
    for tick in range(1, 400):
        registry.expire(tick / 10)
    registry.restart(40.0)
    assert registry.expire(41.9) == []
    assert registry.expire(42.5) == [ASK]
    assert registry.expire(44.3) == []
