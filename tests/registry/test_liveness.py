from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.registry import Liveness


def started(at: float = 100.0) -> Liveness:
    clock = Liveness()
    clock.advance(at, at, True)
    return clock


def test_runs_while_bytes_arrive() -> None:
    clock = started()
    for tick in range(1, 51):
        now = clock.advance(100 + tick / 10, 100 + tick / 10, True)
        assert not clock.stale
    assert now == pytest.approx(5.0)
    assert clock.now == now
    assert clock.stale_since is None


def test_is_stale_before_the_first_bytes() -> None:
    clock = Liveness()
    assert clock.stale
    assert clock.advance(100.0, None, True) == 0.0
    assert clock.stale
    assert clock.stale_since == 100.0
    clock.advance(100.1, 100.1, True)
    assert not clock.stale


def test_pings_of_one_second_keep_it_at_full_speed() -> None:
    clock = started()
    for tick in range(1, 101):
        now = 100 + tick / 10
        clock.advance(now, float(int(now)), True)
    assert clock.now == pytest.approx(10.0)


def test_silence_stops_it_first_and_then_makes_it_stale() -> None:
    clock = started()
    for tick in range(1, 26):
        clock.advance(100 + tick / 10, 100.0, True)
    assert clock.now == pytest.approx(1.2)
    assert not clock.stale
    clock.advance(102.6, 100.0, True)
    assert clock.stale
    assert clock.stale_since == 100.0
    clock.advance(103.0, 100.0, True)
    assert clock.now == pytest.approx(1.2)


def test_what_passed_before_the_bytes_came_back_is_not_counted() -> None:
    clock = started()
    for tick in range(1, 41):
        clock.advance(100 + tick / 10, 100.0, True)
    frozen = clock.now
    assert clock.advance(104.1, 104.05, True) == frozen
    assert not clock.stale
    assert clock.advance(104.2, 104.05, True) == pytest.approx(frozen + 0.1)


def test_a_lost_connection_freezes_it_at_once() -> None:
    clock = started()
    assert clock.advance(100.1, 100.1, False) == 0.0
    assert clock.stale
    assert clock.stale_since == 100.1
    clock.advance(100.2, 100.1, False)
    assert clock.stale_since == 100.1
    clock.advance(100.3, 100.3, True)
    assert not clock.stale


def test_a_stall_counts_a_tick_at_most_and_is_told_as_stale_once() -> None:
    clock = started()
    assert clock.advance(160.0, 160.0, True) == pytest.approx(0.1)
    assert clock.stale
    assert clock.stale_since == 100.0
    assert clock.stalls == 1
    clock.advance(160.1, 160.1, True)
    assert not clock.stale
    assert clock.advance(160.2, 160.2, True) == pytest.approx(0.2)


def test_a_late_tick_below_the_stall_limit_counts_in_full() -> None:
    clock = started()
    assert clock.advance(100.4, 100.4, True) == pytest.approx(0.4)
    assert not clock.stale


ticks = st.lists(
    st.tuples(
        st.floats(0, 5) | st.sampled_from([0.1, 0.1, 0.1, 0.5, 0.51]),
        st.none() | st.floats(0, 5) | st.just(0.0),
        st.booleans() | st.just(True),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(ticks)
def test_never_runs_faster_than_real_time_and_stands_still_when_cut_off(
    history: list[tuple[float, float | None, bool]],
) -> None:
    clock = started()
    now = 100.0
    for gap, age, connected in history:
        now += gap
        before = clock.now
        after = clock.advance(now, None if age is None else now - age, connected)
        assert 0 <= after - before <= gap + 1e-9
        if age is None or age > 2.5 or not connected:
            assert clock.stale
        if clock.stale:
            assert after - before <= 0.1 + 1e-9  # a stall's one tick
        if not connected:
            assert after == before
    assert clock.now <= now - 100.0 + 1e-9
