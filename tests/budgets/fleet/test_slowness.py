"""How calls that take longer than profiled correct the plan."""

from __future__ import annotations

import numpy as np
import pytest

from budgets.fleet.slowness import BOUNDS, STEP, Slowness
from budgets.fleet.world import Group, World
from tests.budgets.fleet.worlds import rung, world

MADE = world([Group("h", "d", 1), Group("i", "d", 1)], [rung("x", "v"), rung("y", "v")])
X, Y = ("h", "x", "v"), ("h", "y", "v")


def call(made: World, group: str) -> float:
    return made.rung((group, "x", "v")).seconds(1)


def test_profiles_that_hold_change_nothing() -> None:
    assert Slowness().take(MADE, {}) is MADE
    assert Slowness().take(MADE, {X: 1.05}) is MADE


def test_it_is_learned_slowly_and_of_one_group_only() -> None:
    slow = Slowness()
    factors = []
    for _ in range(8):
        made = slow.take(MADE, {X: 2.0})
        factors.append(call(made, "h") / call(MADE, "h"))
    assert factors[0] == pytest.approx(1.5)
    assert factors == sorted(factors)
    assert factors[-1] == pytest.approx(2.0, abs=STEP + 1e-9)
    assert call(made, "i") == call(MADE, "i")
    assert made.rung(Y).seconds(1) == pytest.approx(factors[-1] * MADE.rung(Y).seconds(1))


def test_most_of_a_groups_variants_are_believed_and_within_bounds() -> None:
    slow = Slowness()
    for _ in range(20):
        made = slow.take(MADE, {X: 100.0, Y: 100.0})
    assert call(made, "h") / call(MADE, "h") == pytest.approx(BOUNDS[1], abs=STEP + 1e-9)
    slow = Slowness()
    for _ in range(20):
        made = slow.take(MADE, {X: 1.0, Y: 1.0, ("h", "z", "v"): 9.0})
    assert made is MADE


def test_noise_around_a_value_is_one_correction() -> None:
    slow, draw = Slowness(), np.random.default_rng(0)
    seen = set()
    for tick in range(300):
        slow.take(MADE, {X: float(draw.normal(1.47, 0.03))})
        if tick > 20:
            seen.add(tuple(slow.steps.items()))
    assert len(seen) == 1


def test_the_same_correction_is_the_same_world() -> None:
    slow = Slowness()
    for _ in range(10):
        made = slow.take(MADE, {X: 1.5})
    assert slow.take(MADE, {X: 1.5}) is made


def test_a_group_that_shows_nothing_is_tried_again() -> None:
    slow = Slowness()
    for _ in range(10):
        slow.take(MADE, {X: 4.0})
    for _ in range(600):
        made = slow.take(MADE, {})
    assert call(made, "h") == pytest.approx(call(MADE, "h"), rel=STEP + 1e-9)
