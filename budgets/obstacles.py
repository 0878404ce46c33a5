"""What stands in the way of a model running a better variant: every limit that it would break, by how much. Pure.

Looked at under the predicted peak of the time to come, not only the load of now: the highest of the last minutes, of the
same time in the last two seasons, and where the trend leads. Who had to take a restore back soon looks back twice as far.
"""

from __future__ import annotations

import math

from budgets.config import BudgetsConfig
from budgets.moves import MEMORY, Scene
from budgets.options import Option, View
from budgets.plan import Broke
from budgets.reality import moved_key
from variants.catalog import Frozen

#: A restored variant's predicted latency must be below this share of the objective ...
LATENCY_MARGIN = 0.7
#: ... the host's predicted utilisation below this ...
MOST_UTILISATION = 0.7
#: ... and the rate below this share of the one at which the variant broke its SLO before.
BROKE_MARGIN = 0.75
#: The time that such a rate is held against a variant doubles so often at most.
MOST_DOUBLINGS = 5


class Obstacle(Frozen):
    """`value` would be or is, `allowed` may be at most; bytes, seconds, requests per second or a share, as `kind` says."""

    kind: str  # memory, latency, rate, utilisation, history, reading
    name: str
    value: float | None
    allowed: float | None
    reason: str


def lookback(config: BudgetsConfig, scene: Scene, option: Option) -> float:
    """Seconds whose peak a restore of this option must hold under."""
    regrets = scene.memory.regrets.get(f"{option.model}/{option.variant}", 0)
    return float(config.controller.peak_seconds * 2**regrets)


def memory(scene: Scene, option: Option) -> list[Obstacle]:
    """Memory budgets that the option would not hold in."""
    found = []
    current = scene.view.current[option.model]
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        if pressure.usage is None or pressure.limit is None:
            found.append(_obstacle("reading", budget.name, f"not restored: {budget.name}: no reading"))
            continue
        more = float((option.bytes_of(budget.resource) - current.bytes_of(budget.resource)) * scene.view.hosts)
        if more > 0:  # it took more than its profile says when it was last done: believe that
            took = scene.memory.moved.get(moved_key(option.model, current.variant, option.variant), 0)
            more = max(more, float(took * scene.view.hosts))
        if more <= 0:
            continue
        ahead, back = scene.outlook.budgets.get(budget.name), lookback(scene.config, scene, option)
        rise = 0.0
        if ahead is not None:
            trend = max(0.0, ahead.trend) * scene.config.controller.window_seconds
            rise = max(ahead.peak(back) - ahead.now, trend)
            if ahead.peaks and ahead.span < min(back, ahead.peaks[-1][0]):
                reason = f"not restored: history: {budget.name} is known for {ahead.span:.0f} s of {back:.0f} s"
                found.append(_obstacle("history", budget.name, reason, ahead.span, back))
        value, bound = pressure.usage + more + rise, scene.room(budget, pressure.limit)
        if value > bound:
            peak = f" at the predicted peak ({rise / 2**20:.0f} MiB above now)" if rise > 0 else ""
            reason = (
                f"not restored: memory: {budget.name} would be at {value / 2**20:.0f} MiB of at most "
                f"{bound / 2**20:.0f} MiB{peak}"
            )
            found.append(_obstacle("memory", budget.name, reason, value, bound))
    return found


def at_peak(scene: Scene, option: Option) -> View:
    """The view at the rates to come."""
    back, hosts = lookback(scene.config, scene, option), scene.view.hosts
    rates = dict(scene.view.rates)
    for model, ahead in scene.outlook.rates.items():
        now = rates.get(model)
        if now is not None:
            rates[model] = max(now, ahead.peak(back) / hosts)
    return scene.view.at(rates)


def latency(scene: Scene, option: Option) -> list[Obstacle]:
    """Rates and latencies that the option would not hold at, at the rates to come."""
    return latency_at(scene, at_peak(scene, option), option)


def _forgotten(scene: Scene, broke: Broke) -> float:
    """When an objective that broke stands for nothing any more: a neighbour's load may have broken it. Twice as long each
    time that it breaks again."""
    return broke.at + scene.config.controller.retry_seconds * 2.0 ** min(broke.times - 1, MOST_DOUBLINGS)


def latency_at(scene: Scene, view: View, option: Option) -> list[Obstacle]:
    """The same at a view's rates."""
    found = []
    after = {**view.current, option.model: option}
    rate = view.rates.get(option.model)
    if rate is None:
        return [_obstacle("reading", f"slo:{option.model}", "not restored: latency: the rate is not known")]
    for broke in scene.memory.broke:
        if (broke.model, broke.variant) == (option.model, option.variant) and scene.now < _forgotten(scene, broke):
            most, now = broke.rate * BROKE_MARGIN, rate * view.hosts
            if now > most:
                reason = f"not restored: latency: it broke at {broke.rate:.1f} requests/s, the rate is {now:.1f} (at most {most:.1f})"
                found.append(_obstacle("rate", f"slo:{option.model}", reason, now, most))
    before, rho = view.utilisation(view.current), view.utilisation(after)
    if rho > max(MOST_UTILISATION, before):
        reason = f"not restored: latency: utilisation would be {rho:.2f}, at most {MOST_UTILISATION}"
        found.append(_obstacle("utilisation", "host", reason, rho, MOST_UTILISATION))
    for model, policy in scene.config.models.items():
        if policy.slo is None or model not in after:
            continue
        predicted = view.predict(after, model, policy.slo.quantile)
        objective = policy.slo.latency_seconds * LATENCY_MARGIN
        worse = model == option.model or rho > before
        if worse and not math.isnan(predicted) and predicted > objective:
            reason = (
                f"not restored: latency: {model} would take {min(predicted, 999.0) * 1e3:.0f} ms, "
                f"at most {objective * 1e3:.0f} ms"
            )
            found.append(_obstacle("latency", f"slo:{model}", reason, min(predicted, 999.0), objective))
    return found


def _obstacle(kind: str, name: str, reason: str, value: float | None = None, allowed: float | None = None) -> Obstacle:
    return Obstacle(kind=kind, name=name, value=value, allowed=allowed, reason=reason)
