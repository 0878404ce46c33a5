"""Relief: which models step down, and how far, so that every pressed trigger falls below its enter threshold, with
headroom, at the least weighted loss of quality.

When not everything can be kept, what gives way is fixed: quality first (never below a floor), then latency objectives, of
the model with the lowest weight first; budgets never give way to either. What was given up is `infeasible`. It is one
integer program (`budgets.choose`), carried out `swaps_in_flight` swaps at a time.

A used-up budget is relieved at once by the cheapest single step that does it, where there is one: one load instead of
several. The next plan reconsiders it jointly (`reconsider`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from budgets import limits, ways
from budgets.candidates import down, saturated, weighed
from budgets.choose import Choice, Limit, choose
from budgets.early import coming, projected
from budgets.moves import MEMORY, Scene, swap_between
from budgets.options import Option
from budgets.plan import Alternative, Direction, Hold, Swap, Trigger

#: A host above this utilisation has no predictable latency.
MOST_UTILISATION = 0.85
#: A joint plan that is better than a quick step by less is not worth its swaps.
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Relief:
    """Swaps, most bytes first; holds for what could not be done; the rest as in `Plan`."""

    swaps: tuple[Swap, ...] = ()
    holds: tuple[Hold, ...] = ()
    infeasible: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    gap: float = 0.0


def relieve(scene: Scene) -> Relief:
    """What relieves the pressed triggers, and those that are about to be."""
    holds: list[Hold] = []
    active = _pressed(scene, holds)
    early = coming(scene)
    if not active and not early:
        return Relief(holds=tuple(holds))
    if waiting := _waiting(scene):
        return Relief(holds=(*holds, Hold(model="*", variant=None, reason=waiting)))
    if any(e.name.startswith("slo:") for e in early):
        scene = replace(scene, view=scene.view.at(projected(scene, early[0].needed)))
    active = [*active, *(Trigger(name=e.name) for e in early)]
    rises = {e.name: e.rise for e in early}
    names = {t.name for t in active}
    candidates = {model: down(scene, model, active, holds) for model in scene.view.current}
    bounds = [*limits.memory(scene, names, rises), *limits.compute(scene, names, candidates)]
    current = {model: option.variant for model, option in scene.view.current.items()}
    singles = ways.singles(scene, candidates, bounds, active)
    made = choose(candidates, current, bounds)
    chosen = made.options
    quick = saturated(active) and bool(singles) and ways.quicker(singles[0], chosen, current)
    if quick:
        chosen = {**scene.view.current, singles[0].model: singles[0]}
    for trigger in active:
        model = trigger.name.removeprefix("slo:")
        stuck = model != trigger.name and model in chosen and chosen[model].variant == current[model]
        if stuck and not scene.looking_back(model):  # a swap that has just been made is given its window to tell
            made = _with_help(scene, trigger, made, candidates, rises)
            chosen = made.options
    why = "; ".join((*(e.reason for e in early), *(_words(scene, t) for t in active if t.state != "calm")))
    swaps = _swaps(scene, chosen, active, why, bool(early) and not _any_pressed(active), holds)
    if not swaps:
        reason = f"no feasible step: {why}, every model is as low as it may go"
        holds.append(Hold(model="*", variant=None, reason=reason))
    return Relief(
        swaps=swaps,
        holds=tuple(holds),
        infeasible=_infeasible(scene, chosen, bounds, active),
        alternatives=ways.alternatives(scene, candidates, bounds, chosen, singles, "quick" if quick else ""),
        gap=made.gap,
    )


def _any_pressed(active: Sequence[Trigger]) -> bool:
    return any(t.state != "calm" for t in active)


def _words(scene: Scene, trigger: Trigger) -> str:
    return f"{trigger.name} {trigger.state} at {scene.pressure(trigger.name).ratio:.2f}"


def _pressed(scene: Scene, holds: list[Hold]) -> list[Trigger]:
    """Triggers whose pressure is past their enter threshold, by a reading that can be believed."""
    active = []
    for trigger in scene.active():
        pressure = scene.pressure(trigger.name)
        thresholds = scene.config.thresholds()[trigger.name]
        reason = ""
        if pressure.ratio is None:
            reason = f"{trigger.name} is {trigger.state}, but {pressure.missing}"
        elif scene.outdated(trigger.name):
            reason = f"waiting: the reading of {trigger.name} is from before the last swap ended"
        elif pressure.ratio < thresholds.enter:
            reason = f"{trigger.name} is relieved ({pressure.ratio:.2f}) but not calm yet (exit {thresholds.exit})"
        if reason:
            holds.append(Hold(model="*", variant=None, reason=reason))
        else:
            active.append(trigger)
    return active


def _waiting(scene: Scene) -> str:
    """Why relief waits although something is pressed; never when a budget is used up."""
    trials = [v for v in scene.memory.verifying if v.hosts and v.direction == "degrade"]
    if trials and not scene.urgent():  # the rest of their relief is still to come
        return "waiting: on trial first: " + ", ".join(f"{v.model} on {', '.join(v.hosts)}" for v in trials)
    if scene.swaps_left() <= 0 and not any(t.state == "saturated" for t in scene.triggers):
        return f"swap budget: {scene.config.controller.swaps_per_hour} swaps within the hour are used up"
    return ""


def _swaps(
    scene: Scene, chosen: Mapping[str, Option], active: Sequence[Trigger], why: str, ahead: bool, holds: list[Hold]
) -> tuple[Swap, ...]:
    moved = [m for m, o in chosen.items() if o.variant != scene.view.current[m].variant]
    moved.sort(key=lambda m: _freed(scene, m, chosen[m]), reverse=True)
    most = min(scene.config.controller.swaps_in_flight, max(1, scene.swaps_left()))
    if any(t.state == "saturated" for t in active):
        most = len(moved)
    swaps: list[Swap] = []
    for model in moved:
        if len(swaps) == most:
            holds.append(Hold(model=model, variant=chosen[model].variant, reason="swap limit: the next plan takes it"))
            continue
        trigger = _cause(active, model)
        reason = f"{why}: {chosen[model].variant or 'parked'} {_effect(scene, chosen[model])}"
        swap = swap_between(scene, model, chosen[model].variant, "degrade", trigger.name, reason, tuple(swaps))
        swaps.append(swap.model_copy(update={"ahead": ahead}))
    return tuple(swaps)


def _infeasible(
    scene: Scene, chosen: Mapping[str, Option], bounds: Sequence[Limit], active: Sequence[Trigger]
) -> tuple[str, ...]:
    """What the plan cannot keep: budgets, then the objectives of late models that no option would meet."""
    names = {t.name for t in active}
    given_up = [name for name in limits.missed(chosen, bounds) if name in names]
    late = []
    for trigger in active:
        model = trigger.name.removeprefix("slo:")
        slo = scene.config.policy(model).slo
        if model == trigger.name or slo is None or model not in chosen or scene.looking_back(model):
            continue
        after = scene.view.predict(chosen, model, slo.quantile)
        if math.isnan(after) or after > slo.latency_seconds * slo.enter:
            late.append((scene.config.policy(model).weight, trigger.name))
    return (*given_up, *(name for _, name in sorted(late)))


def _with_help(
    scene: Scene,
    trigger: Trigger,
    made: Choice,
    candidates: dict[str, list[Option]],
    rises: Mapping[str, float],
) -> Choice:
    """The late model is on its fastest rung already: bring the host's utilisation down by the others' steps."""
    now = sum(several[0].busy for several in candidates.values())
    if now <= 0:
        return made
    bound = min(MOST_UTILISATION, now * 0.7)
    current = {model: option.variant for model, option in scene.view.current.items()}
    asked = Limit(trigger.name, limits.engine_time(candidates), bound, now)
    return choose(candidates, current, [*limits.memory(scene, [trigger.name], rises), asked])


def reconsider(scene: Scene) -> Relief:
    """After a quick step has relieved a budget: the joint plan, where it keeps the same limits at a lower cost."""
    step = scene.memory.quick
    current = scene.view.current.get(step.model) if step else None
    if step is None or current is None or current.variant != step.to_variant or scene.now <= step.at:
        return Relief()
    memory_budgets = scene.budgets(*MEMORY)
    unsure = any(scene.pressure(b.name).ratio is None or scene.outdated(b.name) for b in memory_budgets)
    if unsure or _pressed(scene, []) or coming(scene) or step.model in scene.pins() or scene.departed(step.model):
        return Relief()
    pressed = [Trigger(name=b.name) for b in memory_budgets]
    candidates = {model: down(scene, model, pressed, []) for model in scene.view.current}
    others = [o for o in scene.view.options[step.model] if o.variant != current.variant]
    allowed = [o for o in others if not scene.quarantined(step.model, o.variant)]
    candidates[step.model] = weighed(scene, [current, *allowed], pressed)
    bounds = [*limits.memory(scene, [b.name for b in memory_budgets], {}), *limits.compute(scene, (), candidates)]
    before = {model: option.variant for model, option in scene.view.current.items()}
    made = choose(candidates, before, bounds)
    chosen = made.options
    gain = sum(o.cost for o in scene.view.current.values()) - sum(o.cost for o in chosen.values())
    if limits.missed(chosen, bounds) or gain < LEAST_GAIN:
        return Relief()
    why = f"reconsidered: better by {gain:.4f} than the quick step of {step.model} that relieved {step.trigger}"
    swaps: list[Swap] = []
    moved = [m for m, o in chosen.items() if o.variant != before[m]]
    for model in sorted(moved, key=lambda m: _freed(scene, m, chosen[m]), reverse=True):
        way: Direction = "degrade" if _freed(scene, model, chosen[model]) >= 0 else "restore"
        swap = swap_between(scene, model, chosen[model].variant, way, step.trigger, why, tuple(swaps))
        swaps.append(swap.model_copy(update={"ahead": True}))
    others_there_were = ways.alternatives(scene, candidates, bounds, chosen, (), "joint")
    return Relief(swaps=tuple(swaps), alternatives=others_there_were, gap=made.gap)


def _freed(scene: Scene, model: str, option: Option) -> int:
    now = scene.view.current[model]
    return now.swap_bytes - option.swap_bytes


def _effect(scene: Scene, option: Option) -> str:
    """What a step gives and costs, in words."""
    freed = _freed(scene, option.model, option)
    loss = scene.view.current[option.model].quality - option.quality
    size = f"{'gives back' if freed >= 0 else 'takes'} {abs(freed) / 2**20:.0f} MiB"
    price = f"a gain of {-loss:.4f}" if loss < 0 else f"a loss of {loss:.4f}"
    return f"{size}{' more' if freed < 0 else ''} a host at {price} quality"


def _cause(active: Sequence[Trigger], model: str) -> Trigger:
    """The trigger to name: the model's own SLO, else the most severe one."""
    own = next((t for t in active if t.name == f"slo:{model}"), None)
    return own or sorted(active, key=lambda t: (t.state != "saturated", t.name.startswith("slo:")))[0]
