"""Rules that hold for every order, loss and duplication of messages."""

from __future__ import annotations

import random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages import Control, State
from mesh.registry import Change, DiscoverRequest, Registry
from tests.registry.builders import announcement, heartbeat

PATHS = ("/one", "/two", "/three")
LIVING: tuple[State, ...] = ("starting", "ready", "unready", "draining")


class Told(NamedTuple):
    """What one instance has said so far."""

    id: str
    messages: list[Control]
    path: str
    state: State

    @property
    def seq(self) -> int:
        return len(self.messages)


@st.composite
def lives(draw: st.DrawFn, id: str) -> Told:
    path, state = PATHS[0], LIVING[0]
    messages: list[Control] = [announcement(1, path, id=id, state=state)]
    for _ in range(draw(st.integers(0, 8))):
        seq = len(messages) + 1
        deed = draw(st.sampled_from(("beat", "beat", "state", "path", "again")))
        if deed == "path":
            path = draw(st.sampled_from(PATHS))
        elif deed == "state":
            state = draw(st.sampled_from(LIVING))
        say = heartbeat if deed == "beat" else announcement
        messages.append(say(seq, path, id=id, state=state))
    if draw(st.booleans()):
        state = "stopped"
        messages.append(announcement(len(messages) + 1, path, id=id, state=state))
    return Told(id, messages, path, state)


population = st.tuples(lives("a"), lives("b"), lives("c"))
pauses = st.sampled_from((0.0, 0.0, 0.1, 2.0, 9.0))


@st.composite
def deliveries(draw: st.DrawFn, messages: list[Control]) -> list[tuple[Control, float]]:
    """Some of the messages, in any order, some of them several times."""
    return draw(st.lists(st.tuples(st.sampled_from(messages), pauses), max_size=30))


def check(registry: Registry) -> None:
    """What holds between any two calls."""
    instances = registry.instances()
    assert len(registry) == len(instances)
    assert all(i.live and i.announced <= i.seq and i.state != "stopped" for i in instances)
    assert not {(i.service, i.id) for i in instances} & set(registry.unknown())
    assert len(registry._content_pool) <= len({id(i.content) for i in instances})
    for i in instances:
        assert any(c is i.content for c in registry.content(i.service))


@settings(deadline=None, max_examples=150)
@given(st.data(), population)
def test_receivers_agree_in_the_end(data: st.DataObject, told: tuple[Told, ...]) -> None:
    messages = [message for one in told for message in one.messages]
    registries = [Registry(rng=random.Random(1)), Registry(rng=random.Random(2))]
    now = 0.0
    for registry in registries:
        at = 0.0
        for message, pause in data.draw(deliveries(messages)):
            at += pause
            registry.apply(message, at)
            registry.expire(at)
            check(registry)
        now = max(now, at)

    # From now on nothing is lost: the living beat and answer, the stopped have said so.
    seqs = {one.id: one.seq for one in told}
    living = [one for one in told if one.state != "stopped"]
    for one in told:
        if one.state == "stopped":
            for registry in registries:
                registry.apply(one.messages[-1], now)
    for _ in range(36):  # 2 s each: longer than the longest wait between two asks
        now += 2.0
        asks: set[str] = set()
        for one in living:
            seqs[one.id] += 1
            for registry in registries:
                outcome = registry.apply(heartbeat(seqs[one.id], one.path, id=one.id, state=one.state), now)
                asks |= {item.instance for item in outcome if isinstance(item, DiscoverRequest)}
        for registry in registries:
            asks |= {item.instance for item in registry.expire(now) if isinstance(item, DiscoverRequest)}
        for one in living:
            if one.id in asks:
                seqs[one.id] += 1
                for registry in registries:
                    registry.apply(announcement(seqs[one.id], one.path, id=one.id, state=one.state), now)
        for registry in registries:
            check(registry)

    first, second = (registry.converged_state() for registry in registries)
    assert first == second
    assert {key: (content.routes[0].path, state, seq) for key, (content, state, seq) in first.items()} == {
        ("users", one.id): (one.path, one.state, seqs[one.id]) for one in living
    }


anything = st.builds(
    lambda say, seq, path, state: say(seq, path, state=state),
    st.sampled_from((announcement, heartbeat)),
    st.integers(0, 12),
    st.sampled_from(PATHS),
    st.sampled_from((*LIVING, "stopped")),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(anything, pauses), max_size=30))
def test_nothing_late_revives_a_stopped_instance(history: list[tuple[Control, float]]) -> None:
    """Whatever it has said before may come after; more it does not say."""
    registry = Registry(rng=random.Random(1))
    now, stopped = 0.0, False
    history = [*history, (announcement(13, state="stopped"), 0.0), *history]
    for message, pause in history:
        now += pause
        stopped = stopped or message.seq == 13
        outcome = registry.apply(message, now) + registry.expire(now)
        check(registry)
        if stopped:
            assert len(registry) == 0
            assert not [item for item in outcome if isinstance(item, DiscoverRequest) or item.kind != "left"]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from((250, 2000, 30_000)),
    st.lists(st.tuples(anything, st.floats(0, 5)), max_size=40),
)
def test_verdicts_need_their_silence_and_never_miss_it(heartbeat_ms: int, history: list[tuple[Control, float]]) -> None:
    registry = Registry(rng=random.Random(1))
    interval = heartbeat_ms / 1000
    now, heard, top = 0.0, 0.0, 100
    registry.apply(announcement(100, heartbeat_ms=heartbeat_ms), now)
    for message, pause in history:
        now += pause * interval
        for item in registry.expire(now):
            if isinstance(item, Change) and item.kind == "lost":
                assert now - heard >= 4 * interval - 1e-6
            if isinstance(item, Change) and item.kind == "suspect":
                assert now - heard >= 1.5 * interval - 1e-6
        instance = registry.get("users", "a")
        assert (instance is not None) == (now - heard < 4 * interval - 1e-9) or abs(now - heard - 4 * interval) < 1e-6
        if instance is None:
            return
        if abs(now - heard - 1.5 * interval) > 1e-6:
            assert instance.suspect == (now - heard > 1.5 * interval)
        if message.state != "stopped" and message.seq % 2:
            top += 1
            registry.apply(heartbeat(top), now)
            heard = now
        elif message.state != "stopped":
            registry.apply(message, now)  # old: it must not count as life
