"""Single decisions: what is planned, and what is held and why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgets.config import Budget, BudgetsConfig, ModelPolicy, Slo
from budgets.plan import Broke, Memory, Plan, Quarantine, Step
from budgets.planner import initial, remember, revalidate
from budgets.snapshot import Missing, Reading, Snapshot
from variants.catalog import Catalog

MIB = 2**20
NOW = 1_000.0
Make = Callable[..., Any]


def used(mib: float, at: float = NOW) -> Reading:
    return Reading(value=mib * MIB, at=at)


def moves(plan: Plan) -> dict[str, str | None]:
    return {s.model: s.to_variant for s in plan.swaps}


def step(model: str, from_variant: str | None = "fp32", to_variant: str | None = "int8", trigger: str = "ram") -> Step:
    return Step(model=model, from_variant=from_variant, to_variant=to_variant, trigger=trigger, at=0.0)


# Relief


def test_calm_means_nothing(desk: Make) -> None:
    made = desk().plan()
    assert (made.swaps, made.holds, made.generation) == ((), (), 7)


def test_relief_is_numbered_and_complete(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(930), {"ram": "scaling"}
    made = d.plan()
    (swap,) = made.swaps
    assert made.generation == 8
    assert made.assignment == {**d.assignment, swap.model: "int8"}
    assert (swap.direction, swap.trigger, swap.from_variant) == ("degrade", "ram", "fp32")
    assert swap.bytes_planned == 130 * MIB
    assert (swap.quality_from, swap.quality_to) == (1.0, 0.98)
    assert "0.93" in swap.reason
    assert "130 MiB" in swap.reason


def test_relief_goes_as_far_as_a_restore_may_fill_and_no_further(desk: Make) -> None:
    """850 MiB is what may be in use after a plan (enter 0.9 less 0.05 headroom)."""
    d = desk()
    d.states = {"ram": "scaling"}
    for usage, steps in ((970.0, 1), (985.0, 2), (1110.0, 2), (1120.0, 3)):
        d.usage = used(usage)
        assert len(d.plan().swaps) == steps, usage


def test_relieved_but_not_calm_yet_is_a_hold(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(800), {"ram": "scaling"}
    made = d.plan()
    assert made.swaps == ()
    assert "relieved (0.80)" in d.holds(made)


def test_missing_usage_holds_whatever_the_trigger_says(desk: Make) -> None:
    d = desk()
    d.states = {"ram": "saturated"}
    for usage in (Missing(reason="endpoint down"), used(990, at=NOW - 100)):
        d.usage = usage
        made = d.plan()
        assert made.swaps == ()
        assert "ram is saturated, but" in d.holds(made)


def test_hosts_on_their_way_are_waited_for(desk: Make) -> None:
    d = desk()
    d.usage, d.states, d.observed = used(990), {"ram": "saturated"}, 6
    assert "1 of 1 hosts have not reached plan 7" in d.holds()
    d.running = []
    assert "no host answers" in d.holds()


def test_swaps_in_flight_limit_a_plan_unless_saturated(desk: Make) -> None:
    d = desk()
    d.controller = d.controller.model_copy(update={"swaps_in_flight": 1})
    d.usage, d.states = used(990), {"ram": "scaling"}
    made = d.plan()
    assert len(made.swaps) == 1
    assert "swap limit" in d.holds(made)
    d.states = {"ram": "saturated"}
    assert len(d.plan().swaps) == 2


def test_a_floor_is_never_crossed(desk: Make) -> None:
    d = desk(a=ModelPolicy(floor=0.95), b=ModelPolicy(floor=0.99), c=ModelPolicy(floor=1.0))
    d.usage, d.states = used(2000), {"ram": "saturated"}
    assert moves(d.plan()) == {"a": "int8"}
    d.assignment["a"] = "int8"
    assert "every model is as low as it may go" in d.holds()


def test_parking_only_where_it_is_allowed(desk: Make) -> None:
    d = desk(a=ModelPolicy(park=True))
    d.usage, d.states = used(5000), {"ram": "saturated"}
    assert moves(d.plan()) == {"a": None, "b": "tiny", "c": "tiny"}


def test_a_variant_without_a_profile_here_is_no_target(desk: Make, three: Catalog) -> None:
    entry = three.entries["a"]
    bare = entry.variants["int8"].model_copy(update={"profiles": ()})
    entries = {"a": entry.model_copy(update={"variants": {**entry.variants, "int8": bare}})}
    d = desk(three.model_copy(update={"entries": entries}))
    d.usage, d.states = used(930), {"ram": "scaling"}
    assert moves(d.plan()) == {"a": "tiny"}


def test_quarantined_and_cooling_models_are_left_alone(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(930), {"ram": "scaling"}
    bad = tuple(Quarantine(model="a", variant=v, reason="canary", until=NOW + 1) for v in ("int8", "tiny"))
    d.memory = Memory(quarantined=bad, swapped_at={"b": NOW - 1})
    made = d.plan()
    assert moves(made) == {"c": "int8"}
    assert "b fp32: cooldown" in d.holds(made)
    d.memory = Memory(
        quarantined=tuple(q.model_copy(update={"until": NOW}) for q in bad), swapped_at={"b": 0, "c": NOW}
    )
    assert moves(d.plan()) == {"a": "int8"}, "a quarantine that has run out holds nothing"


def test_saturated_memory_does_not_wait_for_a_cooldown(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(1120), {"ram": "saturated"}
    d.memory = Memory(swapped_at={"a": NOW, "b": NOW, "c": NOW})
    assert len(d.plan().swaps) == 3


def test_traffic_and_weight_decide_who_pays(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(930), {"ram": "scaling"}
    d.rates = {m: Reading(value=r, at=NOW) for m, r in (("a", 50.0), ("b", 5.0), ("c", 50.0))}
    assert moves(d.plan()) == {"b": "int8"}
    d.policies = {"b": ModelPolicy(weight=100)}
    d.rates["c"] = Reading(value=20.0, at=NOW)
    assert moves(d.plan()) == {"c": "int8"}


def test_a_model_that_hosts_do_not_run_as_planned_is_left_alone(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(930), {"ram": "scaling"}
    d.running = [{"a": None, "b": "fp32", "c": "fp32"}]
    made = d.plan()
    assert "a" not in moves(made)
    assert len(made.swaps) == 1
    assert "a host runs nothing instead of fp32" in d.holds(made)


# Latency


def test_a_late_model_takes_the_nearest_rung_that_is_fast_enough(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.08)))
    d.states = {"slo:a": "saturated"}
    d.rates = {"a": Reading(value=45.0, at=NOW), "b": Reading(value=1.0, at=NOW)}
    d.latencies = {"a": Reading(value=0.4, at=NOW)}
    made = d.plan()
    assert moves(made) == {"a": "int8"}
    assert made.swaps[0].trigger == "slo:a"
    after = remember(Memory(), made, d.snapshot, d.config, NOW)
    assert after.broke == (Broke(model="a", variant="fp32", rate=45.0),)


def test_the_fastest_rung_is_taken_where_none_is_fast_enough(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.001)))
    d.states = {"slo:a": "saturated"}
    d.rates, d.latencies = {"a": Reading(value=5.0, at=NOW)}, {"a": Reading(value=0.4, at=NOW)}
    assert moves(d.plan()) == {"a": "tiny"}


def test_others_step_down_when_the_late_model_is_on_its_fastest_rung(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.02)))
    d.states = {"slo:a": "saturated"}
    d.assignment["a"] = "tiny"
    d.rates = {m: Reading(value=r, at=NOW) for m, r in (("a", 5.0), ("b", 45.0), ("c", 1.0))}
    d.latencies = {"a": Reading(value=0.4, at=NOW)}
    assert moves(d.plan()) == {"b": "int8"}


def test_a_late_model_that_is_pinned_stays(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.08), pin="fp32"))
    d.states = {"slo:a": "saturated"}
    d.rates, d.latencies = {"a": Reading(value=45.0, at=NOW)}, {"a": Reading(value=0.4, at=NOW)}
    assert "a" not in moves(d.plan())


# How a swap is made


def test_make_before_break_only_into_measured_headroom(desk: Make) -> None:
    d = desk()
    d.states = {"ram": "scaling"}
    d.usage = used(930)  # exactly 70 MiB of headroom, and int8 takes 70
    assert d.plan().swaps[0].mode == "make_before_break"
    d.usage = used(931)
    assert d.plan().swaps[0].mode == "break_before_make"


def test_what_the_first_swap_gives_back_is_there_for_the_second(desk: Make) -> None:
    d = desk()
    d.states, d.usage = {"ram": "scaling"}, used(985)
    assert [s.mode for s in d.plan().swaps] == ["break_before_make", "make_before_break"]


def test_headroom_counts_every_host(desk: Make) -> None:
    d = desk()
    d.states, d.usage = {"ram": "scaling"}, used(910)
    d.running = [d.assignment, d.assignment]
    assert d.plan().swaps[0].mode == "break_before_make", "two hosts load 70 MiB each into 90"


def test_pins_into_unmeasured_headroom_break_first(desk: Make) -> None:
    d = desk()
    d.assignment["a"], d.pins, d.usage = "int8", {"a": "fp32"}, Missing(reason="endpoint down")
    assert d.plan().swaps[0].mode == "break_before_make"


def test_a_pin_upwards_takes_room_from_the_next(desk: Make) -> None:
    d = desk()
    d.assignment |= {"a": "int8", "b": "int8"}
    d.usage, d.pins = used(750), {"a": "fp32", "b": "fp32"}
    assert [s.mode for s in d.plan().swaps] == ["make_before_break", "break_before_make"]


# Pins


def test_pins_are_followed_and_quarantined_ones_held(desk: Make) -> None:
    d = desk(b=ModelPolicy(pin="tiny"))
    d.pins = {"a": "int8", "c": None}
    made = d.plan()
    assert moves(made) == {"a": "int8", "b": "tiny", "c": None}
    assert {s.direction for s in made.swaps} == {"pin"}
    d.memory = Memory(quarantined=(Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1),))
    made = d.plan()
    assert "a" not in moves(made)
    assert "pinned, but quarantined: canary" in d.holds(made)


def test_a_pin_by_hand_outranks_the_configuration(desk: Make) -> None:
    d = desk(a=ModelPolicy(pin="tiny"))
    d.pins = {"a": "int8"}
    assert moves(d.plan()) == {"a": "int8"}


# Restoring


def degraded(d: Any, *steps: Step) -> Any:
    d.memory = Memory(steps=steps)
    for s in steps:
        d.assignment[s.model] = s.to_variant
    return d


def test_the_last_degradation_is_taken_back_first(desk: Make) -> None:
    d = degraded(desk(), step("b"), step("a"), step("c"))
    order = []
    for _ in range(3):
        made = d.plan()
        (swap,) = made.swaps
        assert swap.direction == "restore"
        order.append(swap.model)
        d.memory = remember(d.memory, made, d.snapshot, d.config, 0.0)
        d.assignment = dict(made.assignment)
    assert order == ["c", "a", "b"]
    assert d.memory.steps == ()


def test_restores_wait_for_their_cooldown_and_for_calm(desk: Make) -> None:
    d = degraded(desk(b=ModelPolicy(slo=Slo(latency_seconds=0.1))), step("a"))
    d.memory = d.memory.model_copy(update={"planned_at": NOW - 1})
    assert "cooldown: 2 s left" in d.holds()
    d.memory = d.memory.model_copy(update={"planned_at": 0.0})
    d.states = {"slo:b": "scaling"}
    assert "not restored: slo:b is scaling" in d.holds()


def test_restores_need_every_reading(desk: Make) -> None:
    d = degraded(desk(b=ModelPolicy(slo=Slo(latency_seconds=0.1))), step("a"))
    d.rates = {"b": Missing(reason="endpoint down")}
    d.latencies = {"b": Missing(reason="endpoint down")}
    made = d.plan()
    assert made.swaps == ()
    assert "slo:b: endpoint down" in d.holds(made)


def test_a_restore_must_fit_below_the_headroom(desk: Make) -> None:
    d = degraded(desk(), step("a"), step("b", "int8", "tiny"))
    d.usage = used(850 - 40)
    assert moves(d.plan()) == {"b": "int8"}
    d.usage = used(850 - 40 + 1)
    made = d.plan()
    assert made.swaps == (), "the smaller step is first, so the larger one waits"
    assert "ram would be at 851 MiB of at most 850 MiB" in d.holds(made)


def test_the_reserve_is_kept_free(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    d.ram = Budget(name="ram", resource="ram", scope="trimtab", limit=1000 * MIB, reserve=100 * MIB)
    d.usage = used(600)
    assert moves(d.plan()) == {"a": "fp32"}
    d.usage = used(650)
    assert "of at most 750 MiB" in d.holds()


def test_a_restore_is_believed_to_take_what_it_took(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    d.memory = d.memory.model_copy(update={"moved": {"a: int8 -> fp32": 400 * MIB}})
    assert "ram would be at 1000 MiB" in d.holds()


def test_a_restore_must_keep_latency(desk: Make) -> None:
    d = degraded(desk(a=ModelPolicy(slo=Slo(latency_seconds=0.08))), step("a", trigger="slo:a"))
    d.latencies = {"a": Reading(value=0.01, at=NOW)}
    d.rates = {"a": Reading(value=34.0, at=NOW)}
    assert "not restored: latency: a would take" in d.holds()
    d.rates = {"a": Reading(value=60.0, at=NOW)}
    assert "utilisation would be 1.20" in d.holds()
    d.rates = {"a": Reading(value=5.0, at=NOW)}
    d.memory = d.memory.model_copy(update={"broke": (Broke(model="a", variant="fp32", rate=6.0),)})
    assert "broke at 6.0 requests/s, the rate is 5.0 (at most 4.5)" in d.holds()
    d.rates = {"a": Reading(value=4.0, at=NOW)}
    assert moves(d.plan()) == {"a": "fp32"}


def test_a_restore_past_a_quarantined_step_takes_it_along(desk: Make) -> None:
    d = degraded(desk(), step("a"), step("a", "int8", "tiny"))
    bad = Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1)
    d.memory = d.memory.model_copy(update={"quarantined": (bad,)})
    made = d.plan()
    assert moves(made) == {"a": "fp32"}
    assert remember(d.memory, made, d.snapshot, d.config, NOW).steps == ()


def test_models_below_their_best_rung_without_a_step_come_last(desk: Make) -> None:
    d = desk()
    d.assignment |= {"a": "tiny", "b": "int8"}
    assert moves(d.plan()) == {"a": "int8"}, "where most is to be gained first, one rung at a time"
    degraded(d, step("c"))
    assert moves(d.plan()) == {"c": "fp32"}


# Repairs


def test_hosts_that_came_apart_are_brought_together(desk: Make) -> None:
    d = desk()
    d.assignment["a"] = "int8"
    d.running = [{**d.assignment}, {**d.assignment, "a": "fp32"}]
    assert d.plan().swaps == (), "nothing has failed: what departs is left alone"
    d.memory = Memory(quarantined=(Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1),))
    (swap,) = d.plan().swaps
    assert (swap.direction, swap.to_variant) == ("repair", "fp32")
    assert "int8 failed on a host: canary" in swap.reason
    assert revalidate(d.plan(), d.snapshot, d.snapshot, d.config).swaps == (swap,)


# Revalidation


@pytest.fixture
def pressed(desk: Make) -> Any:
    d = desk()
    d.usage, d.states = used(985), {"ram": "scaling"}
    return d


def test_a_plan_that_still_holds_is_kept(pressed: Any) -> None:
    made = pressed.plan()
    assert revalidate(made, pressed.snapshot, pressed.snapshot, pressed.config) == made


@pytest.mark.parametrize("usage", [used(500), Missing(reason="endpoint down"), used(990, at=NOW - 100)])
def test_relief_is_dropped_with_its_pressure(pressed: Any, usage: Any) -> None:
    made, before = pressed.plan(), pressed.snapshot
    pressed.usage = usage
    kept = revalidate(made, before, pressed.snapshot, pressed.config)
    assert (kept.swaps, kept.generation, kept.assignment) == ((), 7, before.assignment)
    assert all("the pressure on ram is gone" in h.reason for h in kept.holds if "dropped" in h.reason)


def test_one_swap_is_dropped_and_the_others_kept(pressed: Any) -> None:
    made, before = pressed.plan(), pressed.snapshot
    first, second = made.swaps
    pressed.swapping = (first.model,)
    kept = revalidate(made, before, pressed.snapshot, pressed.config)
    assert kept.swaps == (second,)
    assert kept.generation == 8
    assert kept.assignment == {**before.assignment, second.model: second.to_variant}
    pressed.swapping, pressed.running = (), [{**before.assignment, second.model: "tiny"}]
    assert revalidate(made, before, pressed.snapshot, pressed.config).swaps == (first,)


def test_a_restore_is_dropped_under_new_pressure(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    made, before = d.plan(), d.snapshot
    assert moves(made) == {"a": "fp32"}
    for usage in (used(950), Missing(reason="endpoint down")):
        d.usage = usage
        assert revalidate(made, before, d.snapshot, d.config).swaps == ()


# The start


def total(catalog: Catalog, assignment: Mapping[str, str | None]) -> int:
    return sum(catalog.entries[m].variants[v].profiles[0].resident_bytes for m, v in assignment.items() if v)


def test_the_best_rungs_that_fit_together(three: Catalog) -> None:
    def start(limit: int, **models: ModelPolicy) -> dict[str, str | None]:
        ram = Budget(name="ram", resource="ram", limit=limit * MIB)
        return initial(three, BudgetsConfig(budgets=(ram,), models=models))

    assert start(1000) == {"a": "fp32", "b": "fp32", "c": "fp32"}
    tight = start(400, b=ModelPolicy(weight=10))
    assert tight["b"] == "fp32"
    assert total(three, tight) <= 360 * MIB
    assert start(1000, a=ModelPolicy(pin="tiny"))["a"] == "tiny"
    assert set(start(1).values()) == {"tiny"}
    assert start(1, c=ModelPolicy(floor=0.97))["c"] == "int8"


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
    d.usage, d.states = used(usage), {"ram": "saturated"}
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
