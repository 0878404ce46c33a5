"""What a model's rate will be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from budgets.fleet.forecast import Forecasts, Terms

TERMS = Terms(sigmas=0.0, surge=1.0)


class Forecast:
    """One model's."""

    def __init__(self, terms: Terms | None = None) -> None:
        self._all = Forecasts(1, terms)

    def take(self, now: float, rate: float) -> None:
        self._all.take(now, np.array([rate]))

    def __getattr__(self, name: str) -> float:
        return float(getattr(self._all, name)[0])

    def with_chance(self, rate: float) -> float:
        return float(self._all.with_chance(np.array([rate]))[0])


def fed(rates: list[float], terms: Terms = TERMS) -> Forecast:
    made = Forecast(terms)
    for second, rate in enumerate(rates):
        made.take(float(second), rate)
    return made


def test_nothing_was_seen_yet() -> None:
    assert (Forecast().expected, Forecast().peak) == (0.0, 0.0)


def test_a_steady_rate_is_expected_as_it_is() -> None:
    made = fed([100.0] * 30)
    assert made.expected == pytest.approx(100.0)
    assert made.peak == pytest.approx(100.0)


def test_chance_moves_the_level_slowly_and_a_spike_at_once() -> None:
    chance = fed([100.0] * 10 + [120.0])  # two standard deviations of a second's arrivals
    assert chance.level == pytest.approx(100 + 20 * (1 - math.exp(-1 / 5)))
    spike = fed([100.0] * 10 + [140.0])
    assert spike.level == pytest.approx(132.0)
    gone = fed([100.0] * 10 + [140.0, 100.0])
    assert gone.level == pytest.approx(132 - 32 * (1 - math.exp(-1 / 5)))


def test_a_fall_is_followed_slowly_only() -> None:
    made = fed([100.0] * 10 + [0.0])
    assert made.level == pytest.approx(100 * math.exp(-1 / 5))


def test_a_rise_is_followed_ahead_and_noise_is_not() -> None:
    rising = fed([100.0 + 10 * s for s in range(40)])
    assert rising.rise == pytest.approx(10.0, rel=0.1)
    assert rising.expected == pytest.approx(rising.level + 5 * rising.rise)
    assert rising.expected > 490
    falling = fed([500.0 - 10 * s for s in range(40)])
    assert falling.expected == falling.level
    draw = np.random.default_rng(3)
    made = Forecast(TERMS)
    off = []
    for second in range(400):
        made.take(float(second), float(draw.poisson(100)))
        off.append(made.expected / 100)
    assert np.mean(off) == pytest.approx(1.0, abs=0.03)
    assert np.quantile(off[20:], 0.95) < 1.15


def test_one_surprise_is_a_step_and_two_in_a_row_begin_a_rise() -> None:
    step = fed([100.0] * 10 + [200.0])
    assert step.level == pytest.approx(180.0)
    assert step.expected == pytest.approx(180 + 5 * 80 * (1 - math.exp(-1 / 10)))
    stood = fed([100.0] * 10 + [200.0] * 20)
    assert stood.expected == pytest.approx(200.0, rel=0.05)
    rise = fed([100.0] * 10 + [200.0, 300.0])
    assert rise.level == pytest.approx(276.0)
    assert rise.rise == pytest.approx((step.rise + 96) / 2)  # half of the newest slope is believed
    assert rise.expected == pytest.approx(276 + 5 * rise.rise)
    # No more than as much again as there is.
    assert fed([100.0] * 10 + [200.0, 300.0, 400.0]).expected == pytest.approx(2 * 375.2)


def test_a_sudden_rise_is_forgotten_as_soon_as_it_was_believed() -> None:
    crowd = [100.0] * 10 + [200.0, 300.0, 400.0]
    assert fed([*crowd, *[400.0] * 3]).expected < 450
    assert fed([*crowd, *[400.0] * 6]).expected == pytest.approx(400.0, rel=0.03)


def test_a_rise_that_has_lasted_finds_room_for_as_long_again_and_a_step_does_not() -> None:
    ramp = [100.0] * 40 + [100.0 + 5 * second for second in range(31)]
    assert fed(ramp[:50], TERMS).lasting == fed(ramp[:50]).level  # in one half of the time only
    made = fed(ramp)
    assert made.lasting == pytest.approx(made.level + 100, rel=0.02)
    assert made.peak == made.lasting > made.expected
    # Of a step no more than what the level still had to follow in the second half.
    stepped = [fed(([100.0] * 40 + [200.0] * 30)[:second]) for second in range(41, 70)]
    assert max(s.lasting - s.level for s in stepped) < 0.36 * 100
    assert stepped[0].lasting == stepped[0].level
    assert fed([100.0 + 5 * second for second in range(15)]).lasting < 170  # not seen for long enough


def test_a_peak_that_comes_again_may_be_a_little_higher() -> None:
    rates = [100.0] * 10 + [400.0] * 30 + [100.0] * 60
    assert fed(rates, Terms(sigmas=0.0)).peak == pytest.approx(1.08 * 400, rel=0.01)


def test_a_peak_is_remembered_for_its_time() -> None:
    rates = [100.0] * 10 + [400.0] * 5
    assert fed([*rates, *[100.0] * 100]).peak == pytest.approx(400.0, rel=0.02)
    late = fed([*rates, *[100.0] * 200])
    assert late.peak == pytest.approx(100.0, rel=0.01)


def test_room_is_planned_for_a_surge_and_for_chance() -> None:
    made = fed([100.0] * 5, Terms(sigmas=2.0, surge=1.5, burst=0.25))
    assert made.peak == pytest.approx(150 + 2 * math.sqrt(150 / 0.25))
    assert made.with_chance(100.0) == pytest.approx(140.0)
    assert made.with_chance(0.0) == 0.0


def test_what_rates_scatter_is_learnt_and_is_no_surprise() -> None:
    draw = np.random.default_rng(5)
    calm, wild = Forecasts(1, Terms()), Forecasts(1, Terms())
    seen = {"calm": 0, "wild": 0}
    for second in range(300):
        rate = float(draw.poisson(100))
        for name, made, taken in (("calm", calm, rate), ("wild", wild, rate * float(np.exp(draw.normal(0, 0.3))))):
            before = float(made.level[0])
            made.take(float(second), np.array([taken]))
            if second >= 100:
                seen[name] += int(made.level[0] > max(before, 0.5 * (before + taken)))  # it was believed at once
    assert calm.scatter[0] < 1.6
    assert 5.0 < wild.scatter[0] < 20.0  # a standard deviation of 30 in place of 10
    assert max(seen.values()) < 10
    # Room is kept for it.
    assert calm.peak[0] < 125 < wild.peak[0]
    further = [float(rates[0]) for rates in wild.beyond]
    assert further == sorted(further)
    assert further[0] == pytest.approx(1.25 * wild.peak[0])


def test_a_trend_or_a_step_is_not_scatter() -> None:
    assert fed([100.0 + 10 * s for s in range(60)]).scatter < 1.3
    assert fed([100.0] * 60 + [400.0] * 10).scatter < 1.3
    assert fed([0.0] * 100).scatter == 1.0


def test_ticks_may_be_uneven() -> None:
    made = Forecast(TERMS)
    made.take(0.0, 10.0)
    made.take(0.0, 10.0)
    made.take(60.0, 11.0)
    assert made.level == pytest.approx(11.0, abs=0.2)


def test_room_for_a_surge_shrinks_while_what_comes_is_what_was_expected() -> None:
    terms = Terms(sigmas=0.0)
    assert fed([100.0] * 3, terms).surge == 1.2
    assert fed([100.0] * 20, terms).surge > fed([100.0] * 60, terms).surge
    assert fed([100.0] * 300, terms).surge == terms.calm
    assert fed([100.0] * 300, terms).peak == pytest.approx(100.0 * terms.calm)


def test_a_load_that_was_not_foreseen_asks_for_more_room_again() -> None:
    terms = Terms(sigmas=0.0)
    calm = [100.0] * 300
    surprised = fed([*calm, *[140.0] * 5], terms)
    assert terms.calm < surprised.surge <= terms.surge
    wild = fed([100.0 + 60.0 * (second // 10 % 2) for second in range(300)], terms)
    assert wild.surge > 1.15


def test_models_are_foreseen_each_by_itself_and_peaks_are_forgotten_in_time() -> None:
    draw = np.random.default_rng(7)
    rates = np.exp(draw.normal(3.0, 1.0, (400, 3)))
    together = Forecasts(3)
    alone = [Forecasts(1) for _ in range(3)]
    levels: list[np.ndarray] = []
    for second, row in enumerate(rates):
        together.take(float(second), row)
        levels.append(together.level)
        for model, one in enumerate(alone):
            one.take(float(second), row[model : model + 1])
            assert one.peak[0] == together.peak[model]
            assert one.expected[0] == together.expected[model]
            assert one.lasting[0] == together.lasting[model]
        highest = np.max(levels[-121:], axis=0) * together.terms.calm
        most = np.maximum.reduce([together.expected * together.surge, highest, together.lasting])
        assert together.peak == pytest.approx(together.with_chance(most))
