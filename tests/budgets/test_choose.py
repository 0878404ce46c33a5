"""The joint choice against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.choose import CHANGE, Limit, choose
from budgets.options import Option

GIB = float(2**30)

option = st.tuples(st.integers(0, 400), st.integers(0, 300), st.integers(0, 3000))
ladders = st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(models=ladders, ram=st.integers(0, 2000), gpu=st.integers(0, 1500))
def test_exactly_the_best_choice(models: list[list[tuple[int, int, int]]], ram: int, gpu: int) -> None:
    candidates = {
        f"m{i}": [Option(f"m{i}", f"v{j}", h, d, 1.0, cost / 1e4) for j, (h, d, cost) in enumerate(rungs)]
        for i, rungs in enumerate(models)
    }
    everything = [o for options in candidates.values() for o in options]
    current = dict.fromkeys(candidates, "v0")
    limits = [
        Limit("ram", {(o.model, o.variant): float(o.host_bytes) for o in everything}, float(ram), 2000.0),
        Limit("gpu", {(o.model, o.variant): float(o.device_bytes) for o in everything}, float(gpu), 1500.0),
    ]

    def price(chosen: Iterable[Option]) -> tuple[float, float]:
        """What is missed of the limits, then the cost: no quality pays for a limit."""
        kept = tuple(chosen)
        missed = max(0, sum(o.host_bytes for o in kept) - ram) / 2000
        missed += max(0, sum(o.device_bytes for o in kept) - gpu) / 1500
        return round(missed, 9), sum(o.cost + (CHANGE if o.variant != "v0" else 0) for o in kept)

    made = choose(candidates, current, limits)
    assert set(made) == set(candidates)
    missed, cost = price(made.values())
    least, cheapest = min(price(chosen) for chosen in itertools.product(*candidates.values()))
    assert missed == least
    assert cost == pytest.approx(cheapest, abs=2 * CHANGE)


def test_nothing_changes_without_a_reason() -> None:
    same = {"m": [Option("m", "x", 1, 0, 1.0, 0.1), Option("m", "y", 1, 0, 1.0, 0.1)]}
    assert choose(same, {"m": "y"}, [])["m"].variant == "y"


def test_nothing_to_choose_from() -> None:
    assert choose({}, {}, [Limit("ram", {}, 0.0, GIB)]) == {}


def test_two_cheap_steps_rather_than_a_dear_one() -> None:
    """By the byte the dear step is cheaper; a choice model by model would take it."""
    candidates = {
        "big": [Option("big", "full", 1000, 0, 1.0, 0.0), Option("big", "less", 100, 0, 0.8, 0.2)],
        "one": [Option("one", "full", 300, 0, 1.0, 0.0), Option("one", "less", 50, 0, 0.94, 0.06)],
        "two": [Option("two", "full", 300, 0, 1.0, 0.0), Option("two", "less", 50, 0, 0.94, 0.06)],
    }
    weights = {(o.model, o.variant): float(o.host_bytes) for options in candidates.values() for o in options}
    made = choose(candidates, dict.fromkeys(candidates, "full"), [Limit("ram", weights, 1100.0, 1600.0)])
    assert {m: o.variant for m, o in made.items()} == {"big": "full", "one": "less", "two": "less"}
