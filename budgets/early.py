"""Relief before the wall: budgets and objectives that would be reached before a swap could help. Pure.

A budget's usage follows its trend (trimtab's own swaps taken off, spikes and steps do not count); a model's latency is
predicted at the rates that the trends lead to. Time left below what a swap takes and `lead_seconds`: act now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from budgets.moves import MEMORY, Scene

#: A rise of the rate that is less than that is no reason to leave a variant.
LEAST_SHARE = 0.1
LEAST_RATE = 1.0


@dataclass(frozen=True)
class Coming:
    """What will be reached (a trigger's name), in `seconds` at most where `needed` are; by how much usage rises until then."""

    name: str
    seconds: float
    needed: float
    rise: float
    reason: str


def needed_seconds(scene: Scene) -> float:
    """What relief takes: a look, the slowest of the models' quickest steps down, a look again, and the margin."""
    settings = scene.config.controller
    slowest = 0.0
    for model, current in scene.view.current.items():
        steps = [
            o.profile.load_seconds + o.profile.warmup_seconds
            for o in scene.view.options[model]
            if o.profile is not None and o.quality < current.quality and model not in scene.pins()
        ]
        slowest = max(slowest, min(steps, default=0.0))
    return slowest + 2 * settings.tick_seconds + settings.lead_seconds


def coming(scene: Scene) -> tuple[Coming, ...]:
    """Budgets and objectives below their enter threshold that would be reached too soon. A missing reading foretells
    nothing."""
    needed = needed_seconds(scene)
    return (*_budgets(scene, needed), *_objectives(scene, needed))


def _budgets(scene: Scene, needed: float) -> list[Coming]:
    found = []
    for budget in scene.budgets(*MEMORY):
        pressure, ahead = scene.pressure(budget.name), scene.outlook.budgets.get(budget.name)
        if pressure.ratio is None or pressure.usage is None or pressure.limit is None or ahead is None:
            continue
        if pressure.ratio >= budget.enter or ahead.trend <= 0 or scene.outdated(budget.name):
            continue
        left = (pressure.limit - pressure.usage) / ahead.trend
        if left < needed:
            reason = (
                f"{budget.name} will be used up in {left:.0f} s (rising {ahead.trend / 2**20:.1f} MiB/s), relief takes "
                f"{needed:.0f} s"
            )
            found.append(Coming(budget.name, left, needed, ahead.trend * needed, reason))
    return found


def projected(scene: Scene, seconds: float) -> dict[str, float | None]:
    """The models' rates per host that their trends lead to; none falls."""
    rates = dict(scene.view.rates)
    for model, ahead in scene.outlook.rates.items():
        rate = rates.get(model)
        if rate is not None:
            rates[model] = rate + max(0.0, ahead.trend) * seconds / scene.view.hosts
    return rates


def _objectives(scene: Scene, needed: float) -> list[Coming]:
    found = []
    later = scene.view.at(projected(scene, needed))
    for model, policy in scene.config.models.items():
        slo, ahead = policy.slo, scene.outlook.rates.get(model)
        pressure = scene.pressure(f"slo:{model}")
        if slo is None or ahead is None or model not in scene.view.current or not pressure.ratio:
            continue
        rise = ahead.trend * needed
        if pressure.ratio >= slo.enter or rise < max(LEAST_RATE, LEAST_SHARE * ahead.now):
            continue
        objective = slo.latency_seconds * slo.enter
        now, then = (v.predict(v.current, model, slo.quantile) for v in (scene.view, later))
        if math.isnan(then) or then <= objective or not now <= objective:
            continue
        reason = (
            f"{model} would take {min(then, 60.0) * 1e3:.0f} ms in {needed:.0f} s at {ahead.now + rise:.0f} requests/s "
            f"(rising {ahead.trend:.1f}/s each second), at most {objective * 1e3:.0f} ms"
        )
        found.append(Coming(f"slo:{model}", needed, needed, rise, reason))
    return found
