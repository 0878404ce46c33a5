"""What each model may change to, and what the joint choice must know of it: is it late, how busy is a host with it, can it be
loaded beside what runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from budgets.batches import batched
from budgets.moves import Scene, mode_for
from budgets.options import Option
from budgets.plan import Hold, Trigger

#: A variant's predicted latency must be below this share of the objective.
LATENCY_MARGIN = 0.8
#: Above this utilisation a host works off a backlog too slowly.
RECOVERY_UTILISATION = 0.5


def down(scene: Scene, model: str, active: Sequence[Trigger], holds: list[Hold]) -> list[Option]:
    """What a model may change to for relief: itself, and every option that is smaller or faster, not quarantined."""
    current = scene.view.current[model]
    if model in scene.pins():
        return weighed(scene, [current], active)
    if reason := scene.departed(model):
        holds.append(Hold(model=model, variant=current.variant, reason=f"left alone: {reason}"))
        return weighed(scene, [current], active)
    # A latency quantile looks back over its window: until that has passed it still shows the variant before.
    wait = max(scene.cooling(model), scene.looking_back(model))
    if wait and not saturated(active):
        holds.append(Hold(model=model, variant=current.variant, reason=f"cooldown: {wait:.0f} s left"))
        return weighed(scene, [current], active)
    needs_memory = any(not t.name.startswith("slo:") for t in active)
    allowed = [current]
    for option in scene.view.options[model]:
        if option.variant == current.variant or scene.quarantined(model, option.variant):
            continue
        if (needs_memory and _smaller(option, current)) or (option.profile is not None and _faster(option, current)):
            allowed.append(option)
    return weighed(scene, allowed, active)


def saturated(active: Sequence[Trigger]) -> bool:
    """A budget is used up."""
    return any(t.state == "saturated" and not t.name.startswith("slo:") for t in active)


def weighed(scene: Scene, options: Sequence[Option], active: Sequence[Trigger]) -> list[Option]:
    """A model's options, what runs first, with their batch limit, how busy they keep a host, whether they fit beside what
    runs, and which of their requests are late.

    The share that is late orders options by their predicted latency; what is late at all costs more than any quality of the
    same model. A model whose objective is pressed needs room to work off its backlog; of the others none is made late that
    is not.
    """
    current, model = options[0], options[0].model
    entry = scene.catalog.entries[model]
    made = [
        replace(batched(scene.view, entry.model, o, scene.config), beside=_beside(scene, o, current)) for o in options
    ]
    slo = scene.config.policy(model).slo
    rate = scene.view.rates.get(model)
    if slo is None:
        return [replace(o, late=1.0) if o.variant is None and rate else o for o in made]
    pressed = any(t.name == f"slo:{model}" for t in active)
    objective = slo.latency_seconds * LATENCY_MARGIN
    expected = [scene.view.changed(o, slo.quantile) for o in made]

    def on_time(index: int) -> bool:
        busy, seconds = expected[index]
        if pressed:
            return index > 0 and busy <= RECOVERY_UTILISATION and seconds <= objective
        return index == 0 or not seconds > max(objective, expected[0][1])

    slow = [i for i in range(len(made)) if not on_time(i) or (made[i].variant is None and rate)]
    slow.sort(key=lambda i: (pressed and i == 0, _ordered(expected[i][1]), made[i].busy))
    for rank, index in enumerate(slow, 1):
        made[index] = replace(made[index], late=0.5 + 0.5 * rank / len(slow))
    return made


def _ordered(seconds: float) -> float:
    return math.inf if math.isnan(seconds) else seconds


def _beside(scene: Scene, option: Option, current: Option) -> bool:
    return option is current or mode_for(scene, option, ()) == "make_before_break"


def _smaller(option: Option, current: Option) -> bool:
    return (option.host_bytes, option.device_bytes) != (current.host_bytes, current.device_bytes) and (
        option.host_bytes <= current.host_bytes and option.device_bytes <= current.device_bytes
    )


def _faster(option: Option, current: Option) -> bool:
    if option.profile is None or current.profile is None:
        return False
    return option.profile.batches[0].p50_seconds < current.profile.batches[0].p50_seconds * 0.95
