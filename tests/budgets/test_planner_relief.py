"""Relief of pressure: what is planned, and what is held and why."""

from __future__ import annotations

import pytest

from budgets.config import ModelPolicy, Slo
from budgets.plan import Broke, Memory, Quarantine
from budgets.planner import revalidate
from budgets.remember import remember
from budgets.snapshot import Missing, Reading
from tests.budgets.asking import MIB, NOW, Make, moves, used
from variants.catalog import Catalog

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


def test_what_no_allowed_step_relieves_is_named(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(990), {"ram": "saturated"}
    d.assignment = dict.fromkeys(d.assignment, "tiny")
    made = d.plan()
    assert made.swaps == ()
    assert made.infeasible == ("ram",)
    d.assignment = dict.fromkeys(d.assignment, "fp32")
    assert d.plan().infeasible == ()


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
    d.usage, d.states = used(1100), {"ram": "saturated"}
    assert len(d.plan().swaps) == 2


def test_a_used_up_budget_is_relieved_by_one_step_and_that_reconsidered(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(1010), {"ram": "saturated"}
    made = d.plan()
    (swap,) = made.swaps
    assert (swap.to_variant, swap.direction) == ("tiny", "degrade"), "one load is done before two"
    assert [a.note for a in made.alternatives if a.chosen] == ["quick"]
    d.memory = remember(Memory(), made, d.snapshot, d.config, NOW - 1)
    assert d.memory.quick.model == swap.model
    d.assignment[swap.model], d.usage = "tiny", used(840)
    again = d.plan()
    assert sorted((s.to_variant, s.direction) for s in again.swaps) == [("int8", "degrade"), ("int8", "restore")]
    assert "better by" in again.swaps[0].reason
    assert revalidate(again, d.snapshot, d.snapshot, d.config).swaps == again.swaps
    assert remember(d.memory, again, d.snapshot, d.config, NOW).quick is None
    d.memory = d.memory.model_copy(update={"quick": None})
    assert d.plan().swaps == ()


def test_memory_never_gives_way_to_latency_and_the_lowest_weight_gives_way_first(desk: Make, catalog_of: Make) -> None:
    ladder = [("big-fast", 300, 0.9, 0.002), ("small-slow", 50, 1.0, 0.08)]
    d = desk(
        catalog_of({"a": ladder, "b": ladder}),
        a=ModelPolicy(weight=1, slo=Slo(latency_seconds=0.05)),
        b=ModelPolicy(weight=5, slo=Slo(latency_seconds=0.05)),
    )
    d.assignment = {"a": "small-slow", "b": "small-slow"}
    d.rates = {m: Reading(value=0.1, at=NOW) for m in "ab"}
    d.latencies = {m: Reading(value=0.2, at=NOW) for m in "ab"}
    d.states = {"slo:a": "saturated", "slo:b": "saturated"}
    d.usage = used(300)
    assert moves(d.plan()) == {"a": "big-fast", "b": "big-fast"}
    assert d.plan().infeasible == ()
    d.usage = used(500)
    made = d.plan()
    assert moves(made) == {"b": "big-fast"}, "there is room for one: the one with more weight"
    assert made.infeasible == ("slo:a",)
    d.usage = used(700)
    assert d.plan().swaps == ()
    assert d.plan().infeasible == ("slo:a", "slo:b")


def test_a_budget_that_no_step_can_keep_is_infeasible_and_said_first(desk: Make) -> None:
    d = desk()
    d.usage, d.states = used(2000), {"ram": "saturated"}
    made = d.plan()
    assert made.infeasible == ("ram",)
    assert moves(made) == dict.fromkeys("abc", "tiny"), "as far below as can be"


def test_alternatives_are_shown_with_what_they_cost_and_miss(desk: Make) -> None:
    d = desk(a=ModelPolicy(weight=1), b=ModelPolicy(weight=2), c=ModelPolicy(weight=4))
    d.usage, d.states = used(940), {"ram": "scaling"}
    plan, *others = d.plan().alternatives
    assert plan.chosen
    assert plan.changes == {"a": "int8"}
    assert plan.misses == ()
    assert plan.cost == pytest.approx(0.02 / 3)
    assert [o.chosen for o in others] == [False] * len(others)
    assert {"b": "int8"} in [o.changes for o in others]
    assert next(o for o in others if o.note == "no change").misses == ("ram",)
    assert all(o.cost >= plan.cost for o in others if not o.misses)


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
    assert after.broke == (Broke(model="a", variant="fp32", rate=45.0, at=NOW),)


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
