"""What models on the same hosts do to each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from budgets.fleet.company import APART, OWN, TAKEN, clash, harms, load_of
from budgets.fleet.options import options_of
from budgets.fleet.program import solve
from budgets.fleet.table import Demand, Terms
from budgets.fleet.world import Aim, Group, Placement, World
from tests.budgets.fleet.worlds import MIB, rung, world


def fleet(*, streams: int = 1, exclusive: bool = False, patient: float = 2.0) -> World:
    """x must be answered within 0.2 s and takes 10 ms; y may take two, and its good variant takes half of one."""
    rungs = [
        rung("x", "only", seconds=0.01, batches=(1,)),
        rung("y", "good", seconds=0.5, batches=(1,)),
        rung("y", "fast", seconds=0.1, quality=0.95, batches=(1,)),
    ]
    group = Group("h", "d", 4, 1000 * MIB, streams=streams, exclusive=exclusive)
    return world([group], rungs, y=Aim("y", slo_seconds=patient))


def late(made: World, **rates: float) -> dict[str, float]:
    options = options_of(made)
    return dict(zip((o.rung.variant for o in options), harms(made, rates, options).tolist(), strict=True))


def test_a_call_makes_late_whoever_cannot_wait_for_its_end() -> None:
    found = late(fleet(), x=40.0, y=0.0)
    # Ten of x come to each host a second, in the first 0.4 of the 0.5 seconds too early.
    assert found["good"] == pytest.approx(APART * 10.0 * 0.4)
    assert found["fast"] == 0.0
    assert found["only"] == 0.0


def test_a_request_waits_for_calls_of_others() -> None:
    found = late(fleet(), x=0.0, y=4.0)
    usual, busy = 0.3, 1.0 * 0.3  # one request a second on each host, whichever variant of the two
    assert found["only"] == pytest.approx(OWN * busy * (usual - 0.19) / usual)


def test_where_hosts_have_several_streams_or_one_variant_each_nobody_is_in_the_way() -> None:
    assert late(fleet(streams=2), x=40.0)["good"] == pytest.approx(TAKEN * late(fleet(), x=40.0)["good"])
    assert set(late(fleet(exclusive=True), x=40.0).values()) == {0.0}
    assert set(late(fleet(), x=0.0, y=0.0).values()) == {0.0}


def test_models_without_an_objective_wait_for_anything() -> None:
    made = fleet(patient=math.inf)
    assert np.isfinite(list(late(made, x=40.0, y=4.0).values())).all()
    assert late(made, x=0.0, y=4.0)["good"] == 0.0


def test_a_plan_prefers_what_others_can_wait_for() -> None:
    alone = solve(fleet(), Demand({"x": 0.0, "y": 1.0}), {}, Terms(company=1.0)).rates
    assert alone[("h", "y", "good")] == pytest.approx(1.0)
    mixed = solve(fleet(), Demand({"x": 100.0, "y": 1.0}), {}, Terms(company=1.0)).rates
    assert mixed[("h", "y", "fast")] == pytest.approx(1.0)
    assert not mixed.get(("h", "y", "good"))


def test_what_two_seats_of_a_host_make_late_together() -> None:
    made = fleet()
    placement = Placement(
        {("h", "x", "only"): 2, ("h", "y", "good"): 1}, {("h", "x", "only"): 100.0, ("h", "y", "good"): 1.0}
    )
    short, long = (load_of(made, placement, seat) for seat in placement.hosts)
    assert (short.requests, short.call_seconds, short.waits_seconds) == (50.0, 0.01, 0.1)
    assert long.calls == 1.0
    assert clash(short, long) == clash(long, short) == pytest.approx(1.0 * 50.0 * 0.4)


def test_a_seat_counts_as_if_it_were_asked_for_something() -> None:
    idle = load_of(fleet(), Placement({("h", "x", "only"): 1}), ("h", "x", "only"))
    assert 0.0 < idle.busy < 0.5
    assert idle.requests == pytest.approx(idle.busy * 100.0)
