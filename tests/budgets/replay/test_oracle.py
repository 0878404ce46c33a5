"""A bound on quality lies above every policy, and is the optimum where that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from budgets.fleet.world import Aim, Group, Rung, World
from budgets.replay.engine import Event
from budgets.replay.oracle import Oracle
from budgets.replay.policies import POLICIES
from budgets.replay.run import replay
from budgets.replay.trace import Trace

EXAMPLE = Path(__file__).parents[3] / "examples" / "replay"
SECONDS = 60
GOOD = Rung("x", "good", "d", 1.0, 200.0, 0.0, ((1, 0.05),))
FAST = Rung("x", "fast", "d", 0.8, 100.0, 0.0, ((1, 0.0125),))


def oracle(
    rate: int, *events: Event, group: Group | None = None, slo: float = 0.1, rungs: tuple[Rung, ...] = ()
) -> Oracle:
    """`rate` requests in every second, evenly."""
    group = group or Group("h", "d", 1, exclusive=True)
    world = World((group,), rungs or (GOOD, FAST), {"x": Aim("x", slo)})
    times = (np.arange(rate * SECONDS) + 0.5) / rate
    index = np.zeros(len(times), dtype=np.int64)
    return Oracle(world, Trace(["x"], 0.0, float(times[-1]), {}, times=times, index=index), events)


def test_what_the_best_variant_can_serve_it_serves() -> None:
    assert oracle(20).best() == pytest.approx(1.0)


def test_a_host_is_divided_between_quality_and_speed() -> None:
    # Of 40 requests a second, g by good and f by fast: g / 20 + f / 80 = 1 and g + f = 40 give 40/3 and 80/3.
    assert oracle(40).best() == pytest.approx((1.0 + 2 * 0.8) / 3, rel=2e-3)


def test_requests_that_need_not_be_served_leave_room_for_quality() -> None:
    made = oracle(40)
    one = made.best(dropped=0)
    half = made.best(dropped=20 * SECONDS)
    assert one is not None
    assert one < 0.9 < 0.999 < (half or 0.0)
    assert (made.best(late=20 * SECONDS) or 0.0) > one


def test_what_nobody_can_serve_has_no_bound() -> None:
    assert oracle(100).best() is None
    assert oracle(100).best(dropped=25 * SECONDS) == pytest.approx(0.8, abs=0.01)
    assert oracle(10, slo=0.01).best() is None


def test_events_count() -> None:
    assert oracle(40, Event(0.0, "slowdown", "h", 2.0)).best() == pytest.approx(0.8, abs=0.01)
    assert oracle(40, Event(30.0, "hosts", "h", 0.0)).best() is None


def test_hosts_that_share_keep_their_memory() -> None:
    both = Group("h", "d", 1, memory_bytes=300.0, streams=4)
    assert oracle(20, group=both).best() == pytest.approx(1.0)
    assert oracle(20, Event(0.0, "neighbour_bytes", "h", 150.0), group=both).best() == pytest.approx(0.8)


def test_a_variant_serves_what_comes_while_it_is_held() -> None:
    slow = tuple(Rung(r.model, r.variant, r.device, r.quality, r.memory_bytes, 5.0, r.batches) for r in (GOOD, FAST))
    room = Group("h", "d", 1, memory_bytes=200.0, streams=40)
    tight = Event(30.0, "memory_bytes", "h", 100.0)
    assert oracle(20, tight, group=room, rungs=slow).best() == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_is_above_the_bound(policy: str) -> None:
    files = EXAMPLE / "cluster.yaml", EXAMPLE / "profiles.csv", EXAMPLE / "trace.csv"
    made = replay(*files, policy)
    most = Oracle.of(*files).best(late=made["late"], dropped=made["dropped"])
    assert most is not None
    if not made["memory_over_budget_seconds"]:
        assert made["effective_quality"] <= most + 1e-9
