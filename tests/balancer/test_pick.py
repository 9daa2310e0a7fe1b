from __future__ import annotations

from collections import Counter

import pytest

from mesh.balancer import Balancer, Outcome
from mesh.messages import MAX_COUNT
from tests.balancer.builders import Seen, balance, call, fail, peer, sync


def picks(balancer: Balancer, times: int = 200, now: float = 0.0, **options: object) -> Counter[str]:
    chosen = (balancer.pick(now, **options) for _ in range(times))  # type: ignore[arg-type]
    return Counter(p.id if p else "none" for p in chosen)


def test_nobody_to_pick() -> None:
    assert balance().pick(0.0) is None
    assert balance(Seen("a", state="unready")).pick(0.0) is None


def test_addresses() -> None:
    balancer = balance("a", Seen("b", foreign=True))
    assert peer(balancer, "a").address == b"mesh.to.users.a."
    assert peer(balancer, "b").address == b""
    assert (peer(balancer, "a").service, peer(balancer, "b").foreign) == ("users", True)


@pytest.mark.parametrize("seed", range(5))
def test_two_idle_instances_take_strict_turns(seed: int) -> None:
    balancer = balance("a", "b", seed=seed)
    chosen = [p.id for _ in range(20) if (p := balancer.pick(0.0))]
    assert chosen in (["a", "b"] * 10, ["b", "a"] * 10)


def test_fewer_calls_in_flight_win() -> None:
    balancer = balance("a", "b")
    balancer.started(peer(balancer, "a"))
    assert picks(balancer) == {"b": 200}
    balancer.started(peer(balancer, "b"))
    balancer.started(peer(balancer, "b"))
    assert picks(balancer) == {"a": 200}


def test_idle_instances_share_evenly() -> None:
    counts = picks(balance(*"abcdefghij"), 5000)
    assert len(counts) == 10
    assert all(350 < count < 650 for count in counts.values())


def test_the_busiest_of_many_is_never_picked() -> None:
    balancer = balance(*"abcde")
    for _ in range(3):
        balancer.started(peer(balancer, "c"))
    assert "c" not in picks(balancer, 500)


@pytest.mark.parametrize("state", ["starting", "unready", "draining", "stopped"])
def test_only_ready_ones(state: str) -> None:
    balancer = balance("a", "b", Seen("c", state=state))
    assert set(picks(balancer)) == {"a", "b"}
    sync(balancer, [Seen("c", state=state)])
    assert balancer.pick(0.0) is None


def test_last_resorts_in_their_order() -> None:
    balancer = balance("sound", Seen("suspect", suspect=True), "skipped", "ejected", Seen("out", state="draining"))
    call(balancer, peer(balancer, "skipped"), Outcome.NO_RESPONDERS)
    fail(balancer, peer(balancer, "ejected"))
    assert set(picks(balancer)) == {"sound"}
    tried = [peer(balancer, "sound")]
    assert set(picks(balancer, exclude=tried)) == {"suspect"}
    tried.append(peer(balancer, "suspect"))
    assert set(picks(balancer, exclude=tried)) == {"skipped", "ejected"}
    tried += [peer(balancer, "skipped"), peer(balancer, "ejected")]
    assert balancer.pick(0.0, exclude=tried) is None


def test_no_responders_skips_until_the_next_heartbeat() -> None:
    balancer = balance("a", "b")
    call(balancer, peer(balancer, "a"), Outcome.NO_RESPONDERS)
    assert peer(balancer, "a").skipped
    assert peer(balancer, "a").failures_in_a_row == 0
    sync(balancer, [Seen("a"), Seen("b")])  # knowing it still is not hearing it
    assert set(picks(balancer)) == {"b"}
    balancer.heard("a")
    assert set(picks(balancer)) == {"a", "b"}
    balancer.heard("unknown")


def test_a_route_goes_only_to_the_revisions_that_have_it() -> None:
    balancer = balance(Seen("a", revision="r1"), Seen("b", revision="r2"), Seen("c", revision="r3"))
    assert set(picks(balancer, revisions=frozenset({"r1", "r3"}))) == {"a", "c"}
    assert set(picks(balancer, revisions={"r2": 1}.keys())) == {"b"}
    assert set(picks(balancer, revisions=["r2", "gone"])) == {"b"}
    assert balancer.pick(0.0, {"gone"}) is None
    assert balancer.pick(0.0, ()) is None
    sync(balancer, [Seen("a", revision="r2")])
    assert balancer.pick(0.0, {"r1"}) is None
    assert set(picks(balancer, revisions={"r2"})) == {"a"}


def test_a_better_instance_of_another_revision_is_no_reason_to_refuse_a_last_resort() -> None:
    balancer = balance(Seen("a", revision="r1", suspect=True), Seen("b", revision="r2"))
    assert set(picks(balancer, revisions={"r1"})) == {"a"}


def test_sync_keeps_what_it_knows_and_forgets_who_left() -> None:
    balancer = balance("a", "b")
    kept, gone = peer(balancer, "a"), peer(balancer, "b")
    balancer.started(kept)
    balancer.started(gone)
    sync(balancer, [Seen("a", suspect=True), Seen("c")])
    assert peer(balancer, "a") is kept
    assert (kept.inflight, kept.suspect) == (1, True)
    assert set(picks(balancer)) == {"c"}
    for _ in range(9):  # calls to one that left end as well, and mean nothing any more
        balancer.finished(gone, Outcome.LOST, 0.0)
    sync(balancer, [Seen("b")])
    assert peer(balancer, "b") is not gone
    assert peer(balancer, "b").inflight == 0


def test_many_sets_of_revisions_are_not_kept_for_ever() -> None:
    balancer = balance(Seen("a", revision="r1"), Seen("b", revision="r2"))
    for i in range(3000):
        assert balancer.pick(0.0, {"r1", f"x{i}"})
    assert len(balancer._subsets) <= 1024


def test_only_a_connection_with_a_higher_number_is_a_new_one() -> None:
    """Two copies of one process, with one id and a number of their own each, are no sign at each of their messages."""
    balancer = balance("a")
    signs = [balancer.heard("a", number) is not None for number in (0, 1, 1, 2, 1, 2, 1, 0, 3, MAX_COUNT, 4)]
    assert signs == [False, False, False, True, False, False, False, False, True, False, True]
