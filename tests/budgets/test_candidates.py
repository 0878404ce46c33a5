"""What the joint choice knows of each option, and what relief makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from budgets.candidates import down, weighed
from budgets.config import Budget, ModelPolicy, Slo
from budgets.degrade import relieve
from budgets.moves import Scene
from budgets.plan import Pressure, Trigger
from budgets.planner import scene_of
from budgets.snapshot import Missing, Reading
from tests.budgets.asking import NOW, Make, moves, used

CPU = Budget(name="cpu", resource="cpu", enter=0.9, exit=0.7)


def scene(d: Any) -> Scene:
    return scene_of(d.catalog, d.snapshot, d.pressures, d.triggers, d.config, d.memory, NOW)


def test_an_option_says_how_busy_a_host_is_with_it_and_how_long_it_loads(desk: Make) -> None:
    d = desk(a=ModelPolicy(weight=2.0))
    d.rates = {"a": Reading(value=30.0, at=NOW), "b": Reading(value=10.0, at=NOW)}
    options = {o.variant: o for o in down(scene(d), "a", [Trigger(name="ram")], [])}
    assert options["fp32"].busy == pytest.approx(0.6)
    assert options["tiny"].busy == pytest.approx(0.06)
    assert options["int8"].traffic == pytest.approx(2.0 * 0.75)
    assert options["int8"].cost == pytest.approx(2.0 * 0.75 * 0.02)
    assert options["int8"].loading == pytest.approx(0.1)
    assert options["fp32"].late == options["tiny"].late == 0.0


def test_what_does_not_fit_beside_goes_first_and_disturbs_more(desk: Make) -> None:
    d = desk()
    d.usage = used(950)  # 50 MiB are left: room for tiny (30) but not for int8 (70)
    options = {o.variant: o for o in down(scene(d), "a", [Trigger(name="ram")], [])}
    assert {v: o.beside for v, o in options.items()} == {"fp32": True, "int8": False, "tiny": True}
    d.usage = Missing(reason="endpoint down")
    assert not any(o.beside for o in down(scene(d), "a", [Trigger(name="ram")], [])[1:])


def test_no_model_is_made_late_by_what_others_need(desk: Make, catalog_of: Make) -> None:
    """`small` would free enough by itself at the least loss, but its calls take longer than the objective."""
    ladder = [("big", 400, 1.0, 0.01), ("small", 50, 0.999, 0.09), ("poor", 60, 0.8, 0.01)]
    d = desk(catalog_of({"a": ladder, "b": [("only", 100, 1.0, 0.01)]}), a=ModelPolicy(slo=Slo(latency_seconds=0.08)))
    d.usage, d.states = used(930), {"ram": "scaling"}
    d.rates = {"a": Reading(value=5.0, at=NOW)}
    assert moves(d.plan()) == {"a": "poor"}
    d.policies = {}
    assert moves(d.plan()) == {"a": "small"}
    # Without a rate nothing is foretold, and memory does not wait for it.
    d.policies = {"a": ModelPolicy(slo=Slo(latency_seconds=0.08))}
    d.rates = {"a": Missing(reason="no traffic")}
    assert moves(d.plan()) == {"a": "small"}


def test_a_model_that_is_late_by_prediction_alone_may_stay(desk: Make) -> None:
    """Its trigger is calm: what was measured is right."""
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.01)))
    d.rates = {"a": Reading(value=5.0, at=NOW)}
    current, *others = weighed(scene(d), scene(d).view.options["a"], [])
    assert (current.variant, current.late) == ("fp32", 0.0)
    assert [o.late for o in others] == [0.0, 0.0], "faster ones are not later than it"


def test_late_options_are_ordered_by_how_late(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.001)))
    d.rates = {"a": Reading(value=5.0, at=NOW)}
    pressed = [Trigger(name="slo:a", state="saturated")]
    late = {o.variant: o.late for o in weighed(scene(d), scene(d).view.options["a"], pressed)}
    assert 0.5 < late["tiny"] < late["int8"] < late["fp32"] == 1.0


def test_an_idle_model_is_parked_before_one_that_is_asked_for(desk: Make) -> None:
    d = desk(a=ModelPolicy(park=True), b=ModelPolicy(park=True))
    d.assignment = dict.fromkeys(d.assignment, "tiny")
    d.usage, d.states = used(875), {"ram": "scaling"}
    d.ram = d.ram.model_copy(update={"enter": 0.86, "exit": 0.7})
    d.controller = d.controller.model_copy(update={"headroom": 0.01})
    d.rates = {"a": Reading(value=50.0, at=NOW), "b": Reading(value=0.0, at=NOW)}
    assert moves(d.plan()) == {"b": None}
    d.rates = {"b": Reading(value=50.0, at=NOW), "a": Reading(value=0.0, at=NOW)}
    assert moves(d.plan()) == {"a": None}


def with_cpu(d: Any, usage: float) -> Scene:
    seen = scene(d)
    config = d.config.model_copy(update={"budgets": (*d.config.budgets, CPU)})
    cpu = Pressure(name="cpu", ratio=usage, usage=usage, limit=1.0)
    return Scene(
        d.catalog, d.snapshot, seen.view, (*d.pressures, cpu), (*d.triggers, Trigger(name="cpu")), config, d.memory, NOW
    )


def test_memory_relief_does_not_push_a_calm_compute_budget_over(desk: Make, catalog_of: Make) -> None:
    """`small` computes three times as long: half of the CPU would be more than all of it."""
    ladder = [("big", 400, 1.0, 0.01), ("small", 50, 0.999, 0.03), ("poor", 60, 0.8, 0.01)]
    d = desk(catalog_of({"a": ladder, "b": [("only", 100, 1.0, 0.01)]}))
    d.usage, d.states = used(930), {"ram": "scaling"}
    d.rates = {"a": Reading(value=15.0, at=NOW), "b": Reading(value=5.0, at=NOW)}
    assert {s.model: s.to_variant for s in relieve(with_cpu(d, 0.5)).swaps} == {"a": "poor"}
    assert {s.model: s.to_variant for s in relieve(with_cpu(d, 0.2)).swaps} == {"a": "small"}
    # Memory comes before compute: where nothing else is small enough, it goes over.
    d.catalog = catalog_of({"a": ladder[:2], "b": [("only", 100, 1.0, 0.01)]})
    assert {s.model: s.to_variant for s in relieve(with_cpu(d, 0.5)).swaps} == {"a": "small"}
