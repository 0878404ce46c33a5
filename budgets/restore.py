"""Restoring: when every trigger is calm, the last degradation is taken back, one at a time, if the result would hold.

Models below their best rung for another reason (they did not all fit at the start, were unpinned, or woke up) come after
those, one rung at a time.
"""

from __future__ import annotations

import math

from budgets.latency import utilisation
from budgets.moves import MEMORY, Scene, swap_between
from budgets.options import Option
from budgets.plan import Hold, Step, Swap
from budgets.reality import moved_key

#: A restored variant's predicted latency must be below this share of the objective ...
LATENCY_MARGIN = 0.7
#: ... the host's predicted utilisation below this ...
MOST_UTILISATION = 0.7
#: ... and the rate below this share of the one at which the variant broke its SLO before.
BROKE_MARGIN = 0.75
#: The cause that is named for a step up which no degradation came before.
BELOW = "below its best rung"


def one_step(scene: Scene) -> tuple[tuple[Swap, ...], tuple[Hold, ...]]:
    """The swap that takes back the last degradation that can be taken back, and why others are not."""
    steps = [*_below(scene), *(s for s in scene.memory.steps if s.model not in scene.pins())]
    if not steps:
        return (), ()
    last = steps[-1]
    if scene.active():
        names = ", ".join(f"{t.name} is {t.state}" for t in scene.active())
        return (), (Hold(model=last.model, variant=last.from_variant, reason=f"not restored: {names}"),)
    missing = [p for p in scene.pressures if p.ratio is None]
    if missing:
        why = ", ".join(f"{p.name}: {p.missing}" for p in missing)
        return (), (
            Hold(model=last.model, variant=last.from_variant, reason=f"not restored: missing readings ({why})"),
        )
    if old := [b.name for b in scene.config.budgets if scene.outdated(b.name)]:
        reason = f"not restored: the reading of {', '.join(old)} is from before the last swap ended"
        return (), (Hold(model=last.model, variant=last.from_variant, reason=reason),)
    since = scene.now - scene.memory.planned_at
    if since < scene.config.controller.cooldown_seconds:
        left = scene.config.controller.cooldown_seconds - since
        return (), (Hold(model=last.model, variant=last.from_variant, reason=f"cooldown: {left:.0f} s left"),)
    holds: list[Hold] = []
    for step in reversed(steps):
        option = scene.view.option(step.model, step.from_variant)
        if option is None or step.model not in scene.view.current:
            holds.append(_hold(step, "not restored: the variant is no longer a rung"))
            continue
        if option.variant == scene.view.current[step.model].variant:
            continue
        if reason := scene.departed(step.model):
            holds.append(_hold(step, f"not restored: {reason}"))
            continue
        if reason := scene.quarantined(step.model, step.from_variant):
            holds.append(_hold(step, f"not restored: quarantined ({reason})"))
            continue
        if reason := too_big(scene, option):
            holds.append(_hold(step, reason))
            if step.trigger == BELOW:
                continue
            break  # a smaller step further down must not overtake: that would not be the reverse order
        if reason := too_slow(scene, option):
            holds.append(_hold(step, reason))
            continue
        text = f"pressure gone: every trigger calm, back from {step.to_variant or 'parked'} ({step.trigger})"
        return (swap_between(scene, step.model, step.from_variant, "restore", step.trigger, text, ()),), tuple(holds)
    return (), tuple(holds)


def _below(scene: Scene) -> list[Step]:
    """Models below their best rung without a degradation to take back; where most is to be gained, last."""
    known = {s.model for s in scene.memory.steps} | set(scene.pins())
    low = []
    for model, current in scene.view.current.items():
        options = scene.view.options[model]
        better = [o for o in options if o.variant is not None and o.quality > current.quality]
        if better and model not in known:
            gain = max((o.cost for o in options if o.variant == current.variant), default=math.inf)
            step = Step(model=model, from_variant=better[-1].variant, to_variant=current.variant, trigger=BELOW, at=0.0)
            low.append((gain, model, step))
    return [step for _, _, step in sorted(low, key=lambda item: item[:2])]


def _hold(step: Step, reason: str) -> Hold:
    return Hold(model=step.model, variant=step.from_variant, reason=reason)


def too_big(scene: Scene, option: Option) -> str:
    """Why the option's memory would not hold; empty when it would."""
    current = scene.view.current[option.model]
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        if pressure.usage is None or pressure.limit is None:
            return f"not restored: {budget.name}: no reading"
        more = (option.bytes_of(budget.resource) - current.bytes_of(budget.resource)) * scene.view.hosts
        if more > 0:  # it took more than its profile says when it was last done: believe that
            took = scene.memory.moved.get(moved_key(option.model, current.variant, option.variant), 0)
            more = max(more, took * scene.view.hosts)
        bound = scene.room(budget, pressure.limit)
        if more > 0 and pressure.usage + more > bound:
            return (
                f"not restored: memory: {budget.name} would be at {(pressure.usage + more) / 2**20:.0f} MiB of at most "
                f"{bound / 2**20:.0f} MiB"
            )
    return ""


def too_slow(scene: Scene, option: Option) -> str:
    """Why latencies would not hold with the option at the rates of now; empty when they would."""
    after = {**scene.view.current, option.model: option}
    rate = scene.view.rates.get(option.model)
    if rate is None:
        return "not restored: latency: the rate is not known"
    for broke in scene.memory.broke:
        if (broke.model, broke.variant) == (option.model, option.variant):
            most = broke.rate * BROKE_MARGIN
            if rate * scene.view.hosts > most:
                now = rate * scene.view.hosts
                return f"not restored: latency: it broke at {broke.rate:.1f} requests/s, the rate is {now:.1f} (at most {most:.1f})"
    before, rho = utilisation(scene.view.loads(scene.view.current)), utilisation(scene.view.loads(after))
    if rho > max(MOST_UTILISATION, before):
        return f"not restored: latency: utilisation would be {rho:.2f}, at most {MOST_UTILISATION}"
    for model, policy in scene.config.models.items():
        if policy.slo is None or model not in after:
            continue
        predicted = scene.view.predict(after, model, policy.slo.quantile)
        objective = policy.slo.latency_seconds * LATENCY_MARGIN
        worse = model == option.model or rho > before
        if worse and not math.isnan(predicted) and predicted > objective:
            return (
                f"not restored: latency: {model} would take {predicted * 1e3:.0f} ms, at most {objective * 1e3:.0f} ms"
            )
    return ""
