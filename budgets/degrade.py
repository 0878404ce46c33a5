"""Relief: which models step down, and how far, so that every active trigger's pressure falls below its enter threshold,
with headroom, at the least weighted loss of quality."""

from __future__ import annotations

import math
from collections.abc import Sequence

from budgets.choose import Limit, choose
from budgets.config import Budget
from budgets.latency import utilisation
from budgets.moves import MEMORY, Scene, swap_between
from budgets.options import Option
from budgets.plan import Hold, Swap, Trigger

#: A degraded variant's predicted latency must be below this share of the objective.
LATENCY_MARGIN = 0.8
#: A host above this utilisation has no predictable latency ...
MOST_UTILISATION = 0.85
#: ... and above this one it works off a backlog too slowly.
RECOVERY_UTILISATION = 0.5


def relieve(scene: Scene) -> tuple[tuple[Swap, ...], tuple[Hold, ...]]:
    """Swaps that relieve the active triggers, most bytes first, and the holds for what could not be done."""
    holds: list[Hold] = []
    active: list[Trigger] = []
    for trigger in scene.active():
        pressure = scene.pressure(trigger.name)
        limits = scene.config.thresholds()[trigger.name]
        if pressure.ratio is None:
            holds.append(
                Hold(model="*", variant=None, reason=f"{trigger.name} is {trigger.state}, but {pressure.missing}")
            )
        elif scene.outdated(trigger.name):
            reason = f"waiting: the reading of {trigger.name} is from before the last swap ended"
            holds.append(Hold(model="*", variant=None, reason=reason))
        elif pressure.ratio >= limits.enter:
            active.append(trigger)
        else:
            reason = f"{trigger.name} is relieved ({pressure.ratio:.2f}) but not calm yet (exit {limits.exit})"
            holds.append(Hold(model="*", variant=None, reason=reason))
    if not active:
        return (), tuple(holds)
    trials = [v for v in scene.memory.verifying if v.hosts and v.direction == "degrade"]
    if trials and not scene.urgent():  # the rest of their relief is still to come
        names = ", ".join(f"{v.model} on {', '.join(v.hosts)}" for v in trials)
        return (), (*holds, Hold(model="*", variant=None, reason=f"waiting: on trial first: {names}"))
    candidates = {model: down(scene, model, active, holds) for model in scene.view.current}
    current = {model: option.variant for model, option in scene.view.current.items()}
    chosen = choose(candidates, current, [*_memory(scene, active), *_compute(scene, active)])
    for trigger in active:
        model = trigger.name.removeprefix("slo:")
        stuck = model != trigger.name and chosen.get(model) == scene.view.current.get(model)
        if stuck and not scene.looking_back(model):  # a swap that has just been made is given its window to tell
            chosen = _with_help(scene, trigger, chosen, candidates)
    moved = [m for m, o in chosen.items() if o.variant != current[m]]
    moved.sort(key=lambda m: _freed(scene, m, chosen[m]), reverse=True)
    names = ", ".join(f"{t.name} {t.state} at {scene.pressure(t.name).ratio:.2f}" for t in active)
    if not moved:
        holds.append(
            Hold(model="*", variant=None, reason=f"no feasible step: {names}, every model is as low as it may go")
        )
    swaps: list[Swap] = []
    saturated = any(t.state == "saturated" for t in active)
    for model in moved:
        if len(swaps) == scene.config.controller.swaps_in_flight and not saturated:
            holds.append(Hold(model=model, variant=chosen[model].variant, reason="swap limit: the next plan takes it"))
            continue
        trigger = _cause(active, model)
        loss = scene.view.current[model].quality - chosen[model].quality
        reason = f"{names}: {chosen[model].variant or 'parked'} gives back {_freed(scene, model, chosen[model]) / 2**20:.0f} MiB"
        reason += f" a host at a loss of {loss:.4f} quality"
        swaps.append(swap_between(scene, model, chosen[model].variant, "degrade", trigger.name, reason, tuple(swaps)))
    return tuple(swaps), tuple(holds)


def down(scene: Scene, model: str, active: Sequence[Trigger], holds: list[Hold]) -> list[Option]:
    """What a model may change to for relief: itself, and every option that is smaller or faster, not quarantined."""
    current = scene.view.current[model]
    if model in scene.pins():
        return [current]
    if reason := scene.departed(model):
        holds.append(Hold(model=model, variant=current.variant, reason=f"left alone: {reason}"))
        return [current]
    urgent = any(t.state == "saturated" and not t.name.startswith("slo:") for t in active)
    # A latency quantile looks back over its window: until that has passed it still shows the variant before.
    wait = max(scene.cooling(model), scene.looking_back(model))
    if wait and not urgent:
        holds.append(Hold(model=model, variant=current.variant, reason=f"cooldown: {wait:.0f} s left"))
        return [current]
    needs_memory = any(not t.name.startswith("slo:") for t in active)
    allowed = [current]
    for option in scene.view.options[model]:
        if option.variant == current.variant or scene.quarantined(model, option.variant):
            continue
        smaller = (option.host_bytes, option.device_bytes) != (current.host_bytes, current.device_bytes) and (
            option.host_bytes <= current.host_bytes and option.device_bytes <= current.device_bytes
        )
        if (needs_memory and smaller) or (option.profile is not None and _faster(option, current)):
            allowed.append(option)
    slo = scene.config.policy(model).slo
    if slo is not None and any(t.name == f"slo:{model}" for t in active):
        objective = slo.latency_seconds * LATENCY_MARGIN
        fast = [o for o in allowed if o is not current and _fast_enough(scene, model, o, slo.quantile, objective)]
        others = [o for o in allowed if o is not current]
        if fast:
            return fast
        if others:
            return [min(others, key=lambda o: _predicted(scene, model, o, slo.quantile))]
    return allowed


def _fast_enough(scene: Scene, model: str, option: Option, q: float, objective: float) -> bool:
    """Whether a late model would meet its objective, with room on the host to work off what has queued up meanwhile."""
    after = {**scene.view.current, model: option}
    busy = utilisation(scene.view.loads(after))
    return busy <= RECOVERY_UTILISATION and _predicted(scene, model, option, q) <= objective


def _predicted(scene: Scene, model: str, option: Option, q: float) -> float:
    value = scene.view.predict({**scene.view.current, model: option}, model, q)
    return math.inf if math.isnan(value) else value


def _faster(option: Option, current: Option) -> bool:
    if option.profile is None or current.profile is None:
        return False
    return option.profile.batches[0].p50_seconds < current.profile.batches[0].p50_seconds * 0.95


def _memory(scene: Scene, active: Sequence[Trigger]) -> list[Limit]:
    """For each memory budget: what all models keep, per host, after the swaps. An active one must fall to what a restore
    may fill (`Scene.room`), no lower: so a restore never follows unless something else changes. A calm one must not be
    pushed past that."""
    names = {t.name for t in active}
    limits = []
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        if pressure.usage is None or pressure.limit is None:
            continue
        kept = sum(o.bytes_of(budget.resource) for o in scene.view.current.values())
        bound = kept - (pressure.usage - scene.room(budget, pressure.limit)) / scene.view.hosts
        limits.append(_limit(scene, budget, bound if budget.name in names else max(bound, float(kept)), pressure.limit))
    return limits


def _limit(scene: Scene, budget: Budget, bound: float, scale: float) -> Limit:
    weights = {
        (o.model, o.variant): float(o.bytes_of(budget.resource))
        for model in scene.view.current
        for o in (*scene.view.options[model], scene.view.current[model])
    }
    return Limit(budget.name, weights, bound, scale)


def _compute(scene: Scene, active: Sequence[Trigger]) -> list[Limit]:
    """For an active utilisation budget: the engine time of all models must fall by the share that is too much."""
    names = {t.name for t in active}
    limits = []
    for budget in scene.budgets("cpu", "gpu_utilization"):
        pressure = scene.pressure(budget.name)
        if budget.name not in names or not pressure.usage or pressure.limit is None:
            continue
        now = utilisation(scene.view.loads(scene.view.current))
        bound = now * budget.exit * pressure.limit / pressure.usage
        weights = {}
        for model in scene.view.current:
            for option in (*scene.view.options[model], scene.view.current[model]):
                load = scene.view.loads({model: option}).get(model)
                weights[(model, option.variant)] = load.rate * load.mean if load else 0.0
        limits.append(Limit(budget.name, weights, bound, max(now, 1e-9)))
    return limits


def _with_help(
    scene: Scene, trigger: Trigger, chosen: dict[str, Option], candidates: dict[str, list[Option]]
) -> dict[str, Option]:
    """The late model is on its fastest rung already: bring the host's utilisation down by the others' steps."""
    loads = scene.view.loads(scene.view.current)
    now = utilisation(loads)
    if now <= 0:
        return chosen
    weights = {}
    for model, options in candidates.items():
        for option in options:
            load = scene.view.loads({model: option}).get(model)
            weights[(model, option.variant)] = load.rate * load.mean if load else 0.0
    bound = min(MOST_UTILISATION, now * 0.7)
    current = {model: option.variant for model, option in scene.view.current.items()}
    return choose(candidates, current, [*_memory(scene, [trigger]), Limit(trigger.name, weights, bound, now)])


def _freed(scene: Scene, model: str, option: Option) -> int:
    now = scene.view.current[model]
    return (now.host_bytes + now.device_bytes) - (option.host_bytes + option.device_bytes)


def _cause(active: Sequence[Trigger], model: str) -> Trigger:
    """The trigger to name: the model's own SLO, else the most severe one."""
    own = next((t for t in active if t.name == f"slo:{model}"), None)
    return own or sorted(active, key=lambda t: (t.state != "saturated", t.name.startswith("slo:")))[0]
