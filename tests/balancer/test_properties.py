"""What holds whatever instances, calls and outcomes come along."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.balancer import Balancer, Outcome, Peer
from tests.balancer.builders import Seen, sync

instances = st.lists(
    st.builds(
        Seen,
        id=st.sampled_from("abcdef"),
        state=st.sampled_from(["ready", "ready", "ready", "unready", "draining", "starting"]),
        revision=st.sampled_from(["r1", "r2"]),
        suspect=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda seen: seen.id,
)


class Calls(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 99), seen=instances)
    def begin(self, seed: int, seen: list[Seen]) -> None:
        self.balancer = Balancer("users", random.Random(seed))
        self.now = 1000.0
        self.inflight: list[Peer] = []
        self.sync(seen)

    @rule(seen=instances)
    def sync(self, seen: list[Seen]) -> None:
        self.seen = {one.id: one for one in seen}
        sync(self.balancer, seen)

    @rule(id=st.sampled_from("abcdef"))
    def heard(self, id: str) -> None:
        self.balancer.heard(id)

    @rule(pause=st.sampled_from([0.1, 5.0, 10.0, 70.0]))
    def wait(self, pause: float) -> None:
        self.now += pause

    @rule(revisions=st.none() | st.sets(st.sampled_from(["r1", "r2", "r3"])), excluded=st.integers(0, 3))
    def pick(self, revisions: set[str] | None, excluded: int) -> None:
        exclude = list(self.balancer.peers())[:excluded]
        possible = [
            one
            for one in self.balancer.peers()
            if self.seen[one.id].state == "ready"
            and (revisions is None or one.revision in revisions)
            and one not in exclude
        ]
        peer = self.balancer.pick(self.now, revisions, exclude)
        assert (peer is None) == (not possible)
        if peer is None:
            return
        assert peer in possible

        def rank(one: Peer) -> int:
            return 2 if one.skipped or one.ejected_until > self.now else int(one.suspect)

        assert rank(peer) == min(map(rank, possible))
        self.balancer.started(peer)
        self.inflight.append(peer)

    @precondition(lambda self: self.inflight)
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(list(Outcome)))
    def finish(self, which: int, outcome: Outcome) -> None:
        self.balancer.finished(self.inflight.pop(which % len(self.inflight)), outcome, self.now)

    @rule(id=st.sampled_from("abcdef"))
    def fail_often(self, id: str) -> None:
        for peer in self.balancer.peers():
            if peer.id == id:
                for _ in range(5):
                    self.balancer.started(peer)
                    self.balancer.finished(peer, Outcome.TIMEOUT, self.now)

    @invariant()
    def at_most_half_are_ejected(self) -> None:
        ejected = [peer for peer in self.balancer.peers() if peer.ejected_until > self.now]
        ready = [one for one in self.seen.values() if one.state == "ready"]
        assert len(ejected) <= len(ready) // 2
        assert all(peer.ejected_until - self.now <= 60 for peer in ejected)

    @invariant()
    def calls_are_accounted_for(self) -> None:
        assert {peer.id for peer in self.balancer.peers()} == set(self.seen)
        for peer in self.balancer.peers():
            assert peer.inflight == sum(one is peer for one in self.inflight)


TestCalls = Calls.TestCase
TestCalls.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)
