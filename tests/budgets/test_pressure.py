"""Readings to pressures, pressures to triggers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.config import Budget, BudgetsConfig, ModelPolicy, Slo
from budgets.plan import Pressure, Trigger
from budgets.pressure import SAMPLES, History, advance, assess, slope
from budgets.snapshot import Missing, ModelReadings, Observed, Reading, Readings, Usage

RAM = Budget(name="ram", resource="ram", limit=1000, enter=0.9, exit=0.75, enter_seconds=2, exit_seconds=4)
CONFIG = BudgetsConfig(budgets=(RAM,), models={"m": ModelPolicy(slo=Slo(latency_seconds=0.2))})


def readings(at: float = 100.0, **fields: Observed) -> Readings:
    known: dict[str, Any] = {
        "rate": Reading(value=5.0, at=at),
        "latency": Reading(value=0.1, at=at),
        "queue": Reading(value=0, at=at),
        "busy": Reading(value=0, at=at),
        "service": Reading(value=0.01, at=at),
    }
    usage = fields.pop("usage", Reading(value=500.0, at=at))
    limit = fields.pop("limit", Reading(value=1000.0, at=at))
    model = ModelReadings(model="m", **{**known, **fields})
    return Readings(at=at, budgets=(Usage(budget="ram", usage=usage, limit=limit),), models=(model,))


def by_name(seen: Readings, history: History | None = None, config: BudgetsConfig = CONFIG) -> dict[str, Pressure]:
    return {p.name: p for p in assess(seen, config, history or History())}


def test_ratios() -> None:
    seen = by_name(readings())
    assert seen["ram"].ratio == 0.5
    assert seen["slo:m"].ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("fields", "name", "why"),
    [
        ({"usage": Missing(reason="endpoint down")}, "ram", "endpoint down"),
        ({"limit": Missing(reason="no such metric")}, "ram", "no such metric"),
        ({"usage": Reading(value=1.0, at=50.0)}, "ram", "stale: 50 s old"),
        ({"limit": Reading(value=0.0, at=100.0)}, "ram", "the limit is 0"),
        ({"latency": Missing(reason="endpoint down")}, "slo:m", "endpoint down"),
        ({"latency": Reading(value=9.0, at=50.0)}, "slo:m", "stale: 50 s old"),
        ({"rate": Missing(reason="r"), "latency": Missing(reason="no traffic")}, "slo:m", "no traffic"),
        ({"rate": Reading(value=0.0, at=50.0), "latency": Missing(reason="no traffic")}, "slo:m", "no traffic"),
    ],
)
def test_what_is_not_known_has_no_ratio(fields: dict[str, Observed], name: str, why: str) -> None:
    seen = by_name(readings(**fields))[name]
    assert seen.ratio is None
    assert seen.missing == why


def test_no_traffic_is_no_latency_pressure() -> None:
    seen = by_name(readings(rate=Reading(value=0.0, at=100.0), latency=Missing(reason="no traffic")))
    assert seen["slo:m"].ratio == 0.0


def test_a_budget_or_model_that_the_source_does_not_know() -> None:
    nothing = Readings(at=100.0, budgets=(), models=())
    seen = by_name(nothing)
    assert {name: p.ratio for name, p in seen.items()} == {"ram": None, "slo:m": None}
    assert all("does not know" in p.missing for p in seen.values())


def test_the_trend_says_when_the_limit_is_reached() -> None:
    history = History()
    for second in range(10):
        history = history.remember(readings(float(second), usage=Reading(value=500.0 + 20 * second, at=float(second))))
    seen = by_name(readings(9.0, usage=Reading(value=680.0, at=9.0)), history)["ram"]
    assert seen.slope == pytest.approx(20.0)
    assert seen.seconds_to_exhaustion == pytest.approx(16.0)


def test_history_is_bounded_and_takes_a_reading_once() -> None:
    history = History()
    for second in range(3 * SAMPLES):
        history = history.remember(readings(float(second))).remember(readings(float(second)))
    times = [at for at, _ in history.usage["ram"]]
    assert times == [float(s) for s in range(2 * SAMPLES, 3 * SAMPLES)]


@given(
    rise=st.floats(-100, 100),
    start=st.floats(-1e3, 1e3),
    spike=st.tuples(st.integers(0, 14), st.floats(-1e6, 1e6)),
)
def test_one_spike_does_not_turn_the_trend(rise: float, start: float, spike: tuple[int, float]) -> None:
    clean = [(float(t), start + rise * t) for t in range(15)]
    spiked = list(clean)
    spiked[spike[0]] = (float(spike[0]), spike[1])
    assert slope(tuple(clean)) == pytest.approx(rise, abs=1e-6)
    assert slope(tuple(spiked)) == pytest.approx(rise, abs=1e-6)


def test_no_trend_without_three_readings() -> None:
    assert slope(()) == slope(((1.0, 1.0), (2.0, 5.0))) == 0.0


def walk(ratios: list[float | None], trigger: Trigger | None = None, config: BudgetsConfig | None = None) -> list[str]:
    """The RAM trigger's state after each second's ratio."""
    config = config or BudgetsConfig(budgets=(RAM,))
    triggers = (trigger or Trigger(name="ram"),)
    states = []
    for second, ratio in enumerate(ratios):
        triggers = advance(triggers, (Pressure(name="ram", ratio=ratio),), config, float(second))
        states.append(triggers[0].state)
    return states


C, S, X = "calm", "scaling", "saturated"


@pytest.mark.parametrize(
    ("ratios", "states"),
    [
        ([0.89] * 4, [C] * 4),
        ([0.9] * 4, [C, C, S, S]),  # two seconds at or above enter
        ([0.95, 0.95, 0.5, 0.95, 0.95, 0.95], [C, C, C, C, C, S]),  # a dip starts the wait again
        ([1.2] * 4, [C, C, X, X]),
        ([0.95, 0.95, 0.95, 1.0, 0.95, 0.8], [C, C, S, X, X, S]),  # above enter, what was saturated stays so
        ([0.95] * 3 + [0.8] * 9, [C, C] + [S] * 10),  # between exit and enter nothing changes
        ([0.95] * 3 + [0.75] * 6, [C, C, S, S, S, S, S, C, C]),  # four seconds at or below exit
        ([0.95] * 3 + [0.7] * 3 + [0.8] + [0.7] * 5, [C, C] + [S] * 9 + [C]),  # a bump starts that wait again
        ([None] * 5, [C] * 5),
        ([0.95] * 3 + [None] * 20 + [0.9], [C, C] + [S] * 22),  # missing: stays
        ([0.95] * 3 + [0.7] * 3 + [None] + [0.7] * 4, [C, C] + [S] * 9),  # and does not count as calm time
        ([0.95, None, 0.95, 0.95, 0.95], [C, C, C, C, S]),  # nor as time under pressure
    ],
)
def test_triggers(ratios: list[float | None], states: list[str]) -> None:
    assert walk(ratios) == states


def test_an_slo_trigger_saturates_at_its_enter_threshold_when_that_is_above_one() -> None:
    loose = RAM.model_copy(update={"enter": 1.2, "exit": 0.9})
    assert walk([1.1] * 4, config=BudgetsConfig(budgets=(loose,))) == [C] * 4
    assert walk([1.2] * 3, config=BudgetsConfig(budgets=(loose,))) == [C, C, X]


def test_triggers_follow_the_configuration() -> None:
    """One that is new starts calm; one that is gone is dropped."""
    old = (Trigger(name="gone", state="scaling"), Trigger(name="ram", state="scaling", since=1.0))
    made = advance(old, (Pressure(name="ram", ratio=0.95),), CONFIG, 5.0)
    assert {t.name: t.state for t in made} == {"ram": "scaling", "slo:m": "calm"}
    assert made[0].since == 1.0
