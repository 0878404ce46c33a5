"""Restoring, repairs, and where a server starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgets.config import Budget, BudgetsConfig, ModelPolicy, Slo
from budgets.initial import initial
from budgets.plan import Broke, Memory, Quarantine
from budgets.planner import revalidate
from budgets.remember import remember
from budgets.snapshot import Missing, Reading
from tests.budgets.asking import MIB, NOW, Make, degraded, moves, step, used
from variants.catalog import Catalog

# Restoring


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
    d.memory = d.memory.model_copy(update={"broke": (Broke(model="a", variant="fp32", rate=6.0, at=NOW - 299),)})
    assert "broke at 6.0 requests/s, the rate is 5.0 (at most 4.5)" in d.holds()
    d.rates = {"a": Reading(value=4.0, at=NOW)}
    assert moves(d.plan()) == {"a": "fp32"}


def test_an_objective_that_broke_is_not_held_against_a_variant_for_ever(desk: Make) -> None:
    """A neighbour's load may have broken it. Each time that it breaks again it counts twice as long."""
    d = degraded(desk(a=ModelPolicy(slo=Slo(latency_seconds=0.08))), step("a", trigger="slo:a"))
    d.latencies, d.rates = {"a": Reading(value=0.01, at=NOW)}, {"a": Reading(value=5.0, at=NOW)}
    for times, ago, restored in ((1, 299, False), (1, 300, True), (2, 599, False), (2, 600, True)):
        broke = Broke(model="a", variant="fp32", rate=6.0, at=NOW - ago, times=times)
        d.memory = d.memory.model_copy(update={"broke": (broke,)})
        assert bool(moves(d.plan())) is restored, (times, ago)
    swap = d.plan().swaps[0].model_copy(update={"direction": "degrade", "trigger": "slo:a", "from_variant": "fp32"})
    made = d.plan().model_copy(update={"swaps": (swap,)})
    (again,) = remember(d.memory, made, d.snapshot, d.config, NOW).broke
    assert (again.times, again.at) == (3, NOW)


def test_a_restore_past_a_quarantined_step_takes_it_along(desk: Make) -> None:
    d = degraded(desk(), step("a"), step("a", "int8", "tiny"))
    bad = Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1)
    d.memory = d.memory.model_copy(update={"quarantined": (bad,)})
    made = d.plan()
    assert moves(made) == {"a": "fp32"}
    assert remember(d.memory, made, d.snapshot, d.config, NOW).steps == ()


def relieved(d: Any, model: str, to_variant: str) -> Memory:
    """The memory after relief that brings the model to that variant, long ago."""
    planned = d.plan()
    changes = {"model": model, "direction": "degrade", "from_variant": d.assignment[model], "to_variant": to_variant}
    done = planned.model_copy(update={"swaps": (planned.swaps[0].model_copy(update=changes),)})
    d.assignment[model] = to_variant
    return remember(d.memory, done, d.snapshot, d.config, 0.0)


def test_relief_that_takes_a_model_back_up_leaves_nothing_to_restore(desk: Make) -> None:
    """Where the smaller variant is the slower one, late calls bring the model back to what memory had taken it from."""
    steps = (step("b"), step("a"), step("a", "int8", "tiny"))
    assert relieved(degraded(desk(), *steps), "a", "int8").steps == steps[:2], "one step of two is undone"
    d = degraded(desk(), *steps)
    d.memory = relieved(d, "a", "fp32")
    assert d.memory.steps == steps[:1]
    assert moves(d.plan()) == {"b": "fp32"}


def test_a_restore_never_loses_quality(desk: Make) -> None:
    """A step that left a lower variant is not taken back; the model still comes up from where it is."""
    d = degraded(desk(), step("a", "tiny", "int8"))
    assert moves(d.plan()) == {"a": "fp32"}
    d = degraded(desk(), step("a", "int8", "fp32"))
    assert d.plan().swaps == ()
    assert "a" not in {h.model for h in d.plan().holds}
    d = degraded(desk(), step("a"), step("a", "tiny", "int8"))
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
    d.memory = Memory(swapped_at={"a": NOW - 1})
    assert d.plan().swaps == (), "the swap may not be over"
    d.memory = Memory()
    (swap,) = d.plan().swaps
    assert (swap.direction, swap.from_variant, swap.to_variant) == ("repair", "fp32", "int8"), "nothing explains it"
    d.memory = Memory(quarantined=(Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1),))
    (swap,) = d.plan().swaps
    assert (swap.direction, swap.to_variant) == ("repair", "fp32")
    assert "int8 failed on a host: canary" in swap.reason
    assert revalidate(d.plan(), d.snapshot, d.snapshot, d.config).swaps == (swap,)


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
