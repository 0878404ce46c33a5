"""What one host can serve of a model within its objective."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.fleet.capacity import (
    COMPANY,
    TIGHT_SHARE,
    WAITS_AT_MOST,
    Capacity,
    capacity,
    dependable,
    in_company,
    steady,
    tight,
)
from budgets.fleet.options import fitting, options_of
from budgets.fleet.world import Aim, Group, Rung
from tests.budgets.fleet.worlds import MIB, rung, world

HOST = Group("h", "d", 1, streams=2)
LINE = Rung("x", "v", "d", 1.0, 0.0, 1.0, ((1, 0.01), (4, 0.025), (8, 0.05)))


def test_a_batch_takes_what_lies_between_its_profiled_neighbours() -> None:
    assert [LINE.seconds(b) for b in (1, 2, 3, 4, 6, 8)] == pytest.approx([0.01, 0.015, 0.02, 0.025, 0.0375, 0.05])
    assert LINE.seconds(16) == pytest.approx(0.1)
    assert [LINE.within(s) for s in (0.009, 0.01, 0.0249, 0.025, 0.04, 9.0, math.inf)] == [0, 1, 3, 4, 6, 8, 8]


def test_full_batches_back_to_back_take_half_of_the_objective() -> None:
    assert capacity(LINE, HOST, 0.05) == Capacity(2 * 4 / 0.025, 0.025 / 4, 4)
    # The largest that is allowed counts too, profiled or not.
    assert capacity(LINE, HOST, 0.041) == Capacity(pytest.approx(2 * 3 / 0.02), pytest.approx(0.02 / 3), 3)
    assert capacity(LINE, HOST, 0.03) == Capacity(pytest.approx(2 * 2 / 0.015), pytest.approx(0.0075), 2)
    # 8 serves as much as 4 and takes longer.
    assert capacity(LINE, HOST, 0.2) == Capacity(pytest.approx(320.0), pytest.approx(0.00625), 4)


def test_without_an_objective_the_best_profiled_batch() -> None:
    assert capacity(LINE, HOST, math.inf) == Capacity(320.0, pytest.approx(0.00625), 4)


def test_a_call_that_takes_most_of_the_objective_leaves_little_to_plan_with() -> None:
    found = capacity(LINE, HOST, 0.015)
    assert found is not None
    assert found.batch == 1
    assert found.rate == pytest.approx(2 * TIGHT_SHARE * 0.5 / 0.01)
    assert capacity(LINE, HOST, 0.0099) is None


def test_where_other_models_use_the_hosts_a_call_leaves_time_for_theirs() -> None:
    one, three = Group("h", "d", 1), Group("h", "d", 3)
    # 8 take 50 ms, twice that is the objective: but not while another model's call is waited for.
    assert capacity(LINE, one, 0.1) == Capacity(pytest.approx(160.0), pytest.approx(0.00625), 4)
    found = in_company(LINE, one, 0.06)
    assert found is not None
    assert found.batch == 3  # 24 ms at most, where 30 would do alone
    # Of several hosts none is planned to be one model's: each runs others, which the plan does not see.
    several = in_company(LINE, three, 0.06)
    assert several is not None
    assert (several.rate, several.batch) == (pytest.approx(found.rate / (1 + COMPANY)), found.batch)
    # Three take 20 ms: what else is on the host leaves a request 40 ms, half of them for another such call.
    assert several.seconds == pytest.approx(1.5 * found.seconds)
    four = in_company(LINE, replace(three, streams=4), 0.06)
    assert four is not None
    assert four.seconds == pytest.approx(0.025 / 4 * (1 + 25 / 35 / 4))  # of four streams one is free sooner
    wide = in_company(LINE, replace(three, streams=4), math.inf)
    assert wide is not None
    assert wide.rate == pytest.approx(4 * 160.0 * 4 / (4 + COMPANY))
    # What only just fits has nowhere else to go.
    assert in_company(LINE, one, 0.0105) == capacity(LINE, one, 0.0105) is not None
    assert in_company(LINE, one, 0.0099) is None
    assert tight(LINE, one, 0.0245)
    assert not tight(LINE, one, 0.0255)
    only = in_company(LINE, three, 0.0105)
    assert only is not None
    assert only.seconds == pytest.approx((1 + WAITS_AT_MOST) / (TIGHT_SHARE * 0.1) * 0.01)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=5), st.floats(0.001, 3.0), st.integers(1, 4))
def test_no_batch_within_half_the_objective_serves_more(calls: list[float], slo: float, streams: int) -> None:
    batches = tuple((2**i, s) for i, s in enumerate(sorted(calls)))
    one = Rung("x", "v", "d", 1.0, 0.0, 1.0, batches)
    found = capacity(one, Group("h", "d", 1, streams=streams), slo)
    rates = [streams * b / one.seconds(b) for b in range(1, one.most + 1) if 2 * one.seconds(b) <= slo]
    if rates:
        assert found is not None
        assert found.rate == pytest.approx(max(rates))
        assert 2 * one.seconds(found.batch) <= slo
        assert found.rate * found.seconds == pytest.approx(streams)
    elif one.seconds(1) <= slo:
        assert found is not None
        assert 0 < found.rate <= TIGHT_SHARE * streams / one.seconds(1)
    else:
        assert found is None


def test_options_leave_out_what_another_beats_unless_it_is_held() -> None:
    rungs = [
        rung("x", "best", mib=100),
        rung("x", "worse", quality=0.9, mib=120),
        rung("x", "small", quality=0.9, mib=50),
        rung("x", "tiny", quality=0.8, mib=20, seconds=0.5),  # too slow for the objective
    ]
    shared = world([Group("h", "d", 1, 110 * MIB)], rungs)
    assert [o.rung.variant for o in options_of(shared)] == ["best", "small"]
    alone = world([Group("h", "d", 1, 110 * MIB, exclusive=True)], rungs)
    assert [o.rung.variant for o in options_of(alone)] == ["best"]
    held = {("h", "x", "worse"): 1, ("h", "x", "small"): 1}
    assert [o.rung.variant for o in options_of(alone, held)] == ["best", "small"]  # the worse one is larger than a host
    roomy = world([Group("h", "d", 1, 200 * MIB, exclusive=True)], rungs)
    assert [o.rung.variant for o in options_of(roomy, held)] == ["best", "worse", "small"]


def test_the_best_variant_that_fits_keeps_floor_pin_and_objective() -> None:
    rungs = [
        rung("x", "big", mib=100),
        rung("x", "mid", quality=0.9, mib=60),
        rung("x", "slow", quality=0.89, mib=40, seconds=0.5),
        rung("x", "low", quality=0.7, mib=30),
    ]
    made = world([Group("h", "d", 1)], rungs)
    (group,) = made.groups
    picked = [fitting(made, group, "x", room * MIB) for room in (100, 99, 59, 29)]
    assert [r and r.variant for r in picked] == ["big", "mid", "low", None]
    floored = world([group], rungs, x=Aim("x", 0.2, floor=0.8))
    assert fitting(floored, group, "x", 59 * MIB) is None
    pinned = world([group], rungs, x=Aim("x", 0.2, pin="low"))
    assert fitting(pinned, group, "x", 100 * MIB) == rungs[3]


def late_share(fixed: float, batch: int, ratio: float, load: float, seed: int = 0) -> float:
    """The share of 20,000 Poisson arrivals that one stream is late with, at `load` of what back-to-back calls could serve. A call
    takes `fixed` and the rest for each request; the objective is `ratio` times a call of `batch`. Batches as hosts take them."""

    def call(size: int) -> float:
        return fixed + (1.0 - fixed) * size

    slo, count = ratio * call(batch), 20_000
    rate = load * batch / call(batch)
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count)).tolist()
    now, first, late = 0.0, 0, 0
    while first < count:
        now = max(now, arrivals[first])
        if arrivals[first] + slo < now + call(1) - 1e-12:
            late, first = late + 1, first + 1
            continue
        size = min(batch, bisect.bisect_right(arrivals, now, first) - first)
        while size > 1 and now + call(size) > arrivals[first] + slo:
            size -= 1
        now, first = now + call(size), first + size
    return late / count


@pytest.mark.parametrize("fixed", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [2.0, 3.0, 5.0])
def test_what_a_host_can_be_asked_for(fixed: float, batch: int, ratio: float) -> None:
    """At a load of 0.13 less than it says fewer than one in a hundred are late, at 0.13 more, more are."""
    sizes = tuple((b, fixed + (1.0 - fixed) * b) for b in sorted({1, batch}))
    share = steady(Rung("x", "v", "d", 1.0, 0.0, 1.0, sizes), batch, ratio * sizes[-1][1])
    assert late_share(fixed, batch, ratio, max(0.02, share - 0.13)) < 0.01
    if share + 0.13 < 1.0:
        assert late_share(fixed, batch, ratio, share + 0.13) > 0.01


def test_a_host_of_its_own_is_not_planned_full_of_long_calls() -> None:
    alone = Group("h", "d", 1, exclusive=True)
    long = Rung(
        "x", "v", "d", 1.0, 0.0, 1.0, ((1, 0.05), (2, 0.1), (4, 0.2))
    )  # what is linear gains nothing by batches
    found, whole = dependable(long, alone, 0.25), capacity(long, alone, 0.25)
    assert found is not None
    assert whole is not None
    assert found.rate < 0.9 * whole.rate
    assert found.rate * found.seconds == pytest.approx(1.0)
    short = replace(long, batches=((1, 0.002), (2, 0.004)))
    assert dependable(short, alone, 0.25) == capacity(short, alone, 0.25)
    assert dependable(long, alone, math.inf) == capacity(long, alone, math.inf)
    assert dependable(long, alone, 0.049) is None
    only = dependable(long, alone, 0.06)
    assert only is not None
    assert 0.0 < only.rate < 2.0  # of twenty
