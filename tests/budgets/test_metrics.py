"""What the controller exposes of a decision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from budgets import exposition as names
from budgets.config import Budget, BudgetsConfig, ModelPolicy, Slo
from budgets.metrics import ByGroup, ControllerMetrics
from budgets.plan import Decision, Memory, Plan, Pressure, Quarantine, Swap, Trigger
from budgets.snapshot import SwapRecord

CONFIG = BudgetsConfig(
    budgets=(Budget(name="ram", resource="ram", enter=0.9, exit=0.75),),
    models={"a": ModelPolicy(slo=Slo(latency_seconds=0.1, quantile=0.95))},
)
NO_PLAN = Plan(generation=3, assignment={})
Sample = Callable[..., float | None]


@pytest.fixture
def metrics() -> tuple[ControllerMetrics, Sample]:
    registry = CollectorRegistry()
    return ControllerMetrics(registry, CONFIG), lambda name, **labels: registry.get_sample_value(name, labels)


def decision(**changes: Any) -> Decision:
    return Decision(**{"at": 100.0, "snapshot": None, "plan": NO_PLAN, **changes})


def test_thresholds_and_objectives_are_there_before_the_first_tick(metrics: tuple[ControllerMetrics, Sample]) -> None:
    _, sample = metrics
    assert sample(names.PRESSURE_THRESHOLD, budget="ram", edge="enter") == 0.9
    assert sample(names.PRESSURE_THRESHOLD, budget="ram", edge="exit") == 0.75
    assert sample(names.PRESSURE_THRESHOLD, budget="slo:a", edge="exit") == 0.7
    assert sample(names.SLO_LATENCY, model="a", quantile="0.95") == 0.1
    assert sample(names.TICKS, outcome="error") == 0


def test_a_pressure_that_is_missing_is_not_exposed(metrics: tuple[ControllerMetrics, Sample]) -> None:
    made, sample = metrics
    made.tick(decision(pressures=(Pressure(name="ram", ratio=0.8, seconds_to_exhaustion=40.0),)), 0.25, {"ram": 2.0})
    assert sample(names.PRESSURE, budget="ram") == 0.8
    assert sample(names.EXHAUSTION, budget="ram") == 40
    assert sample(names.LAST_TICK) == 100.25
    assert sample(names.SOURCE_AGE, budget="ram") == 2
    made.tick(decision(pressures=(Pressure(name="ram", ratio=None, missing="stale"),)), 0.1, {})
    assert sample(names.PRESSURE, budget="ram") is None
    assert sample(names.EXHAUSTION, budget="ram") is None


def test_what_does_not_rise_is_never_exhausted_and_an_slo_has_no_exhaustion(
    metrics: tuple[ControllerMetrics, Sample],
) -> None:
    made, sample = metrics
    made.tick(decision(pressures=(Pressure(name="ram", ratio=0.5), Pressure(name="slo:a", ratio=0.2))), 0.1, {})
    assert sample(names.EXHAUSTION, budget="ram") == math.inf
    assert sample(names.EXHAUSTION, budget="slo:a") is None
    assert sample(names.PRESSURE, budget="slo:a") == 0.2


def test_triggers_and_which_of_them_nothing_relieves(metrics: tuple[ControllerMetrics, Sample]) -> None:
    made, sample = metrics
    triggers = (Trigger(name="ram", state="saturated"), Trigger(name="slo:a", state="calm"))
    made.tick(decision(triggers=triggers, plan=NO_PLAN.model_copy(update={"infeasible": ("ram",)})), 0.1, {})
    assert sample(names.TRIGGER, budget="ram") == 2
    assert sample(names.INFEASIBLE, budget="ram") == 1
    assert sample(names.INFEASIBLE, budget="slo:a") == 0
    made.tick(decision(triggers=triggers), 0.1, {})
    assert sample(names.INFEASIBLE, budget="ram") == 0


def test_swaps_predicted_and_measured(metrics: tuple[ControllerMetrics, Sample]) -> None:
    made, sample = metrics
    swap = Swap(
        model="a", from_variant="int8", to_variant=None, direction="degrade", mode="make_before_break",
        bytes_planned=500, quality_from=0.9, quality_to=0.0, trigger="ram", reason="-",
    )  # fmt: skip
    made.tick(decision(plan=Plan(generation=4, assignment={"a": None}, swaps=(swap,))), 0.1, {})
    pair = {"model": "a", "from_variant": "int8", "to_variant": "parked"}
    assert sample(names.PLANNED_BYTES, **pair) == 500
    assert sample(names.PLANNED_AT, **pair, direction="degrade", trigger="ram") == 100
    assert sample(names.TICKS, outcome="swap") == 1
    assert sample(names.PLAN_GENERATION) == 4
    record = SwapRecord(
        generation=4, model="a", from_variant="int8", to_variant=None, mode="make_before_break", started=101,
        seconds=1, bytes_measured=460, outcome="done",
    )  # fmt: skip
    made.tick(decision(outcomes=(record,)), 0.1, {})
    assert sample(names.MEASURED_BYTES, **pair) == 460
    made.tick(decision(outcomes=(record.model_copy(update={"bytes_measured": 9, "outcome": "failed"}),)), 0.1, {})
    assert sample(names.MEASURED_BYTES, **pair) == 460


def test_a_quarantine_is_exposed_while_it_lasts(metrics: tuple[ControllerMetrics, Sample]) -> None:
    made, sample = metrics
    held = Quarantine(model="a", variant="int8", reason="outputs differ", until=700)
    made.tick(decision(memory=Memory(quarantined=(held,))), 0.1, {})
    assert sample(names.QUARANTINED, model="a", variant="int8") == 1
    made.tick(decision(), 0.1, {})
    assert sample(names.QUARANTINED, model="a", variant="int8") is None


def test_metrics_of_several_groups_are_one_exposition() -> None:
    shown = ["default", "gpu"]
    groups, registry = ByGroup(lambda: shown), CollectorRegistry()
    registry.register(groups)
    for group, ratio in (("default", 0.5), ("gpu", 0.8)):
        made = ControllerMetrics(groups.registry(group), CONFIG)
        made.tick(decision(pressures=(Pressure(name="ram", ratio=ratio),)), 0.25, {})
    assert registry.get_sample_value(names.PRESSURE, {"budget": "ram"}) == 0.5
    assert registry.get_sample_value(names.PRESSURE, {"budget": "ram", names.GROUP: "gpu"}) == 0.8
    assert registry.get_sample_value(names.TICK_DURATION + "_count", {names.GROUP: "gpu"}) == 1
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if line.startswith(f"# TYPE {names.PRESSURE} ")] == [
        f"# TYPE {names.PRESSURE} gauge"
    ]
    shown.remove("default")
    assert registry.get_sample_value(names.PRESSURE, {"budget": "ram"}) is None
    assert registry.get_sample_value(names.PRESSURE, {"budget": "ram", names.GROUP: "gpu"}) == 0.8
