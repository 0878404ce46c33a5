"""What a joint choice must keep: the memory budgets, and engine time where a utilisation budget or a late model asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from budgets.choose import Limit
from budgets.moves import MEMORY, Scene
from budgets.options import Option

#: Memory never gives way to engine time: a thousandth of a budget missed counts as much as ten times all of that.
MEMORY_PRICE = 1e4


def memory(scene: Scene, pressed: Collection[str], rises: Mapping[str, float]) -> list[Limit]:
    """For each memory budget: what all models keep, per host, after the swaps. A pressed one must fall to what a restore
    may fill (`Scene.room`), no lower: so a restore never follows unless something else changes. A calm one must not be
    pushed past that. `rises`: bytes by which a budget's usage is about to rise by itself."""
    limits = []
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        if pressure.usage is None or pressure.limit is None:
            continue
        kept = sum(o.bytes_of(budget.resource) for o in scene.view.current.values())
        usage = pressure.usage + rises.get(budget.name, 0.0)
        bound = kept - (usage - scene.room(budget, pressure.limit)) / scene.view.hosts
        weights = {
            (o.model, o.variant): float(o.bytes_of(budget.resource))
            for model in scene.view.current
            for o in (*scene.view.options[model], scene.view.current[model])
        }
        asked = bound if budget.name in pressed else max(bound, float(kept))
        limits.append(Limit(budget.name, weights, asked, pressure.limit, MEMORY_PRICE))
    return limits


def compute(scene: Scene, pressed: Collection[str], options: Mapping[str, Sequence[Option]]) -> list[Limit]:
    """For a pressed utilisation budget: the engine time of all models must fall by the share that is too much. A calm one
    must not be pushed past what a restore may fill, as far as engine time does that."""
    limits = []
    for budget in scene.budgets("cpu", "gpu_utilization"):
        pressure = scene.pressure(budget.name)
        now = sum(option.busy for several in options.values() for option in several[:1])
        if not pressure.usage or pressure.limit is None or not now:
            continue
        room = budget.exit if budget.name in pressed else budget.enter - scene.config.controller.headroom
        bound = now * room * pressure.limit / pressure.usage
        asked = bound if budget.name in pressed else max(bound, now)
        limits.append(Limit(budget.name, engine_time(options), asked, now))
    return limits


def engine_time(options: Mapping[str, Sequence[Option]]) -> dict[tuple[str, str | None], float]:
    """Share of a host's time that each option's calls would take."""
    return {(o.model, o.variant): o.busy for several in options.values() for o in several}


def missed(chosen: Mapping[str, Option], limits: Sequence[Limit]) -> tuple[str, ...]:
    """Names of the limits that a choice does not keep."""
    names = []
    for limit in limits:
        total = sum(limit.weights.get((o.model, o.variant), 0.0) for o in chosen.values())
        if total > limit.bound + 1e-6 * limit.scale:
            names.append(limit.name)
    return tuple(names)
