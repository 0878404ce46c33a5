"""Properties of plans over many worlds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgets.config import ModelPolicy
from budgets.snapshot import Missing, Snapshot
from tests.budgets.asking import NOW, Make, degraded, step, used

# Properties


rung = st.tuples(st.integers(10, 300), st.integers(500, 1000), st.floats(0.0005, 0.03))
worlds = st.dictionaries(st.sampled_from("abcde"), st.lists(rung, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models=worlds, usage=st.integers(0, 3000), data=st.data())
def test_relief_is_enough_when_it_can_be_and_the_least_that_is(
    desk: Make, catalog_of: Make, models: dict[str, list[tuple[int, int, float]]], usage: int, data: st.DataObject
) -> None:
    """Against every choice there is: the plan keeps the budget whenever one does, at the least loss among those."""
    rungs = {
        name: [(f"v{i}", mib, quality / 1000, seconds) for i, (mib, quality, seconds) in enumerate(items)]
        for name, items in models.items()
    }
    catalog = catalog_of(rungs)
    floors = {name: data.draw(st.integers(0, 1000), label=f"floor {name}") / 1000 for name in models}
    d = desk(catalog, **{name: ModelPolicy(floor=floor) for name, floor in floors.items()})
    d.controller = d.controller.model_copy(update={"swaps_in_flight": 10})
    d.assignment = {name: data.draw(st.sampled_from([r[0] for r in items])) for name, items in rungs.items()}
    d.usage, d.states = used(usage), {"ram": "scaling"}
    made = d.plan()
    sizes = {(m, r[0]): r[1] for m, items in rungs.items() for r in items}
    quality = {(m, r[0]): r[2] for m, items in rungs.items() for r in items}
    for swap in made.swaps:
        assert quality[(swap.model, str(swap.to_variant))] >= floors[swap.model]
    now = sum(sizes[(m, str(v))] for m, v in d.assignment.items())

    def after(assignment: Mapping[str, str | None]) -> int:
        return usage - now + sum(sizes[(m, str(v))] for m, v in assignment.items())

    if usage < 900:
        assert made.swaps == ()
        return
    smaller = [
        [
            v
            for v, mib, q, _ in items
            if v == d.assignment[m] or (mib < sizes[(m, str(d.assignment[m]))] and q >= floors[m])
        ]
        for m, items in rungs.items()
    ]
    best = {m: max((q for _, _, q, _ in items if q >= floors[m]), default=1.0) for m, items in rungs.items()}
    losses = [
        sum(
            max(0.0, best[m] - quality[(m, v)])
            for m, v in zip(rungs, choice, strict=True)
            if quality[(m, v)] >= floors[m]
        )
        for choice in itertools.product(*smaller)
        if after(dict(zip(rungs, choice, strict=True))) <= 850
    ]
    if not losses:
        assert after(made.assignment) <= usage
        return
    assert after(made.assignment) <= 850
    lost = sum(
        max(0.0, best[m] - quality[(m, str(v))])
        for m, v in made.assignment.items()
        if quality[(m, str(v))] >= floors[m]
    )
    assert lost <= min(losses) + 1e-3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=st.fixed_dictionaries({"ram": st.sampled_from(["calm", "scaling", "saturated"])}),
    missing=st.booleans(),
    low=st.sets(st.sampled_from("abc")),
)
def test_missing_readings_never_swap(desk: Make, states: dict[str, str], missing: bool, low: set[str]) -> None:
    d = degraded(desk(), *(step(m) for m in sorted(low)))
    d.states = states
    d.usage = Missing(reason="endpoint down") if missing else used(2000, at=NOW - 1000)
    assert d.plan().swaps == ()


def test_a_plan_is_the_same_for_the_same_input(pressed: Any) -> None:
    assert isinstance(pressed.snapshot, Snapshot)
    assert pressed.plan() == pressed.plan()
