"""Why is it so, what would happen if, what would it take: asked of a controller that has seen something."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from budgets.config import Budget, ModelPolicy, Slo
from budgets.plan import Decision, Memory, Plan, Pressure, Quarantine, Trigger
from budgets.pressure import History, assess
from budgets.questions import restore_needs, what_if, why
from budgets.snapshot import Reading
from tests.budgets.asking import MIB, NOW, Make, degraded, step, used
from variants.catalog import Catalog
from variants.errors import Conflict, UnknownBudget, UnknownModel


def seen(d: Any) -> Decision:
    """The decision of one tick at the desk."""
    return Decision(
        at=NOW,
        snapshot=d.snapshot,
        pressures=assess(d.snapshot.readings, d.config, History()),
        triggers=d.triggers,
        plan=d.plan(),
        memory=d.memory,
    )


def test_what_a_smaller_and_a_larger_budget_would_do(desk: Make) -> None:
    d = desk()
    d.usage = used(700)
    smaller = what_if(d.catalog, d.config, seen(d), "ram", -250 * MIB)
    assert [(s["to_variant"], s["direction"]) for s in smaller["swaps"]] == [("int8", "degrade")]
    assert (smaller["limit"], smaller["usage"], smaller["infeasible"]) == (750.0 * MIB, 700.0 * MIB, [])
    assert sorted(smaller["assignment"].values()) == ["fp32", "fp32", "int8"]
    assert json.loads(json.dumps(smaller)) == smaller
    much = what_if(d.catalog, d.config, seen(d), "ram", -900 * MIB)
    assert set(much["assignment"].values()) == {"tiny"}
    assert much["infeasible"] == ["ram"]
    assert what_if(d.catalog, d.config, seen(d), "ram", -10 * MIB)["swaps"] == []
    d = degraded(desk(), step("a"), step("b"))
    d.usage = used(750)
    larger = what_if(d.catalog, d.config, seen(d), "ram", 300 * MIB)
    assert [(s["model"], s["to_variant"], s["direction"]) for s in larger["swaps"]] == [
        ("b", "fp32", "restore"),
        ("a", "fp32", "restore"),
    ]


def test_a_what_if_follows_the_reading_that_each_swap_would_leave(desk: Make) -> None:
    d = degraded(desk(), step("a"), step("b"))
    d.usage = used(650)
    one = what_if(d.catalog, d.config, seen(d), "ram", 0)
    assert [s["model"] for s in one["swaps"]] == ["b"], "with b restored there is no room for a"


def test_what_a_swap_takes_of_one_memory_is_not_taken_of_another(
    desk: Make, catalog_of: Callable[..., Catalog]
) -> None:
    """`g` lives on the GPU alone: RAM, which is nearly full, does not feel it."""
    ladder = [("fp32", 200, 1.0, 0.02), ("int8", 70, 0.98, 0.005)]
    catalog = catalog_of({"a": ladder, "g": ladder})
    g = catalog.entries["g"]
    on_gpu = {
        name: v.model_copy(
            update={
                "profiles": tuple(
                    p.model_copy(update={"resident_bytes": 0, "device_bytes": p.resident_bytes}) for p in v.profiles
                )
            }
        )
        for name, v in g.variants.items()
    }
    entries = {**catalog.entries, "g": g.model_copy(update={"variants": on_gpu})}
    d = degraded(desk(catalog.model_copy(update={"entries": entries})), step("g"))
    d.usage = used(800)
    before = seen(d)
    gpu = Budget(name="gpu", resource="gpu_memory", scope="trimtab", limit=1000 * MIB, enter=0.9, exit=0.75)
    config = d.config.model_copy(update={"budgets": (*d.config.budgets, gpu)})
    pressure = Pressure(name="gpu", ratio=0.8, usage=800.0 * MIB, limit=1000.0 * MIB)
    last = before.model_copy(
        update={"pressures": (*before.pressures, pressure), "triggers": (*before.triggers, Trigger(name="gpu"))}
    )
    told = what_if(catalog.model_copy(update={"entries": entries}), config, last, "gpu", 300 * MIB)
    assert [(s["model"], s["to_variant"]) for s in told["swaps"]] == [("g", "fp32")]


def test_what_if_errors(desk: Make) -> None:
    d = desk()
    with pytest.raises(UnknownBudget, match="there are: ram"):
        what_if(d.catalog, d.config, seen(d), "gpu", 1)
    with pytest.raises(Conflict, match="cannot be"):
        what_if(d.catalog, d.config, seen(d), "ram", -2000 * MIB)
    assert what_if(d.catalog, d.config, None, "ram", 1)["missing"] == "nothing was observed yet"
    d.usage = used(700, at=NOW - 100)
    assert what_if(d.catalog, d.config, seen(d), "ram", 1)["missing"] == "stale: 100 s old"


def test_what_a_restore_would_take_in_memory(desk: Make) -> None:
    d = degraded(desk(), step("a", to_variant="tiny"))
    d.usage = used(760)
    needs = restore_needs(d.catalog, d.config, seen(d), "a")
    assert (needs["variant"], needs["waits_for"]) == ("tiny", [])
    nearest, best = needs["rungs"]
    assert (nearest["variant"], nearest["obstacles"]) == ("int8", [])
    (memory,) = best["obstacles"]
    assert (memory["kind"], memory["name"]) == ("memory", "ram")
    assert (memory["value"], memory["allowed"], memory["by"]) == (930 * MIB, 850 * MIB, 80 * MIB)
    assert json.loads(json.dumps(needs)) == needs


def test_what_a_restore_would_take_in_latency(desk: Make) -> None:
    d = degraded(desk(a=ModelPolicy(slo=Slo(latency_seconds=0.1))), step("a"))
    d.rates, d.latencies = {"a": Reading(value=30.0, at=NOW)}, {"a": Reading(value=0.01, at=NOW)}
    (rung,) = restore_needs(d.catalog, d.config, seen(d), "a")["rungs"]
    (late,) = rung["obstacles"]
    assert late["kind"] == "latency"
    assert late["value"] > late["allowed"] == pytest.approx(0.07)
    assert rung["rate"] == 30.0
    most = rung["rate_at_most"]
    d.rates = {"a": Reading(value=most * 0.999, at=NOW)}
    assert restore_needs(d.catalog, d.config, seen(d), "a")["rungs"][0]["obstacles"] == []
    d.rates = {"a": Reading(value=most * 1.001, at=NOW)}
    assert restore_needs(d.catalog, d.config, seen(d), "a")["rungs"][0]["obstacles"] != []


def test_what_else_is_waited_for(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    d.memory = d.memory.model_copy(
        update={
            "planned_at": NOW - 1,
            "quarantined": (Quarantine(model="a", variant="fp32", reason="shadow: far apart"),),
        }
    )
    d.states, d.pins = {"ram": "scaling"}, {"a": "int8"}
    needs = restore_needs(d.catalog, d.config, seen(d), "a")
    assert needs["waits_for"] == ["it is pinned to int8", "ram is scaling", "cooldown: 2 s left"]
    assert needs["rungs"][0]["quarantined"] == "shadow: far apart"
    with pytest.raises(UnknownModel, match="a, b, c"):
        restore_needs(d.catalog, d.config, seen(d), "nobody")


def test_why(desk: Make) -> None:
    d = desk()
    assert why([], None, "a") == {"variant": None, "since": None, "swap": None, "quarantined": []}
    d.usage, d.states = used(940), {"ram": "scaling"}
    first = seen(d)
    model = first.plan.swaps[0].model
    later = Decision(
        at=NOW + 5, snapshot=None, plan=Plan(generation=8, assignment=first.plan.assignment), memory=Memory()
    )
    told = why([first, later], later, model)
    assert (told["variant"], told["since"]) == ("int8", NOW)
    assert told["swap"]["trigger"] == "ram"
    assert told["pressures"][0]["ratio"] == pytest.approx(0.94)
    assert told["alternatives"][0]["chosen"]
    assert len(told["alternatives"]) > 2
    other = next(m for m in "abc" if m != model)
    assert why([first, later], later, other)["swap"] is None
