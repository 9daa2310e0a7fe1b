"""What somebody else says in an instance's name: it may disturb for a moment, and never for good."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages import MAX_COUNT, MAX_LEAP, Announcement, Control
from mesh.registry import Change, DiscoverRequest, Registry
from mesh.routes import Match, RouteTable
from tests.registry.builders import announcement, content, heartbeat, kinds

STATES = ("starting", "ready", "unready", "draining", "stopped")


@pytest.fixture
def registry() -> Registry:
    return Registry(rng=random.Random(1))


@pytest.mark.parametrize("say", [heartbeat, announcement])
@pytest.mark.parametrize("seq", [0, 5, 1000])
def test_an_instance_that_did_not_stop_is_back_with_its_next_word(registry: Registry, say: object, seq: int) -> None:
    registry.apply(announcement(5), 0.0)
    assert kinds(registry.apply(say(seq, state="stopped"), 1.0)) == ["left"]  # type: ignore[operator]
    (change,) = registry.apply(announcement(max(seq, 5) + 1), 1.1)
    assert isinstance(change, Change)
    assert (change.kind, change.state, change.reason) == (
        "joined",
        "ready",
        "it lives, though a message in its name said that it had stopped",
    )
    assert registry.counters["lived_after_stopped"] == 1


def test_a_heartbeat_after_stopped_makes_it_ask(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.apply(announcement(1, state="stopped"), 0.0)
    assert registry.apply(heartbeat(2), 0.5) == [DiscoverRequest("users", "a")]


@pytest.mark.parametrize("say", [heartbeat, announcement])
def test_a_seq_that_leaps_ahead_is_not_believed(registry: Registry, say: object) -> None:
    registry.apply(announcement(5), 0.0)
    assert registry.apply(say(5 + MAX_LEAP + 1, "/other"), 1.0) == []  # type: ignore[operator]
    assert registry.apply(say(MAX_COUNT, "/other"), 1.0) == []  # type: ignore[operator]
    assert registry.counters["leaps"] == 2
    registry.apply(heartbeat(6), 2.0)
    assert registry.instances()[0].seq == 6
    registry.apply(say(6 + MAX_LEAP), 2.0)  # type: ignore[operator]
    assert registry.instances()[0].seq == 6 + MAX_LEAP


def test_stopped_with_a_leap_ends_it_and_its_seq_does_not_count(registry: Registry) -> None:
    registry.apply(announcement(5), 0.0)
    assert kinds(registry.apply(heartbeat(MAX_COUNT, state="stopped"), 1.0)) == ["left"]
    registry.apply(heartbeat(MAX_COUNT, state="stopped"), 1.0)
    assert registry.apply(announcement(MAX_COUNT), 1.0) == []
    assert kinds(registry.apply(announcement(6), 1.0)) == ["joined"]


def test_the_heartbeat_of_an_unknown_instance_does_not_leap_over_its_announcement(registry: Registry) -> None:
    registry.apply(heartbeat(MAX_COUNT), 0.0)
    registry.apply(announcement(3), 0.1)
    registry.apply(heartbeat(4), 0.2)
    assert registry.instances()[0].seq == 4


forged = st.builds(
    lambda say, seq, path, state: say(seq, path, state=state),
    st.sampled_from((announcement, heartbeat)),
    st.integers(0, 40) | st.sampled_from((MAX_LEAP + 100, MAX_COUNT)),
    st.sampled_from(("/one", "/two")),
    st.sampled_from(STATES),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(forged, st.sampled_from((0.0, 0.1, 9.0))), max_size=30), st.randoms(use_true_random=False))
def test_everybody_who_knew_an_instance_knows_it_again(told: list[tuple[Control, float]], rng: random.Random) -> None:
    """Whatever is forged, and in whatever order it is heard: the instance's next announcement above it ends it all."""
    for _ in range(2):
        registry, now = Registry(rng=random.Random(1)), 0.0
        registry.apply(announcement(1, "/true"), now)
        for message, pause in told:
            now += pause
            registry.apply(message, now)
            registry.expire(now)
        registry.apply(announcement(41, "/true"), now)
        outcome = registry.apply(heartbeat(42, "/true"), now)
        (instance,) = registry.instances()
        assert ([route.path for route in instance.routes], instance.state, instance.seq) == (["/true"], "ready", 42)
        assert outcome == []
        rng.shuffle(told)


# -- one revision, several contents


def clashing(path: str, id: str) -> Announcement:
    """An announcement of other routes under the revision of ``/users``."""
    return announcement(1, path, id=id, revision=content("/users")["revision"])


@given(
    st.permutations([announcement(1, id="a"), clashing("/users", "b"), clashing("/evil", "e"), clashing("/two", "f")])
)
def test_the_routes_of_one_instance_never_become_those_of_another(heard: list[Announcement]) -> None:
    """Whoever is heard first: each instance is called by the routes that it announced itself."""
    registry = Registry(rng=random.Random(1))
    for message in heard:
        registry.apply(message, 0.0)
    table = RouteTable().replace("users", registry.claimed_routes("users"), 0.0)
    for path, ids in (("users", {"a", "b"}), ("evil", {"e"}), ("two", {"f"})):
        match = table.match("GET", (path,))
        assert isinstance(match, Match)
        assert {i.id for i in registry if i.revision in match.route.revisions} == ids
        assert {revision.announced.path for revision in match.route.revisions.values()} == {f"/{path}"}
    assert registry.revision_clashes == 2
    assert [item for message in heard for item in registry.apply(heartbeat(2, id=message.id), 0.1)] == []


# -- foreign services under a name of the mesh


def test_a_foreign_service_does_not_get_the_name_of_one_of_the_mesh(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    assert registry.adopt(announcement(0, "/evil", id="f"), 0.0) == []
    assert registry.adopt(announcement(0, "/evil", id="a"), 0.0) == []
    assert [i.id for i in registry] == ["a"]


@pytest.mark.parametrize("how", ["left", "lost"])
def test_nor_for_as_long_as_the_routes_are_remembered(registry: Registry, how: str) -> None:
    registry.apply(announcement(1), 0.0)
    if how == "left":
        registry.apply(announcement(2, state="stopped"), 8.0)
    assert kinds(registry.expire(8.0)) == ([] if how == "left" else ["lost"])
    assert registry.adopt(announcement(0, "/evil", id="f"), 9.0) == []
    registry.expire(607.0)
    assert registry.is_native("users")
    registry.expire(609.0)
    assert not registry.is_native("users")
    assert kinds(registry.adopt(announcement(0, "/new", id="f"), 610.0)) == ["joined"]


def test_foreign_ones_go_when_one_of_the_mesh_comes(registry: Registry) -> None:
    registry.adopt(announcement(0, "/x", id="a"), 0.0)
    registry.adopt(announcement(0, "/x", id="f"), 0.0)
    outcome = registry.apply(announcement(1, id="a"), 1.0)
    assert kinds(outcome) == ["left", "left", "joined"]
    assert [(i.id, i.foreign) for i in registry] == [("a", False)]


def test_heartbeats_and_stopped_do_not_touch_foreign_services(registry: Registry) -> None:
    registry.adopt(announcement(0, "/x", id="f"), 0.0)
    registry.apply(heartbeat(7, id="f", state="draining"), 0.0)
    registry.apply(heartbeat(8, id="f", state="stopped"), 0.0)
    (instance,) = registry.instances()
    assert (instance.state, instance.seq, instance.live) == ("ready", 0, True)


# -- what an instance says once


@pytest.mark.parametrize("stopped", [True, False])
def test_all_that_an_announcement_says_is_that_of_the_newest(registry: Registry, stopped: bool) -> None:
    """Whoever speaks first for an instance, or says that it stopped and joins in its name, plants nothing for good."""
    truth = {"description": "true", "metadata": {"a": "b"}, "heartbeat_ms": 2000, "bundles": False}
    false = {"description": "false", "metadata": {}, "heartbeat_ms": 30_000, "bundles": True, "started": "never"}
    if stopped:
        registry.apply(announcement(1, **truth), 0.0)
        registry.apply(heartbeat(2, state="stopped"), 0.0)
    registry.apply(announcement(3, **false), 0.0)
    outcome = registry.apply(announcement(4, **truth), 1.0)
    assert kinds(outcome) == ["changed", "claimed"]  # without `claimed` the routes are claimed since `started`
    assert outcome[0].reason == "bundles, description, heartbeat_ms, metadata, started"  # type: ignore[union-attr]
    (instance,) = registry.instances()
    assert {name: getattr(instance, name) for name in truth} == truth
    assert instance.started == announcement(1).started
    assert registry.apply(announcement(5, **truth), 1.0) == []
    assert kinds(registry.expire(3.9)) == []
    assert kinds(registry.expire(4.1)) == ["suspect"]
    registry.apply(announcement(6, **false), 4.2)  # a longer interval counts at once, too
    assert kinds(registry.expire(40.0)) == []
    registry.apply(announcement(7, **truth), 40.0)
    assert kinds(registry.expire(43.5)) == ["suspect"]
    assert kinds(registry.expire(48.5)) == ["lost"]


def test_a_late_announcement_of_a_suspect_instance_brings_its_shorter_interval(registry: Registry) -> None:
    registry.apply(announcement(1, heartbeat_ms=30_000), 0.0)
    registry.apply(heartbeat(9), 0.0)
    assert kinds(registry.expire(46.0)) == ["suspect"]
    registry.apply(announcement(8), 46.0)
    assert kinds(registry.expire(46.1)) == ["lost"]
