"""Trends, peaks and seasons; relief before the wall; restores under the predicted peak."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from budgets.config import BudgetsConfig, ControllerConfig, ModelPolicy, Slo
from budgets.forecast import Past, Series
from budgets.outlook import Ahead, Outlook
from budgets.plan import Memory
from budgets.planner import plan
from budgets.snapshot import Reading
from tests.budgets.asking import MIB, NOW, Make, degraded, moves, step, used


def series(value: Callable[[float], float], seconds: int, keep: float = 3600.0) -> Series:
    made = Series()
    for at in range(seconds):
        made = made.add(float(at), value(float(at)), keep)
    return made


@pytest.mark.parametrize(
    ("value", "trend"),
    [
        (lambda t: 100 + 2 * t, 2.0),
        (lambda t: 100 - 2 * t, -2.0),
        (lambda t: 5.0, 0.0),
        (lambda t: 5.0 if t != 55 else 5000.0, 0.0),  # a spike
        (lambda t: 100 + 2 * t + (900 if t == 52 else 0), 2.0),  # a spike on a rise
        (lambda t: 100.0 if t < 50 else 900.0, 0.0),  # a step in the middle of the last readings
    ],
)
def test_trend(value: Callable[[float], float], trend: float) -> None:
    assert series(value, 60).trend() == pytest.approx(trend, abs=0.05)


def test_a_trend_needs_readings() -> None:
    assert series(lambda t: 2 * t, 7).trend() == 0.0


def test_history_is_bounded_and_keeps_peaks() -> None:
    made = series(lambda t: 900.0 if t == 12 else 1.0, 500, keep=100.0)
    assert len(made.steps) <= 22
    assert made.peak(0, 500) == 1.0
    assert series(lambda t: 900.0 if t == 412 else 1.0, 500, keep=100.0).peak(405, 420) == 900.0
    assert made.peak(-100, -50) is None
    assert made.span(499.0) == pytest.approx(99, abs=6)


@pytest.mark.parametrize("period", [60, 300])
def test_a_season_is_found_in_two_periods(period: int) -> None:
    tooth = series(lambda t: t % period, 3 * period)
    assert tooth.period() == pytest.approx(period, abs=5)
    wave = series(lambda t: 50 + 40 * math.sin(2 * math.pi * t / period), 3 * period)
    assert wave.period() == pytest.approx(period, abs=5)


@pytest.mark.parametrize(
    "value", [lambda t: 7.0, lambda t: t, lambda t: (t * 7919 % 101) * (t * 104729 % 97), lambda t: float(t > 150)]
)
def test_no_season_where_there_is_none(value: Callable[[float], float]) -> None:
    assert series(value, 300).period() is None


def test_the_outlook_looks_back_and_a_season_ahead() -> None:
    settings = BudgetsConfig(controller=ControllerConfig(peak_seconds=20))
    now = 649.0  # 50 s into a period of 100 s whose peak comes at its 60th second
    tooth = series(lambda t: 900.0 if 60 <= t % 100 < 70 else 10.0, 650)
    ahead = Past(rates={"a": tooth}).outlook(settings, now).rates["a"]
    assert ahead.season_seconds == pytest.approx(100, abs=5)
    assert (ahead.now, ahead.peak(20)) == (10.0, 900.0), "it will come again within 20 s"
    at_rest = Past(rates={"a": tooth}).outlook(settings, 610.0).rates["a"]
    assert at_rest.peaks[0][0] == 20
    once = series(lambda t: 900.0 if 300 <= t < 310 else 10.0, 400)
    ahead = Past(rates={"a": once}).outlook(settings, 399.0).rates["a"]
    assert (ahead.peak(20), ahead.peak(40), ahead.peak(80), ahead.peak(160)) == (10.0, 10.0, 10.0, 900.0)


def test_own_swaps_are_neither_trend_nor_peak(desk: Make) -> None:
    d, past = desk(), Past()
    past = past.remember(d.snapshot, d.catalog, d.config, 0.0)
    assert past.budgets["ram"].recent == ((NOW, 0.0),), "600 MiB are the three models' own"
    d.assignment["a"], d.usage = "int8", used(470, at=NOW + 1)
    past = past.remember(d.snapshot, d.catalog, d.config, 0.0)
    assert [v for _, v in past.budgets["ram"].recent] == [0.0, 0.0]
    d.usage = used(999, at=NOW + 2)
    assert past.remember(d.snapshot, d.catalog, d.config, NOW + 5) == past.model_copy(
        update={"rates": past.remember(d.snapshot, d.catalog, d.config, NOW + 5).rates}
    ), "a reading from before a swap ended"
    d.swapping = ("a",)
    assert past.remember(d.snapshot, d.catalog, d.config, 0.0).budgets == past.budgets


def decide(d: Any, outlook: Outlook) -> Any:
    return plan(d.catalog, d.snapshot, d.pressures, d.triggers, d.config, d.memory, NOW, outlook)


def rising(mib_per_second: float) -> Outlook:
    return Outlook(budgets={"ram": Ahead(now=0.0, trend=mib_per_second * MIB, span=1000.0)})


def test_relief_comes_before_the_wall(desk: Make) -> None:
    d = desk()  # relief takes 0.1 s of loading, two ticks and three seconds
    d.usage = used(800)
    made = decide(d, rising(50))
    assert {(s.direction, s.ahead) for s in made.swaps} == {("degrade", True)}
    assert "ram will be used up in 4 s (rising 50.0 MiB/s), relief takes 5 s" in made.swaps[0].reason
    assert decide(d, rising(30)).swaps == ()
    assert decide(d, rising(-50)).swaps == ()
    assert sum(s.bytes_planned for s in decide(d, rising(100)).swaps) > sum(s.bytes_planned for s in made.swaps)


def test_missing_and_old_readings_foretell_nothing(desk: Make) -> None:
    d = desk()
    d.usage = used(800)
    d.memory = Memory(ended_at=NOW + 1)
    assert decide(d, rising(50)).swaps == ()
    d = desk()
    d.usage = used(800, at=NOW - 100)
    assert decide(d, rising(50)).swaps == ()


def test_a_rate_that_will_break_an_objective(desk: Make) -> None:
    d = desk(a=ModelPolicy(slo=Slo(latency_seconds=0.15)))
    d.rates, d.latencies = {"a": Reading(value=25.0, at=NOW)}, {"a": Reading(value=0.06, at=NOW)}
    calm = Outlook(rates={"a": Ahead(now=25.0, trend=0.1, span=1000.0)})
    assert decide(d, calm).swaps == ()
    soon = Outlook(rates={"a": Ahead(now=25.0, trend=5.0, span=1000.0)})
    made = decide(d, soon)
    assert moves(made) == {"a": "int8"}
    assert "rising 5.0/s each second" in made.swaps[0].reason


def test_a_restore_must_hold_under_the_predicted_peak(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    d.usage = used(600)

    def outlook(peak: float, span: float = 1000.0, trend: float = 0.0) -> Outlook:
        ahead = Ahead(now=200.0 * MIB, trend=trend * MIB, peaks=((60.0, peak * MIB), (120.0, 900.0 * MIB)), span=span)
        return Outlook(budgets={"ram": ahead})

    assert moves(decide(d, outlook(250))) == {"a": "fp32"}
    held = decide(d, outlook(350))
    assert held.swaps == ()
    assert "ram would be at 880 MiB of at most 850 MiB at the predicted peak (150 MiB above now)" in d.holds(held)
    assert "history: ram is known for 30 s of 60 s" in d.holds(decide(d, outlook(250, span=30.0)))
    assert "not restored" in d.holds(decide(d, outlook(250, trend=30.0)))
    d.memory = d.memory.model_copy(update={"regrets": {"a/fp32": 1}})
    assert "predicted peak" in d.holds(decide(d, outlook(250))), "who was regretted looks back twice as far"


def test_swaps_of_an_hour_are_counted(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    d.controller = d.controller.model_copy(update={"swaps_per_hour": 2})
    d.usage = used(600)
    d.memory = d.memory.model_copy(update={"planned": (NOW - 3700, NOW - 3500, NOW - 10)})
    assert "2 swaps within the hour are used up" in d.holds()
    d.usage, d.states = used(930), {"ram": "scaling"}
    assert "2 swaps within the hour are used up" in d.holds()
    d.states = {"ram": "saturated"}
    assert d.plan().swaps, "an emergency is exempt"
