from __future__ import annotations

import pytest

from mesh.balancer import Balancer, Outcome, Peer
from tests.balancer.builders import Seen, balance, call, fail, peer, sync


def reachable(balancer: Balancer, now: float) -> set[str]:
    return {p.id for _ in range(100) if (p := balancer.pick(now))}


def both() -> tuple[Balancer, Peer]:
    balancer = balance("a", "b")
    return balancer, peer(balancer, "a")


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.BAD_REPLY, Outcome.LOST])
def test_five_failures_in_a_row_eject_for_ten_seconds(outcome: Outcome) -> None:
    balancer, a = both()
    for _ in range(4):
        call(balancer, a, outcome, 100.0)
    assert reachable(balancer, 100.0) == {"a", "b"}
    call(balancer, a, outcome, 100.0)
    assert a.ejected_until == 110.0
    assert reachable(balancer, 109.9) == {"b"}
    assert reachable(balancer, 110.0) == {"a", "b"}


@pytest.mark.parametrize("outcome", [Outcome.SHORT_TIMEOUT, Outcome.CANCELLED, Outcome.NO_RESPONDERS])
def test_other_outcomes_neither_count_nor_reset(outcome: Outcome) -> None:
    balancer, a = both()
    fail(balancer, a, 100.0, times=4)
    for _ in range(20):
        call(balancer, a, outcome, 100.0)
    balancer.heard("a")
    assert reachable(balancer, 100.0) == {"a", "b"}
    fail(balancer, a, 100.0, times=1)
    assert reachable(balancer, 100.0) == {"b"}


def test_an_answer_breaks_the_row() -> None:
    balancer, a = both()
    for _ in range(5):
        fail(balancer, a, 100.0, times=4)
        call(balancer, a, Outcome.ANSWERED, 100.0)
    assert a.ejections == 0
    assert reachable(balancer, 100.0) == {"a", "b"}


def test_ejections_double_up_to_a_minute() -> None:
    balancer, a = both()
    now, lengths = 100.0, []
    for _ in range(5):
        fail(balancer, a, now)
        lengths.append(a.ejected_until - now)
        now = a.ejected_until
        balancer.pick(now)
    assert lengths == [10, 20, 40, 60, 60]


def test_a_calm_minute_makes_the_next_one_short_again() -> None:
    balancer, a = both()
    fail(balancer, a, 100.0)
    fail(balancer, a, 110.0)
    assert a.ejected_until == 130.0
    call(balancer, a, Outcome.ANSWERED, 189.9)
    assert a.ejections == 2
    call(balancer, a, Outcome.ANSWERED, 190.0)
    assert a.ejections == 0
    fail(balancer, a, 200.0)
    assert a.ejected_until == 210.0


def test_failures_during_an_ejection_are_no_new_evidence() -> None:
    balancer, a = both()
    fail(balancer, a, 100.0, times=20)
    assert (a.ejected_until, a.ejections) == (110.0, 1)
    fail(balancer, a, 110.0, times=4)
    assert reachable(balancer, 110.0) == {"a", "b"}


@pytest.mark.parametrize(("instances", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_at_most_half(instances: int, most: int) -> None:
    balancer = balance(*map(str, range(instances)))
    for p in balancer.peers():
        fail(balancer, p, 100.0, times=9)
    assert sum(p.ejected for p in balancer.peers()) == most
    assert len(reachable(balancer, 100.0)) == instances - most


def test_one_that_found_no_room_goes_when_there_is() -> None:
    balancer = balance("a", "b")
    a, b = peer(balancer, "a"), peer(balancer, "b")
    fail(balancer, a, 100.0)
    fail(balancer, b, 101.0)
    assert not b.ejected
    fail(balancer, b, 110.0, times=1)  # a's ejection is over
    assert b.ejected
    assert reachable(balancer, 110.0) == {"a"}


def test_instances_that_are_not_ready_make_no_room() -> None:
    balancer = balance("a", "b", Seen("c", state="draining"), Seen("d", state="starting"))
    for id in "ab":
        fail(balancer, peer(balancer, id), 100.0)
    assert sum(p.ejected for p in balancer.peers()) == 1


def test_ejections_are_undone_when_too_few_are_left() -> None:
    balancer = balance(*"abcd")
    fail(balancer, peer(balancer, "a"), 100.0)
    fail(balancer, peer(balancer, "b"), 101.0)
    sync(balancer, [Seen("a"), Seen("b"), Seen("c")])
    assert reachable(balancer, 102.0) == {"a", "c"}  # a's would have ended first
    sync(balancer, [Seen("a"), Seen("b")])
    assert reachable(balancer, 102.0) == {"a"}
    sync(balancer, [Seen("b")])
    assert reachable(balancer, 102.0) == {"b"}


def test_leaving_ready_ends_an_ejection() -> None:
    balancer, a = both()
    fail(balancer, a, 100.0)
    sync(balancer, [Seen("a", state="unready"), Seen("b")])
    assert reachable(balancer, 101.0) == {"b"}
    sync(balancer, [Seen("a"), Seen("b")])
    assert reachable(balancer, 101.0) == {"a", "b"}
    fail(balancer, a, 102.0)
    assert a.ejected_until == 122.0  # but it is not forgotten
