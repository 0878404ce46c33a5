"""Which seat serves how much."""

from __future__ import annotations

import math

import pytest

from budgets.fleet.options import options_of
from budgets.fleet.routing import loss, shares
from budgets.fleet.table import FILL
from budgets.fleet.world import Aim, Group, Seat, World
from tests.budgets.fleet.worlds import rung, world

GOOD, FAST = ("h", "x", "good"), ("h", "x", "fast")


def dealt(made: World, ready: dict[Seat, int], **rates: float) -> dict[Seat, float]:
    return shares(made, {o.seat: o for o in options_of(made, ready)}, ready, rates)


def pair(*, exclusive: bool) -> World:
    """good: 50 requests per second of a host; fast: 200."""
    rungs = [
        rung("x", "good", seconds=0.02, batches=(1,)),
        rung("x", "fast", quality=0.9, seconds=0.005, batches=(1,)),
    ]
    return world([Group("h", "d", 3, exclusive=exclusive)], rungs)


@pytest.mark.parametrize("exclusive", [True, False])
def test_quality_first_and_the_rest_spills(exclusive: bool) -> None:
    made = pair(exclusive=exclusive)
    assert dealt(made, {GOOD: 1, FAST: 1}, x=40.0) == pytest.approx({GOOD: 40.0, FAST: 0.0}, abs=1e-6)
    assert dealt(made, {GOOD: 1, FAST: 1}, x=100.0) == pytest.approx({GOOD: 50 * FILL, FAST: 100 - 50 * FILL})
    assert dealt(made, {GOOD: 2, FAST: 1}, x=100.0) == pytest.approx({GOOD: 100 * FILL, FAST: 100 - 100 * FILL})


def test_a_heavy_weight_never_leaves_requests_unserved_for_quality() -> None:
    made = pair(exclusive=False)
    heavy = World(made.groups, made.rungs, {"x": Aim("x", 0.2, weight=1000.0)})
    assert dealt(heavy, {GOOD: 1, FAST: 1}, x=100.0) == pytest.approx({GOOD: 50 * FILL, FAST: 100 - 50 * FILL})


def test_what_nobody_can_serve_is_spread_by_capacity() -> None:
    assert dealt(pair(exclusive=True), {GOOD: 1, FAST: 1}, x=500.0) == pytest.approx({GOOD: 100.0, FAST: 400.0})
    shared = dealt(pair(exclusive=False), {GOOD: 1, FAST: 1}, x=1000.0)
    assert sum(shared.values()) == pytest.approx(1000.0)
    assert shared[FAST] > 4 * shared[GOOD] * 0.9


def test_seats_that_are_not_ready_or_no_option_serve_nothing() -> None:
    made = pair(exclusive=True)
    assert dealt(made, {GOOD: 0, FAST: 1, ("h", "x", "gone"): 1}, x=10.0) == {FAST: 10.0}
    assert dealt(made, {}, x=10.0) == {}


def two(weight_y: float) -> World:
    """One stream for both: each request takes 10 ms of it."""
    rungs = [rung("x", "v", seconds=0.01, batches=(1,)), rung("y", "v", seconds=0.01, batches=(1,))]
    return world([Group("h", "d", 1)], rungs, x=Aim("x", 0.2), y=Aim("y", 0.2, weight=weight_y))


def test_models_that_share_streams_are_dealt_out_together() -> None:
    made = two(1.0)
    ready = {("h", "x", "v"): 1, ("h", "y", "v"): 1}
    assert dealt(made, ready, x=30.0, y=60.0) == pytest.approx({("h", "x", "v"): 30.0, ("h", "y", "v"): 60.0})


def test_shared_quality_gives_way_where_it_costs_least() -> None:
    """Not all can run well: x loses 0.1, y 0.4 for the same time saved."""
    rungs = [
        rung("x", "good", seconds=0.02, batches=(1,)),
        rung("x", "fast", quality=0.9, seconds=0.01, batches=(1,)),
        rung("y", "good", seconds=0.02, batches=(1,)),
        rung("y", "fast", quality=0.6, seconds=0.01, batches=(1,)),
    ]
    made = world([Group("h", "d", 1, streams=3)], rungs)
    ready = {("h", m, v): 1 for m in "xy" for v in ("good", "fast")}
    found = dealt(made, ready, x=80.0, y=80.0)
    assert found[("h", "y", "good")] == pytest.approx(80.0)
    assert found[("h", "x", "good")] == pytest.approx((3 * FILL - 80 * 0.02 - 80 * 0.01) / 0.01)
    assert found[("h", "x", "fast")] == pytest.approx(80 - found[("h", "x", "good")])


def test_a_model_on_both_kinds_of_hosts_uses_both() -> None:
    rungs = [
        rung("x", "good", device="a", seconds=0.02, batches=(1,)),
        rung("x", "fast", device="s", quality=0.9, seconds=0.01, batches=(1,)),
    ]
    made = world([Group("alone", "a", 1, exclusive=True), Group("shared", "s", 1)], rungs)
    ready = {("alone", "x", "good"): 1, ("shared", "x", "fast"): 1}
    expected = {("alone", "x", "good"): 50 * FILL, ("shared", "x", "fast"): 80 - 50 * FILL}
    assert dealt(made, ready, x=80.0) == pytest.approx(expected)


def lost(made: World, hosts: dict[Seat, int], expected: float, peak: float) -> float:
    options = {o.seat: o for o in options_of(made, hosts)}
    return loss(made, options, hosts, {"x": expected}, {"x": peak})


@pytest.mark.parametrize("exclusive", [True, False])
def test_what_hosts_lose_of_a_demand(exclusive: bool) -> None:
    made = pair(exclusive=exclusive)
    assert lost(made, {GOOD: 1, FAST: 1}, 40.0, 100.0) == 0.0
    assert lost(made, {GOOD: 1, FAST: 1}, 100.0, 100.0) == pytest.approx(0.1 * (100 - 50 * FILL))
    assert lost(made, {GOOD: 1, FAST: 1}, 40.0, 300.0) == math.inf  # the peak finds no room
    assert lost(made, {GOOD: 1}, 60.0, 60.0) == math.inf
    assert lost(made, {}, 1.0, 1.0) == math.inf


def test_models_that_compete_for_streams_may_lose_anything() -> None:
    made = two(1.0)
    hosts = {("h", "x", "v"): 1, ("h", "y", "v"): 1}
    options = {o.seat: o for o in options_of(made, hosts)}
    assert loss(made, options, hosts, {"x": 40.0, "y": 40.0}, {"x": 40.0, "y": 40.0}) == 0.0
    assert loss(made, options, hosts, {"x": 50.0, "y": 50.0}, {"x": 50.0, "y": 50.0}) == math.inf
