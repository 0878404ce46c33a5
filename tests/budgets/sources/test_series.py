"""Samples over a window: parsing, counters that are reset, quantiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets import exposition as names
from budgets.sources.series import Target, buckets_by_model, by_model, parse, quantile

COUNT = f"{names.REQUEST_DURATION}_count"


def test_only_what_is_read_is_parsed() -> None:
    text = (
        "# HELP python_info -\n"
        'python_info{version="3.11"} 1\n'
        f'{names.QUEUE_DEPTH}{{model="a b\\"c"}} 3\n'
        f"{names.NODE_CPU} 2.5e-1\n"
    )
    assert parse(text) == {(names.QUEUE_DEPTH, (("model", 'a b"c'),)): 3.0, (names.NODE_CPU, ()): 0.25}


@pytest.mark.parametrize("bad", [f"{names.NODE_CPU} x\n", f"{names.QUEUE_DEPTH}{{model= 1\n"])
def test_an_exposition_that_is_none_is_an_error(bad: str) -> None:
    with pytest.raises(ValueError):
        parse(bad)


def key(model: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return COUNT, (("model", model), ("variant", "fp32"))


def test_increases_over_the_window_only() -> None:
    target = Target(window=3)
    for at, count in enumerate([0, 10, 30, 60, 100, 150]):
        target.add(float(at), {key("a"): float(count)})
    assert target.span == 3
    assert by_model([target.increases()], COUNT) == {"a": 120.0}


def test_a_counter_that_fell_was_reset() -> None:
    target = Target(window=10)
    for at, count in enumerate([100, 110, 4, 9]):
        target.add(float(at), {key("a"): float(count)})
    assert by_model([target.increases()], COUNT) == {"a": 10 + 4 + 5}


def test_a_counter_that_appears_counts_from_zero() -> None:
    target = Target(window=10)
    target.add(0.0, {key("a"): 1.0})
    assert target.span == 0
    target.add(1.0, {key("a"): 1.0, key("b"): 7.0})
    assert by_model([target.increases()], COUNT) == {"a": 0.0, "b": 7.0}


def test_the_first_scrape_of_a_host_counts_for_nothing() -> None:
    """A host that has run for days must not look like a burst of requests."""
    target = Target(window=10)
    target.add(0.0, {key("a"): 1e6})
    assert target.increases() == {key("a"): 0.0}


def test_quantiles_are_linear_within_a_bucket_as_in_promql() -> None:
    buckets = {0.1: 0.0, 0.2: 50.0, 0.4: 90.0, math.inf: 100.0}
    assert quantile(0.5, buckets) == pytest.approx(0.2)
    assert quantile(0.7, buckets) == pytest.approx(0.3)
    assert quantile(0.99, buckets) == 0.4  # beyond the last finite bound
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {0.1: 0.0, math.inf: 0.0}) is None


def test_histograms_of_variants_and_hosts_are_merged() -> None:
    def bucket(variant: str, le: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return f"{names.REQUEST_DURATION}_bucket", (("le", le), ("model", "a"), ("variant", variant))

    first = {bucket("fp32", "0.1"): 1.0, bucket("int8", "0.1"): 2.0, bucket("fp32", "+Inf"): 5.0}
    assert buckets_by_model([first, {bucket("fp32", "0.1"): 4.0}], names.REQUEST_DURATION) == {
        "a": {0.1: 7.0, math.inf: 5.0}
    }


@given(
    st.lists(st.integers(0, 50), min_size=len(names.LATENCY_BUCKETS), max_size=len(names.LATENCY_BUCKETS)),
    st.floats(0.01, 0.99),
)
def test_a_quantile_lies_in_the_bucket_where_that_share_of_requests_is_reached(counts: list[int], q: float) -> None:
    total, cumulative = 0, {}
    for bound, count in zip(names.LATENCY_BUCKETS, counts, strict=True):
        total += count
        cumulative[bound] = float(total)
    cumulative[math.inf] = float(total)
    value = quantile(q, cumulative)
    if not total:
        assert value is None
        return
    assert value is not None
    reached = [b for b in names.LATENCY_BUCKETS if cumulative[b] >= q * total]  # never empty: none is beyond the last
    below = [b for b in names.LATENCY_BUCKETS if b < reached[0]]
    assert (below[-1] if below else 0.0) <= value <= reached[0]
