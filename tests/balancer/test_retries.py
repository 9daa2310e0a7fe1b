from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancer import NO_RETRY, CallProgress, RetryBudget, RetryPolicy, RetryReason
from mesh.defaults import ATTEMPTS, RETRY_BODY
from mesh.messages import Route


def test_a_quiet_caller_has_ten_per_second() -> None:
    budget = RetryBudget()
    assert budget.left(5.0) == 100
    assert [budget.try_spend(5.0) for _ in range(101)] == [True] * 100 + [False]
    assert not budget.try_spend(14.9)
    assert budget.try_spend(15.0)


def test_calls_earn_a_fifth() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.record_call(5.0)
    assert sum(budget.try_spend(5.0) for _ in range(1000)) == 300
    assert budget.left(5.0) == 0


def test_what_is_long_ago_counts_no_more() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.record_call(5.0)
    assert budget.left(14.99) == 300
    assert budget.left(15.0) == 100
    assert budget.left(1e9) == 100


def test_a_clock_that_goes_back_does_no_harm() -> None:
    budget = RetryBudget()
    budget.record_call(100.0)
    assert budget.try_spend(50.0)
    assert budget.left(100.0) == 99


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200), st.floats(0, 4)), max_size=30))
def test_budget_bounds_hold_over_every_window(history: list[tuple[int, int, float]]) -> None:
    budget = RetryBudget()
    now = 1000.0
    calls: list[float] = []
    spent: list[float] = []

    def within(times: list[float], seconds: float) -> int:
        return len(times) - bisect_right(times, now - seconds)  # they are in order

    for made, wanted, pause in history:
        now += pause
        for _ in range(made):
            budget.record_call(now)
            calls.append(now)
        for _ in range(wanted):
            if budget.try_spend(now):
                spent.append(now)
                assert within(spent, 9) <= 0.2 * within(calls, 10) + 100
            else:
                # It refuses only what 20 % + 10/s over the last 10 s does not cover.
                assert within(spent, 10) + 1 > 0.2 * within(calls, 9) + 100


LOSSES = (RetryReason.INSTANCE_LOST, RetryReason.CONNECTION_LOST)
SAFE = ("GET", "HEAD", "OPTIONS")


def route(**options: object) -> Route:
    return Route(**{"method": "GET", "path": "/", "endpoint": "e", **options})  # type: ignore[arg-type]


def ask(reason: RetryReason, policy: RetryPolicy, budget: RetryBudget | None = None, **so_far: float) -> bool:
    progress = CallProgress(**{"attempts": 1, "losses": 0, "body_bytes": 0, "left_s": 1.0, **so_far})  # type: ignore[arg-type]
    return policy.allows(reason, progress, budget or RetryBudget(), 5.0)


def spent() -> RetryBudget:
    budget = RetryBudget()
    while budget.try_spend(5.0):
        pass
    return budget


@pytest.mark.parametrize("reason", LOSSES)
@pytest.mark.parametrize("method", SAFE)
def test_a_safe_request_that_was_lost_is_repeated_by_default(method: str, reason: RetryReason) -> None:
    assert ask(reason, RetryPolicy.of(method, [route()]))


@pytest.mark.parametrize("reason", LOSSES)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE", "CONNECT", "BREW", "get", "CALL"])
def test_every_other_one_only_where_the_route_declares_it(method: str, reason: RetryReason) -> None:
    assert not ask(reason, RetryPolicy.of(method, [route()]))
    assert ask(reason, RetryPolicy.of(method, [route(idempotent=True)]))


def test_a_lost_request_is_repeated_once() -> None:
    policy = RetryPolicy.of("GET", [route()])
    assert not any(ask(reason, policy, losses=1) for reason in LOSSES)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_a_timeout_of_an_idempotent_method_is_repeated_where_the_route_says_after_what_time(method: str) -> None:
    assert ask(RetryReason.TIMEOUT, RetryPolicy.of(method, [route(try_timeout_ms=500)]))
    assert not ask(RetryReason.TIMEOUT, RetryPolicy.of(method, [route()]))


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "BREW"])
def test_a_timeout_of_another_method_only_where_the_route_declares_it(method: str) -> None:
    policy = RetryPolicy.of(method, [route(try_timeout_ms=500)])
    assert not ask(RetryReason.TIMEOUT, policy)
    assert policy.try_timeout_ms == 0  # nor is its only attempt cut short
    assert ask(RetryReason.TIMEOUT, RetryPolicy.of(method, [route(try_timeout_ms=500, idempotent=True)]))


def test_only_small_bodies() -> None:
    policy = RetryPolicy.of("GET", [route(try_timeout_ms=500)])
    for reason in (*LOSSES, RetryReason.TIMEOUT):
        assert ask(reason, policy, body_bytes=RETRY_BODY)
        assert not ask(reason, policy, body_bytes=RETRY_BODY + 1)


def test_what_nobody_received_may_always_go_elsewhere_and_costs_nothing() -> None:
    budget = spent()
    assert ask(RetryReason.NO_RESPONDERS, NO_RETRY, budget, body_bytes=1 << 20, losses=1)
    policy = RetryPolicy.of("GET", [route(try_timeout_ms=500)])
    assert not any(ask(reason, policy, budget) for reason in (*LOSSES, RetryReason.TIMEOUT))


def test_only_a_permitted_repetition_is_charged() -> None:
    budget = RetryBudget()
    policy = RetryPolicy.of("GET", [route(try_timeout_ms=500)])
    ask(RetryReason.NO_RESPONDERS, policy, budget)
    ask(RetryReason.TIMEOUT, NO_RETRY, budget)
    ask(RetryReason.TIMEOUT, policy, budget, body_bytes=1 << 20)
    ask(RetryReason.INSTANCE_LOST, policy, budget, losses=1)
    ask(RetryReason.INSTANCE_LOST, policy, budget, left_s=0.0)
    assert budget.left(5.0) == 100
    ask(RetryReason.TIMEOUT, policy, budget)
    ask(RetryReason.INSTANCE_LOST, policy, budget)
    assert budget.left(5.0) == 98


def test_of_several_revisions_the_stricter_one_counts() -> None:
    old, new = route(idempotent=True, try_timeout_ms=500), route(idempotent=True, try_timeout_ms=900)
    assert RetryPolicy.of("POST", [old, new]) == RetryPolicy(after_loss=True, try_timeout_ms=900)
    assert RetryPolicy.of("POST", [old, route()]) == NO_RETRY
    assert RetryPolicy.of("GET", [old, route()]) == RetryPolicy(after_loss=True)
    assert RetryPolicy.of("GET", [old, route(retry=False)]) == NO_RETRY


def test_without_a_route_nothing_is_repeated() -> None:
    assert RetryPolicy.of("GET", []) == NO_RETRY


declared = st.builds(
    route,
    try_timeout_ms=st.sampled_from([0, 1, 500]),
    idempotent=st.booleans(),
    retry=st.sampled_from([True, True, False]),
)
progresses = st.builds(
    CallProgress,
    attempts=st.integers(1, ATTEMPTS + 1),
    losses=st.integers(0, 2),
    body_bytes=st.sampled_from([0, RETRY_BODY, RETRY_BODY + 1]),
    left_s=st.sampled_from([-1.0, 0.0, 0.001, 10.0]),
)


@settings(deadline=None)
@given(
    st.sampled_from(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "CALL"]),
    st.lists(declared, max_size=3),
    st.sampled_from(RetryReason),
    progresses,
    st.booleans(),
)
def test_nothing_runs_twice_that_nobody_declared_harmless(
    method: str, routes: list[Route], reason: RetryReason, progress: CallProgress, broke: bool
) -> None:
    budget = spent() if broke else RetryBudget()
    before = budget.left(5.0)
    allowed = RetryPolicy.of(method, routes).allows(reason, progress, budget, 5.0)
    if progress.attempts >= ATTEMPTS or progress.left_s <= 0:
        assert not allowed
    elif reason is RetryReason.NO_RESPONDERS:
        assert allowed
    else:
        harmless = method in SAFE or all(r.idempotent for r in routes)
        timed = all(r.try_timeout_ms for r in routes) and (harmless or method in ("PUT", "DELETE"))
        assert allowed is bool(
            routes
            and all(r.retry for r in routes)
            and progress.body_bytes <= RETRY_BODY
            and not broke
            and (timed if reason is RetryReason.TIMEOUT else harmless and progress.losses == 0)
        )
    assert before - budget.left(5.0) == (allowed and reason is not RetryReason.NO_RESPONDERS)


def test_calls_that_are_counted_outside_fall_into_their_second() -> None:
    """As `mesh.client.Caller` does it, for which a call of a method is too dear."""
    inside, outside = RetryBudget(), RetryBudget()
    for now in (5.0, 5.5, 6.0, 9.99, 14.2, 15.0, 31.0):
        for _ in range(50):
            inside.record_call(now)
            if now >= outside.next_second:
                outside.advance(now)
            outside.calls += 1
        assert inside.left(now) == outside.left(now)
    assert outside.left(40.99) == 110
    assert outside.left(41.0) == 100
