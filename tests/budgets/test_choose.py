"""The joint choice of a live group against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budgets import choose as module
from budgets.choose import CHANGE, LATE, SWAP_PRICE, Limit, choose
from budgets.fleet.highs import Program
from budgets.fleet.limits import least_missed
from budgets.fleet.sift import sift
from budgets.fleet.table import BESIDE, FILL, IN_PLACE, NUDGE, Terms
from budgets.options import Option

GIB = float(2**30)
#: A memory limit and one of engine time, which gives way to it.
PRICES = (1e4, 1.0)

share = st.integers(0, 10).map(lambda n: n / 10)
rung = st.tuples(st.integers(0, 400), st.integers(0, 300), share, share, share, st.integers(0, 5), st.booleans())
ladders = st.lists(st.tuples(st.integers(1, 30), st.lists(rung, min_size=1, max_size=4)), min_size=1, max_size=5)


def options_of(
    models: Sequence[tuple[int, list[tuple[int, int, float, float, float, int, bool]]]],
) -> list[list[Option]]:
    """Options by model, what runs now first."""
    return [
        [
            Option(
                model=f"m{i}",
                variant=f"v{j}" if j < 3 else None,
                host_bytes=host,
                device_bytes=gpu,
                quality=1.0 - loss,
                cost=traffic / 10 * loss,
                traffic=traffic / 10,
                late=late,
                busy=busy,
                loading=float(loading),
                beside=beside,
            )
            for j, (host, gpu, loss, late, busy, loading, beside) in enumerate(rungs)
        ]
        for i, (traffic, rungs) in enumerate(models)
    ]


def cost_of(chosen: Sequence[Option], now: Mapping[str, Option]) -> float:
    """What a choice costs when its options serve as well as they can, worked out apart from the program: who gains most for
    the engine time goes first."""
    total = sum(o.traffic for o in chosen)
    left = FILL * max(1.0, sum(o.busy for o in now.values()) / FILL)
    cost = 0.0
    for o in sorted(chosen, key=lambda o: o.busy / o.traffic / (LATE - o.cost / o.traffic)):
        most = (1 - o.late) * o.traffic
        served = min(most, left * o.traffic / o.busy) if o.busy else most
        left -= served * o.busy / o.traffic
        cost += served * o.cost / o.traffic + LATE * (o.traffic - served)
        if o.variant != now[o.model].variant:
            rate = most / FILL
            suffers = BESIDE if o.beside else IN_PLACE
            cost += NUDGE * rate + SWAP_PRICE * suffers * min(rate, o.traffic) * o.loading + CHANGE * total
    return cost / total


# The solver hands its start back beside the cost of the better choice that it found.
LOST = [
    (12, [(0, 0, 0.4, 1.0, 0.5, 3, False), (358, 0, 0.4, 0.0, 0.0, 0, True), (0, 0, 0.0, 1.0, 0.0, 0, True)]),
    (20, [(0, 0, 0.0, 0.0, 0.0, 0, True), (0, 0, 1.0, 0.0, 0.0, 5, False), (0, 0, 0.7, 0.0, 0.2, 0, False)]),
]


@settings(max_examples=120, deadline=None)
@example(models=LOST, ram=2000, compute=1.5)
@given(models=ladders, ram=st.integers(0, 2000), compute=share.map(lambda s: 3 * s))
def test_exactly_the_best_choice(
    models: list[tuple[int, list[tuple[int, int, float, float, float, int, bool]]]], ram: int, compute: float
) -> None:
    several = options_of(models)
    now = {options[0].model: options[0] for options in several}
    everything = [o for options in several for o in options]
    limits = [
        Limit("ram", {(o.model, o.variant): float(o.host_bytes) for o in everything}, float(ram), 2000.0, PRICES[0]),
        Limit("cpu", {(o.model, o.variant): o.busy for o in everything}, compute, 2.0, PRICES[1]),
    ]

    def missed(chosen: Sequence[Option]) -> float:
        memory = max(0, sum(o.host_bytes for o in chosen) - ram) / 2000
        busy = max(0.0, sum(o.busy for o in chosen) - compute) / 2
        return PRICES[0] * memory + PRICES[1] * busy

    current = {m: o.variant for m, o in now.items()}
    made = choose({options[0].model: options for options in several}, current, limits)
    assert set(made.options) == set(now)
    ways = list(itertools.product(*several))
    least = min(missed(way) for way in ways)
    chosen = [made.options[options[0].model] for options in several]
    assert missed(chosen) == pytest.approx(least, abs=1e-5)
    cheapest = min(cost_of(way, now) for way in ways if missed(way) <= least + 1e-9)
    assert cost_of(chosen, now) <= cheapest + 2e-6
    assert made.gap <= 1e-6 or cheapest < 1e-5
    # What a large program starts from is below every choice that misses no more.
    table = module._table([o for options in several for o in options], current, limits)
    sifted = sift(table, Terms(swap_price=SWAP_PRICE, change=CHANGE), least_missed(table, Terms()))
    assert sifted is not None
    assert sifted.bound <= cheapest + 1e-6


def fleet_of(count: int, seed: int) -> tuple[dict[str, list[Option]], Limit]:
    """Models of four rungs each, and a limit of half of what they hold at their best."""
    draw = np.random.default_rng(seed)
    made = {}
    for i in range(count):
        size, traffic = int(draw.integers(50, 500)), float(draw.uniform(0.05, 1.0))
        losses = np.cumsum(draw.uniform(0.0, 0.05, 4)) - 0.01
        made[f"m{i:03d}"] = [
            Option(f"m{i:03d}", f"v{v}", size // (1 + v), 0, 1.0 - loss, max(0.0, traffic * loss), traffic=traffic)
            for v, loss in enumerate(losses.tolist())
        ]
    weights = {(o.model, o.variant): float(o.host_bytes) for several in made.values() for o in several}
    most = sum(several[0].host_bytes for several in made.values())
    return made, Limit("ram", weights, most / 2, float(most))


@pytest.mark.parametrize("seed", range(2))
def test_many_models_are_near_the_best_and_keep_the_limit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, limit = fleet_of(40, seed)
    current = dict.fromkeys(candidates, "v0")
    monkeypatch.setattr(module, "EXACT", 1000)
    exact = choose(candidates, current, [limit])
    monkeypatch.setattr(module, "EXACT", 20)
    sifted = choose(candidates, current, [limit])
    for made in (exact, sifted):
        assert sum(limit.weights[(o.model, o.variant)] for o in made.options.values()) <= limit.bound * (1 + 1e-9)
    costs = [sum(o.cost for o in made.options.values()) for made in (exact, sifted)]
    assert costs[1] <= costs[0] * 1.01 + 1e-9
    assert sifted.gap <= 0.01
    # What no choice keeps is missed no further than it must be.
    tight = Limit("ram", limit.weights, 0.0, limit.scale)
    least = sum(min(o.host_bytes for o in several) for several in candidates.values())
    assert sum(o.host_bytes for o in choose(candidates, current, [tight]).options.values()) == least


def test_nothing_changes_without_a_reason() -> None:
    same = {"m": [Option("m", "x", 1, 0, 1.0, 0.1), Option("m", "y", 1, 0, 1.0, 0.1)]}
    assert choose(same, {"m": "y"}, []).options["m"].variant == "y"


def test_nothing_to_choose_from() -> None:
    assert choose({}, {}, [Limit("ram", {}, 0.0, GIB)]).options == {}


def test_without_a_solution_in_time_nothing_changes_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "solve", lambda *_, **__: None)
    candidates, limit = fleet_of(3, 0)
    made = choose(candidates, dict.fromkeys(candidates, "v2"), [limit])
    assert {o.variant for o in made.options.values()} == {"v2"}
    assert made.gap == 1.0


def test_two_cheap_steps_rather_than_a_dear_one() -> None:
    """By the byte the dear step is cheaper; a choice model by model would take it."""
    candidates = {
        "big": [Option("big", "full", 1000, 0, 1.0, 0.0), Option("big", "less", 100, 0, 0.8, 0.2)],
        "one": [Option("one", "full", 300, 0, 1.0, 0.0), Option("one", "less", 50, 0, 0.94, 0.06)],
        "two": [Option("two", "full", 300, 0, 1.0, 0.0), Option("two", "less", 50, 0, 0.94, 0.06)],
    }
    weights = {(o.model, o.variant): float(o.host_bytes) for options in candidates.values() for o in options}
    made = choose(candidates, dict.fromkeys(candidates, "full"), [Limit("ram", weights, 1100.0, 1600.0)]).options
    assert {m: o.variant for m, o in made.items()} == {"big": "full", "one": "less", "two": "less"}


def test_of_two_ways_the_one_that_disturbs_less() -> None:
    slow = Option("m", "slow", 1, 0, 0.98, 0.02, loading=10.0)
    quick = Option("m", "quick", 1, 0, 0.979, 0.021, loading=0.5)
    candidates = {"m": [Option("m", "now", 9, 0, 1.0, 0.0), slow, quick]}
    weights = {(o.model, o.variant): float(o.host_bytes) for o in candidates["m"]}
    made = choose(candidates, {"m": "now"}, [Limit("ram", weights, 5.0, 9.0)])
    assert made.options["m"].variant == "quick"
