"""Each rule on its own."""

from __future__ import annotations

import random

import msgspec
import pytest

from mesh.messages import Endpoint, Route, revision_of
from mesh.registry import AlteredRoute, Change, DiscoverRequest, Registry
from tests.registry.builders import announcement, content, heartbeat, kinds, labels


@pytest.fixture
def registry() -> Registry:
    return Registry(rng=random.Random(1))


# -- coming


def test_an_announcement_joins(registry: Registry) -> None:
    (change,) = registry.apply(announcement(1, "/b", "/a", metadata={"zone": "x"}, description="d"), 5.0)
    assert isinstance(change, Change)
    assert (change.kind, change.service, change.instance, change.version) == ("joined", "users", "a", "1.0.0")
    assert (change.state, change.previous, change.removed) == ("ready", None, ())
    assert labels(change.added) == ["GET /b", "GET /a"]
    instance = registry.get("users", "a")
    assert instance is not None
    assert (instance.seq, instance.announced, instance.seen, instance.live) == (1, 1, 5.0, True)
    assert (instance.metadata, instance.description, instance.heartbeat_ms) == ({"zone": "x"}, "d", 2000)
    assert (instance.suspect, instance.foreign, instance.ready) == (False, False, True)
    assert len(registry) == 1
    assert registry.services() == ["users"]
    assert registry.instances("users") == registry.instances() == [instance]
    assert registry.instances("other") == []
    assert registry.get("other", "a") is None


def test_changes_are_json_ready(registry: Registry) -> None:
    (change,) = registry.apply(announcement(1), 0.0)
    assert msgspec.to_builtins(change)["added"] == ({"method": "GET", "path": "/users", "endpoint": "e0"},)
    assert msgspec.json.decode(msgspec.json.encode(change))["kind"] == "joined"
    assert msgspec.json.encode(registry.snapshot())


def test_a_heartbeat_brings_load_and_state(registry: Registry) -> None:
    registry.apply(announcement(1, state="starting"), 0.0)
    (change,) = registry.apply(heartbeat(2, inflight=3, capacity=9, lag_ms=7), 1.0)
    assert isinstance(change, Change)
    assert (change.kind, change.previous, change.state) == ("state", "starting", "ready")
    instance = registry.instances()[0]
    assert (instance.inflight, instance.capacity, instance.lag_ms, instance.seen) == (3, 9, 7, 1.0)
    assert registry.apply(heartbeat(3), 2.0) == []


@pytest.mark.parametrize("state", ["starting", "ready", "unready", "draining"])
@pytest.mark.parametrize("after", ["starting", "ready", "unready", "draining"])
def test_states_go_in_any_direction(registry: Registry, state: str, after: str) -> None:
    registry.apply(announcement(1, state=state), 0.0)  # type: ignore[arg-type]
    expected = [] if state == after else ["state"]
    assert kinds(registry.apply(heartbeat(2, state=after), 0.0)) == expected  # type: ignore[arg-type]


# -- order


def test_an_old_or_duplicate_message_is_dropped_and_shows_no_life(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.apply(heartbeat(5), 1.0)
    assert registry.apply(heartbeat(5, state="unready", inflight=9), 2.0) == []
    assert registry.apply(heartbeat(4, state="unready", inflight=9), 2.0) == []
    assert registry.apply(announcement(1), 2.0) == []
    instance = registry.instances()[0]
    assert (instance.state, instance.seen, instance.inflight) == ("ready", 1.0, 0)
    assert registry.counters["late"] == 1
    assert registry.counters["duplicate"] == 2


def test_a_late_announcement_brings_content_but_neither_state_nor_life(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    assert kinds(registry.apply(heartbeat(5, "/new", state="draining"), 1.0)) == ["state", "ask"]
    (change,) = registry.apply(announcement(4, "/new", state="ready"), 2.0)
    assert isinstance(change, Change)
    assert (change.kind, labels(change.added), labels(change.removed)) == ("changed", ["GET /new"], ["GET /users"])
    instance = registry.instances()[0]
    assert (instance.state, instance.seen, instance.seq, instance.announced) == ("draining", 1.0, 5, 4)
    assert kinds(registry.expire(3.9)) == []  # it has answered what the heartbeat made unknown


def test_a_route_with_other_fields_is_altered() -> None:
    registry = Registry()
    registry.apply(announcement(1, "/a", "/b"), 0.0)
    fields = content("/a", "/b")
    (first, second), endpoints = fields["routes"], fields["endpoints"]
    slower = msgspec.structs.replace(second, timeout_ms=5000)
    routes = (first, slower, Route(method="POST", path="/a", endpoint="e0"))
    revision = revision_of("users", "1.0.0", endpoints, routes)
    (change,) = registry.apply(announcement(2, routes=routes, endpoints=endpoints, revision=revision), 1.0)
    assert isinstance(change, Change)
    assert change.altered == (AlteredRoute(second, slower),)
    assert (labels(change.added), change.removed) == (["POST /a"], ())


def test_an_announcement_older_than_the_last_one_changes_nothing(registry: Registry) -> None:
    registry.apply(announcement(4, "/new"), 0.0)
    assert registry.apply(announcement(2, "/old"), 1.0) == []
    assert registry.instances()[0].routes[0].path == "/new"


def test_one_announcement_can_change_content_and_state(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    outcome = registry.apply(announcement(2, "/users", "/b", state="draining", version="1.1.0"), 1.0)
    assert kinds(outcome) == ["changed", "state"]
    change = outcome[0]
    assert isinstance(change, Change)
    assert (change.version, labels(change.added), change.removed) == ("1.1.0", ["GET /b"], ())


def test_what_never_changes_is_as_the_newest_announcement_says(registry: Registry) -> None:
    registry.apply(announcement(1, metadata={"a": "1"}, description="first"), 0.0)
    other = announcement(2, metadata={"a": "2"}, description="second", heartbeat_ms=250, started="later")
    assert kinds(registry.apply(other, 1.0)) == ["changed", "claimed"]
    instance = registry.instances()[0]
    assert (instance.metadata, instance.description, instance.heartbeat_ms) == ({"a": "2"}, "second", 250)
    assert instance.started == "later"
    assert registry.apply(announcement(1, description="late"), 1.0) == []
    assert instance.description == "second"


# -- content


def test_equal_content_is_held_once(registry: Registry) -> None:
    for id in "abc":
        registry.apply(announcement(1, id=id), 0.0)
    first, *others = [i.content for i in registry.instances()]
    assert all(other is first for other in others)
    assert registry.content("users") == [first]


def test_content_is_freed_with_its_last_instance(registry: Registry) -> None:
    registry.apply(announcement(1, id="a"), 0.0)
    registry.apply(announcement(1, id="b"), 0.0)
    registry.apply(announcement(2, "/new", id="a"), 0.0)
    assert len(registry.content("users")) == len(registry._content_pool) == 2
    registry.apply(heartbeat(2, id="b", state="stopped"), 0.0)
    assert [c.routes[0].path for c in registry.content("users")] == ["/new"]
    assert len(registry._content_pool) == 1
    registry.apply(heartbeat(3, id="a", state="stopped"), 0.0)
    assert registry.content("users") == registry.services() == []
    assert len(registry._content_pool) == 0


def test_a_false_revision_gets_a_copy_of_its_own(registry: Registry) -> None:
    registry.apply(announcement(1, "/true", id="a"), 0.0)
    false = announcement(1, "/false", id="b", revision=content("/true")["revision"])
    registry.apply(false, 0.0)
    assert registry.counters["revision_clashes"] == 1
    assert sorted(c.routes[0].path for c in registry.content("users")) == ["/false", "/true"]
    registry.apply(msgspec.structs.replace(false, seq=2), 0.0)
    assert registry.counters["revision_clashes"] == 1  # the same claim again is no new clash
    registry.apply(announcement(2, id="b", state="stopped"), 0.0)
    registry.apply(announcement(1, "/true", id="c"), 0.0)
    assert len(registry.content("users")) == 1


def test_endpoints_alone_are_content_too(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    endpoint = Endpoint(name="e0", subject="mesh.req.users.e0", metadata={"x": "y"})
    outcome = registry.apply(announcement(2, endpoints=(endpoint,)), 0.0)
    assert kinds(outcome) == ["changed"]
    assert registry.content("users")[0].endpoints == (endpoint,)


# -- silence


def test_suspect_then_lost(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.apply(heartbeat(2), 10.0)
    assert registry.expire(12.9) == []
    (change,) = registry.expire(13.0)
    assert isinstance(change, Change)
    assert (change.kind, change.state, change.reason) == ("suspect", "ready", "silent for 3.0 s")
    instance = registry.instances()[0]
    assert instance.suspect
    assert instance.ready
    assert registry.expire(17.9) == []
    (change,) = registry.expire(18.0)
    assert isinstance(change, Change)
    assert (change.kind, labels(change.removed)) == ("lost", ["GET /users"])
    assert len(registry) == 0
    assert not instance.live
    assert not instance.ready


def test_a_message_clears_suspicion_and_the_next_comes_in_time(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.expire(3.5)
    assert kinds(registry.apply(heartbeat(2), 3.6)) == ["recovered"]
    assert registry.expire(6.5) == []
    assert kinds(registry.expire(6.6)) == ["suspect"]
    assert kinds(registry.expire(11.6)) == ["lost"]


def test_a_duplicate_clears_no_suspicion(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.expire(3.0)
    assert registry.apply(announcement(1), 3.1) == []
    assert registry.instances()[0].suspect
    assert kinds(registry.expire(8.0)) == ["lost"]


def test_each_instance_has_its_own_patience(registry: Registry) -> None:
    registry.apply(announcement(1, id="quick", heartbeat_ms=250), 0.0)
    registry.apply(announcement(1, id="slow", heartbeat_ms=30_000), 0.0)
    assert kinds(registry.expire(0.4)) == ["suspect"]
    assert kinds(registry.expire(1.0)) == ["lost"]
    assert registry.expire(44.9) == []
    assert kinds(registry.expire(45.0)) == ["suspect"]
    assert kinds(registry.expire(120.0)) == ["lost"]


def test_only_a_higher_seq_revives_a_lost_one_and_by_announcement(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.apply(heartbeat(7), 0.0)
    registry.expire(8.0)
    assert registry.apply(heartbeat(7), 9.0) == []
    assert registry.apply(announcement(6), 9.0) == []
    assert len(registry) == 0
    assert registry.apply(heartbeat(9), 10.0) == [DiscoverRequest("users", "a")]
    assert len(registry) == 0
    (change,) = registry.apply(announcement(8), 10.5)  # above what it had when lost, below the heartbeat
    assert isinstance(change, Change)
    assert (change.kind, change.reason) == ("joined", "back after it was lost")
    assert registry.instances()[0].seq == 9


def test_a_tombstone_lasts_ten_minutes(registry: Registry) -> None:
    registry.apply(announcement(5), 0.0)
    registry.expire(8.0)
    registry.expire(607.9)
    assert registry.apply(announcement(5), 607.9) == []
    registry.expire(608.0)
    assert kinds(registry.apply(announcement(5), 608.0)) == ["joined"]


def test_nothing_is_judged_by_silence_before_a_restart(registry: Registry) -> None:
    registry.apply(announcement(1, id="a"), 0.0)
    registry.apply(announcement(1, id="b"), 2.0)
    assert kinds(registry.expire(3.0)) == ["suspect"]
    registry.restart(7.9)
    assert registry.expire(10.8) == []
    assert registry.get("users", "a").suspect  # type: ignore[union-attr]
    assert kinds(registry.expire(10.9)) == ["suspect"]
    assert registry.expire(15.8) == []
    assert kinds(registry.expire(15.9)) == ["lost", "lost"]


def test_next_due_is_never_too_late(registry: Registry) -> None:
    assert registry.next_due() is None
    registry.apply(announcement(1), 1.0)
    assert registry.next_due() == 4.0
    registry.expire(9.0)
    assert registry.next_due() == 609.0


# -- stopped


@pytest.mark.parametrize("message", [heartbeat(2, state="stopped"), announcement(2, state="stopped")])
def test_nothing_late_comes_after_stopped(registry: Registry, message: object) -> None:
    registry.apply(announcement(1, state="draining"), 0.0)
    (change,) = registry.apply(message, 1.0)  # type: ignore[arg-type]
    assert isinstance(change, Change)
    assert (change.kind, change.previous, change.state) == ("left", "draining", "stopped")
    assert labels(change.removed) == ["GET /users"]
    for later in (announcement(1), heartbeat(2), announcement(2, state="stopped"), heartbeat(1)):
        assert registry.apply(later, 2.0) == []
    assert len(registry) == 0
    assert registry.expire(100.0) == []
    assert registry.counters["after_stopped"] == 4


@pytest.mark.parametrize("message", [heartbeat(5, state="stopped"), announcement(5, state="stopped")])
def test_stopped_of_an_unknown_instance_keeps_it_out(registry: Registry, message: object) -> None:
    assert registry.apply(message, 0.0) == []  # type: ignore[arg-type]
    assert registry.apply(announcement(1), 1.0) == []
    assert registry.apply(heartbeat(2), 1.0) == []
    assert len(registry) == 0
    assert registry.unknown() == []


def test_stopped_ends_the_asking(registry: Registry) -> None:
    registry.apply(heartbeat(1), 0.0)
    registry.apply(heartbeat(2, state="stopped"), 0.5)
    assert registry.unknown() == registry.expire(100.0) == []


def test_stopped_counts_whatever_its_seq(registry: Registry) -> None:
    registry.apply(announcement(9), 0.0)
    assert kinds(registry.apply(heartbeat(3, state="stopped"), 0.0)) == ["left"]


def test_stopped_makes_a_loss_final(registry: Registry) -> None:
    registry.apply(announcement(1), 0.0)
    registry.expire(8.0)
    assert registry.apply(heartbeat(5, state="stopped"), 9.0) == []
    assert registry.apply(announcement(5), 10.0) == []


def test_tombstones_are_bounded() -> None:
    registry = Registry(max_tombstones=2)
    for id in "abc":
        registry.apply(heartbeat(2, id=id, state="stopped"), 0.0)
    assert registry.counters["tombstones_evicted"] == 1
    assert registry.apply(announcement(1, id="c"), 1.0) == []
    assert kinds(registry.apply(announcement(1, id="a"), 1.0)) == ["joined"]
