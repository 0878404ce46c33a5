"""Restoring: when every trigger is calm, the last degradation is taken back, one at a time, if the result would hold.

Models below their best rung for another reason (they did not all fit at the start, were unpinned, or woke up) come after
those, one rung at a time.
"""

from __future__ import annotations

import math

from budgets import obstacles
from budgets.early import coming
from budgets.moves import Scene, swap_between
from budgets.plan import Hold, Step, Swap

#: The cause that is named for a step up which no degradation came before.
BELOW = "below its best rung"


def one_step(scene: Scene) -> tuple[tuple[Swap, ...], tuple[Hold, ...]]:
    """The swap that takes back the last degradation that can be taken back, and why others are not."""
    taken = [s for s in scene.memory.steps if s.model not in scene.pins() and _up(scene, s)]
    steps = [*_below(scene, taken), *taken]
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
    if rising := coming(scene):
        return (), (Hold(model=last.model, variant=last.from_variant, reason=f"not restored: {rising[0].reason}"),)
    if scene.swaps_left() <= 0:
        reason = f"not restored: {scene.config.controller.swaps_per_hour} swaps within the hour are used up"
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
        if too_big := obstacles.memory(scene, option):
            holds.append(_hold(step, too_big[0].reason))
            if step.trigger == BELOW:
                continue
            break  # a smaller step further down must not overtake: that would not be the reverse order
        if too_slow := obstacles.latency(scene, option):
            holds.append(_hold(step, too_slow[0].reason))
            continue
        text = f"pressure gone: every trigger calm, back from {step.to_variant or 'parked'} ({step.trigger})"
        return (swap_between(scene, step.model, step.from_variant, "restore", step.trigger, text, ()),), tuple(holds)
    return (), tuple(holds)


def _up(scene: Scene, step: Step) -> bool:
    """Whether taking the step back loses no quality. Relief may have left a variant for a better one, where the smaller was
    the slower."""
    option, current = scene.view.option(step.model, step.from_variant), scene.view.current.get(step.model)
    return option is None or current is None or option.quality >= current.quality


def _below(scene: Scene, taken: list[Step]) -> list[Step]:
    """Models below their best rung without a degradation to take back; where most is to be gained, last."""
    known = {s.model for s in taken} | set(scene.pins())
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
