"""Readings -> pressures -> triggers. Pure: time is an argument.

A missing or stale reading has no ratio; a trigger without a ratio stays as it is.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping

from budgets.config import BudgetsConfig, Thresholds
from budgets.plan import Pressure, Trigger
from budgets.snapshot import Missing, ModelReadings, Observed, Reading, Readings
from variants.catalog import Frozen

#: Readings kept for the trend of one budget.
SAMPLES = 20


class History(Frozen):
    """Past usage by budget: (unix seconds, usage), oldest first."""

    usage: Mapping[str, tuple[tuple[float, float], ...]] = {}

    def remember(self, readings: Readings) -> History:
        """The history with these readings added; a reading seen before is not added twice."""
        grown = dict(self.usage)
        for line in readings.budgets:
            past = grown.get(line.budget, ())
            if isinstance(line.usage, Reading) and (not past or line.usage.at > past[-1][0]):
                grown[line.budget] = (*past, (line.usage.at, line.usage.value))[-SAMPLES:]
        return History(usage=grown)


def slope(samples: tuple[tuple[float, float], ...]) -> float:
    """Units per second by the Theil-Sen estimator (the median of all pairwise slopes), which a spike does not move.

    0 with fewer than three samples. Source: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau" (1968).
    """
    if len(samples) < 3:
        return 0.0
    pairs = itertools.combinations(samples, 2)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])


def assess(readings: Readings, config: BudgetsConfig, history: History) -> tuple[Pressure, ...]:
    """The pressure on every budget and every SLO (`slo:<model>`), as of `readings.at`."""
    stale = config.controller.stale_seconds
    by_budget = {line.budget: line for line in readings.budgets}
    by_model = {line.model: line for line in readings.models}
    pressures = []
    for budget in config.budgets:
        line = by_budget.get(budget.name)
        if line is None:
            pressures.append(Pressure(name=budget.name, ratio=None, missing="the source does not know this budget"))
            continue
        usage, limit = (fresh(value, readings.at, stale) for value in (line.usage, line.limit))
        if isinstance(usage, Missing) or isinstance(limit, Missing):
            why = usage.reason if isinstance(usage, Missing) else limit.reason if isinstance(limit, Missing) else ""
            pressures.append(Pressure(name=budget.name, ratio=None, missing=why))
            continue
        rising = slope(history.usage.get(budget.name, ()))
        left = limit.value - usage.value
        pressures.append(
            Pressure(
                name=budget.name,
                ratio=usage.value / limit.value if limit.value > 0 else None,
                usage=usage.value,
                limit=limit.value,
                slope=rising,
                seconds_to_exhaustion=max(0.0, left / rising) if rising > 0 else None,
                missing="" if limit.value > 0 else "the limit is 0",
            )
        )
    for name, policy in config.models.items():
        if policy.slo is not None:
            pressures.append(_slo(name, policy.slo.latency_seconds, by_model.get(name), readings.at, stale))
    return tuple(pressures)


def fresh(value: Observed, now: float, stale_seconds: float) -> Observed:
    """The reading, or Missing when it is older than `stale_seconds`."""
    if isinstance(value, Reading) and now - value.at > stale_seconds:
        return Missing(reason=f"stale: {now - value.at:.0f} s old")
    return value


def _slo(model: str, objective: float, line: ModelReadings | None, now: float, stale: float) -> Pressure:
    name = f"slo:{model}"
    if line is None:
        return Pressure(name=name, ratio=None, limit=objective, missing="the source does not know this model")
    rate, latency = fresh(line.rate, now, stale), fresh(line.latency, now, stale)
    if isinstance(rate, Reading) and rate.value == 0:
        return Pressure(name=name, ratio=0.0, usage=0.0, limit=objective)  # no request, so none is late
    if isinstance(latency, Missing):
        return Pressure(name=name, ratio=None, limit=objective, missing=latency.reason)
    return Pressure(name=name, ratio=latency.value / objective, usage=latency.value, limit=objective)


def advance(
    triggers: tuple[Trigger, ...], pressures: tuple[Pressure, ...], config: BudgetsConfig, now: float
) -> tuple[Trigger, ...]:
    """Every trigger's next state.

    calm -> scaling after `enter_seconds` at or above `enter`; scaling -> saturated at 1.0; back to scaling below `enter`;
    either -> calm after `exit_seconds` at or below `exit`. A trigger whose pressure is missing does not move.
    """
    before = {trigger.name: trigger for trigger in triggers}
    by_name = {pressure.name: pressure for pressure in pressures}
    return tuple(
        _advance(before.get(name, Trigger(name=name, since=now)), by_name.get(name), limits, now)
        for name, limits in config.thresholds().items()
    )


def _advance(trigger: Trigger, pressure: Pressure | None, limits: Thresholds, now: float) -> Trigger:
    if pressure is None or pressure.ratio is None:
        return trigger.model_copy(update={"pending_since": None})
    ratio = pressure.ratio
    if trigger.state == "calm":
        if ratio < limits.enter:
            return trigger.model_copy(update={"pending_since": None})
        since = trigger.pending_since if trigger.pending_since is not None else now
        if now - since < limits.enter_seconds:
            return trigger.model_copy(update={"pending_since": since})
        return Trigger(name=trigger.name, state=_active(ratio, limits), since=now)
    if ratio > limits.exit:
        state = trigger.state
        if ratio >= max(1.0, limits.enter):
            state = "saturated"
        elif ratio < limits.enter:
            state = "scaling"
        since = trigger.since if state == trigger.state else now
        return Trigger(name=trigger.name, state=state, since=since)
    since = trigger.pending_since if trigger.pending_since is not None else now
    if now - since < limits.exit_seconds:
        return trigger.model_copy(update={"pending_since": since})
    return Trigger(name=trigger.name, state="calm", since=now)


def _active(ratio: float, limits: Thresholds) -> str:
    return "saturated" if ratio >= max(1.0, limits.enter) else "scaling"
