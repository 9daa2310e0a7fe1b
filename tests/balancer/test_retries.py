from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancer import MAX_RETRY_BODY, Outcome, RetryBudget, may_retry


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
    for made, wanted, pause in history:
        now += pause
        for _ in range(made):
            budget.record_call(now)
            calls.append(now)
        for _ in range(wanted):
            recent = sum(at > now - 10 for at in calls)
            if budget.try_spend(now):
                spent.append(now)
                assert sum(at > now - 9 for at in spent) <= 0.2 * recent + 100
            else:
                # It refuses only what 20 % + 10/s over the last 10 s does not cover.
                assert sum(at > now - 10 for at in spent) + 1 > 0.2 * sum(at > now - 9 for at in calls) + 100


def ask(outcome: Outcome = Outcome.TIMEOUT, budget: RetryBudget | None = None, **options: object) -> bool:
    facts = {"method": "GET", "body_bytes": 0, "try_timeout_ms": 500, "idempotent": False, **options}
    return may_retry(outcome, budget=budget or RetryBudget(), now=5.0, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.SHORT_TIMEOUT])
def test_a_timeout_of_an_idempotent_method_may(method: str, outcome: Outcome) -> None:
    assert ask(outcome, method=method)


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "BREW"])
def test_other_methods_only_where_the_route_declares_it(method: str) -> None:
    assert not ask(method=method)
    assert ask(method=method, idempotent=True)


def test_only_with_a_try_timeout() -> None:
    assert not ask(try_timeout_ms=0)


def test_only_small_bodies() -> None:
    assert ask(body_bytes=MAX_RETRY_BODY)
    assert not ask(body_bytes=MAX_RETRY_BODY + 1)


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.BAD_REPLY, Outcome.LOST, Outcome.CANCELLED])
def test_nothing_else_is_repeated(outcome: Outcome) -> None:
    assert not ask(outcome, idempotent=True)


def test_no_responders_always_may_and_costs_nothing() -> None:
    budget = RetryBudget()
    while budget.try_spend(5.0):
        pass
    assert ask(Outcome.NO_RESPONDERS, budget, method="POST", try_timeout_ms=0, body_bytes=1 << 20)
    assert not ask(Outcome.TIMEOUT, budget)


def test_only_a_permitted_retry_is_charged() -> None:
    budget = RetryBudget()
    ask(Outcome.NO_RESPONDERS, budget)
    ask(Outcome.TIMEOUT, budget, method="POST")
    ask(Outcome.TIMEOUT, budget, body_bytes=1 << 20)
    assert budget.left(5.0) == 100
    ask(Outcome.TIMEOUT, budget)
    assert budget.left(5.0) == 99
