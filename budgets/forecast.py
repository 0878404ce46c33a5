"""What is to come, from what was: trends, remembered peaks, and what the season before looked like. Pure.

Two memories of each series (a memory budget's usage by others, a model's rate): the last readings, for the trend; and the
highest value of every `step` seconds for an hour (with a configured season, for more than two of them), for peaks. What
trimtab itself keeps is taken off a budget's usage first, so that its own swaps are neither a trend nor a peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from budgets.config import BudgetsConfig
from budgets.options import kept_bytes
from budgets.outlook import Ahead, Outlook
from budgets.plan import Pressure
from budgets.pressure import fresh, slope
from budgets.snapshot import Reading, Snapshot
from variants.catalog import Catalog, Frozen

MEMORY = ("ram", "gpu_memory")
#: Readings that make a trend; the newer half of them must agree with it, which a step does not.
SAMPLES = 20
LEAST_SAMPLES = 8
STEP_SECONDS = 5.0
HOUR = 3600.0
#: A season is believed where the series resembles itself that much one period earlier (autocorrelation).
LIKENESS = 0.6
LEAST_PERIOD = 4  # steps


class Series(Frozen):
    """(index of the step, highest value in it), oldest first; a step is `step` seconds."""

    step: float = STEP_SECONDS
    steps: tuple[tuple[int, float], ...] = ()
    recent: tuple[tuple[float, float], ...] = ()

    def add(self, at: float, value: float, keep_seconds: float) -> Series:
        """The series with one more value; what is older than `keep_seconds` is dropped."""
        index = int(at // self.step)
        if self.steps and self.steps[-1][0] == index:
            steps = (*self.steps[:-1], (index, max(value, self.steps[-1][1])))
        else:
            steps = (*self.steps, (index, value))
            oldest = index - keep_seconds / self.step
            if steps[0][0] < oldest:
                steps = tuple(s for s in steps if s[0] >= oldest)
        recent = self.recent
        if not recent or at > recent[-1][0]:
            recent = (*recent, (at, value))[-SAMPLES:]
        return self.model_copy(update={"steps": steps, "recent": recent})

    def span(self, now: float) -> float:
        """Seconds since the first value."""
        return now - self.steps[0][0] * self.step if self.steps else 0.0

    def peak(self, since: float, until: float) -> float | None:
        """The highest value from `since` to `until`; None without one."""
        first, last = math.floor(since / self.step), math.floor(until / self.step)
        return max((value for index, value in self.steps if first <= index <= last), default=None)

    def trend(self) -> float:
        """Units per second that all of the last readings and the newer half of them agree on; 0 while they are few."""
        if len(self.recent) < LEAST_SAMPLES:
            return 0.0
        whole, newer = slope(self.recent), slope(self.recent[len(self.recent) // 2 :])
        return min(whole, newer, key=abs) if whole * newer > 0 else 0.0

    def period(self) -> float | None:
        """The season in seconds by autocorrelation, where two of them have been seen; None where there is none."""
        if not self.steps:
            return None
        first, last = self.steps[0][0], self.steps[-1][0]
        known = dict(self.steps)
        values, value = [], self.steps[0][1]
        for index in range(first, last + 1):  # a step without a reading is like the one before
            value = known.get(index, value)
            values.append(value)
        line = np.asarray(values) - np.mean(values)
        power = float(line @ line)
        most = len(line) // 2
        if most < LEAST_PERIOD or power <= 1e-12 * max(1.0, float(np.square(values).sum())):
            return None
        spectrum = np.fft.rfft(line, 2 * len(line))
        raw = np.fft.irfft(spectrum * np.conj(spectrum))[1 : most + 1]
        likeness = raw / power * len(line) / (len(line) - np.arange(1, most + 1))
        best: int | None = None
        for lag in range(LEAST_PERIOD, most):  # the first hill that is high enough, not a multiple of it
            here = likeness[lag - 1]
            if here >= LIKENESS and here >= likeness[lag - 2] and here > likeness[lag]:
                best = lag
                break
        return None if best is None else best * self.step


#: How often a restore may have been regretted for its lookback to be doubled again.
MOST_REGRETS = 6


class Past(Frozen):
    """Everything remembered."""

    budgets: Mapping[str, Series] = {}
    rates: Mapping[str, Series] = {}

    def remember(self, snapshot: Snapshot, catalog: Catalog, config: BudgetsConfig, ended_at: float) -> Past:
        """With this look added. While a host swaps, or a reading is from before the last swap ended (`ended_at`), a
        budget's usage is of no known assignment and is left out."""
        season = config.controller.season_seconds
        step = STEP_SECONDS if season is None else max(STEP_SECONDS, season / 500)
        keep = HOUR if season is None else max(HOUR, 2.2 * season)
        moving = any(h.swapping or h.observed_generation < snapshot.generation for h in snapshot.hosts)
        resources = {b.name: b.resource for b in config.budgets if b.resource in MEMORY}
        budgets, rates = dict(self.budgets), dict(self.rates)
        for line in snapshot.readings.budgets:
            usage = line.usage
            if line.budget in resources and isinstance(usage, Reading) and not moving and usage.at >= ended_at:
                others = usage.value - _own(snapshot, catalog, resources[line.budget])
                budgets[line.budget] = budgets.get(line.budget, Series(step=step)).add(usage.at, others, keep)
        for model in snapshot.readings.models:
            rate = fresh(model.rate, snapshot.at, config.controller.stale_seconds)
            if isinstance(rate, Reading):
                rates[model.model] = rates.get(model.model, Series(step=step)).add(rate.at, rate.value, keep)
        return Past(budgets=budgets, rates=rates)

    def outlook(self, config: BudgetsConfig, now: float) -> Outlook:
        """What is to come, as of `now`."""
        return Outlook(
            budgets={name: _ahead(series, config, now) for name, series in self.budgets.items()},
            rates={name: _ahead(series, config, now) for name, series in self.rates.items()},
        )


def _own(snapshot: Snapshot, catalog: Catalog, resource: str) -> float:
    return float(sum(kept_bytes(catalog, host.variants, host.shapes.get, resource) for host in snapshot.hosts))


def _ahead(series: Series, config: BudgetsConfig, now: float) -> Ahead:
    base = config.controller.peak_seconds
    period = config.controller.season_seconds or series.period()
    season = None
    if period is not None and series.span(now) >= 2 * period:
        # What comes next, as it was one and two seasons ago.
        seen = [series.peak(now - k * period, now - k * period + base) for k in (1, 2)]
        season = max((value for value in seen if value is not None), default=None)
    peaks = []
    backs = [min(base * 2**doubled, HOUR) for doubled in range(MOST_REGRETS + 1)]
    highest = season if season is not None else -math.inf
    left = list(reversed(series.steps))
    at = 0
    for back in backs:
        first = math.floor((now - back) / series.step)
        while at < len(left) and left[at][0] >= first:
            highest = max(highest, left[at][1])
            at += 1
        peaks.append((back, highest))
    return Ahead(
        now=series.recent[-1][1],
        trend=series.trend(),
        peaks=tuple((back, value) for back, value in peaks if math.isfinite(value)),
        span=series.span(now),
        season_seconds=period if season is not None else None,
    )


def with_trends(pressures: tuple[Pressure, ...], outlook: Outlook) -> tuple[Pressure, ...]:
    """The pressures of memory budgets with the trend that plans go by: without trimtab's own swaps, spikes and steps."""
    made = []
    for pressure in pressures:
        ahead = outlook.budgets.get(pressure.name)
        if ahead is not None and pressure.usage is not None and pressure.limit is not None:
            left = max(0.0, pressure.limit - pressure.usage) / ahead.trend if ahead.trend > 0 else None
            pressure = pressure.model_copy(update={"slope": ahead.trend, "seconds_to_exhaustion": left})
        made.append(pressure)
    return tuple(made)
