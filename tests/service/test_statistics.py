"""The latency histogram of an endpoint."""

import timeit

from hypothesis import given
from hypothesis import strategies as st

from mesh.service.micro import _figures
from mesh.service.statistics import BUCKETS, Statistics


def of(*elapsed_ns):
    statistics = Statistics()
    for value in elapsed_ns:
        statistics.record(value)
    return statistics


@given(st.integers(min_value=0, max_value=4 * 10**12))
def test_every_latency_is_kept_to_about_six_percent(elapsed_ns):
    assert abs(of(elapsed_ns).percentile_ms(0.5) * 1e6 - elapsed_ns) <= 0.065 * elapsed_ns + 150


@given(st.lists(st.integers(min_value=0, max_value=10**15)))
def test_it_counts_everything_in_bounded_room(latencies):
    statistics = of(*latencies)
    assert len(statistics.latencies) == BUCKETS
    assert sum(statistics.latencies) == statistics.num_requests == len(latencies)
    shares = [statistics.percentile_ms(share) for share in (0, 0.25, 0.5, 0.99, 1)]
    assert shares == sorted(shares)


def test_percentiles_of_many():
    statistics = of(*range(0, 10_000_000, 1000))
    assert 4.7 <= statistics.percentile_ms(0.5) <= 5.3
    assert 9.3 <= statistics.percentile_ms(0.99) <= 10.5


def test_only_who_has_figures_reports_them():
    assert "data" not in _figures(Statistics())
    refused = Statistics()
    refused.refuse("503:busy")
    assert "data" not in _figures(refused)
    assert _figures(of(1_000_000))["data"].keys() == {"p50_ms", "p99_ms"}


def test_recording_costs_next_to_nothing():
    statistics = Statistics()
    best = min(timeit.repeat(lambda: statistics.record(123_456), number=10_000, repeat=5)) / 10_000
    assert best < 2e-6  # 0.15 us on an idle machine
