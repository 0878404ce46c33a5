"""What people ask of the last decision: why is it so, what would happen if, what would it take. Pure; JSON-able answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from budgets import obstacles
from budgets.config import BudgetsConfig
from budgets.moves import MEMORY, Scene
from budgets.options import Option, kept_bytes
from budgets.plan import Decision, Plan, Pressure, Swap, Trigger, Verdict
from budgets.planner import plan, scene_of
from budgets.remember import remember
from budgets.snapshot import Snapshot, SwapRecord
from variants.catalog import Catalog
from variants.errors import Conflict, UnknownBudget, UnknownModel

#: A what-if is followed for at most that many plans.
MOST_PLANS = 50
#: The largest rate at which a variant holds is found to this share.
RATE_STEPS = 30


def why(recent: Iterable[Decision], last: Decision | None, model: str) -> dict[str, Any]:
    """The last change of a model's variant: the swap, the pressures it was decided on, the ways considered with their
    costs, and how it came out."""
    made: Decision | None = None
    swap: Swap | None = None
    verdict: Verdict | None = None
    outcomes: list[SwapRecord] = []
    for decision in recent:
        for planned in decision.plan.swaps:
            if planned.model == model:
                made, swap, verdict, outcomes = decision, planned, None, []
        outcomes += [o for o in decision.outcomes if o.model == model]
        verdict = next((v for v in decision.verdicts if v.model == model), verdict)
    running = last.plan.assignment.get(model) if last else None
    quarantined = [q.model_dump(mode="json") for q in last.memory.quarantined if q.model == model] if last else []
    if made is None or swap is None:
        return {"variant": running, "since": None, "swap": None, "quarantined": quarantined}
    return {
        "variant": running,
        "since": made.at,
        "swap": swap.model_dump(mode="json"),
        "pressures": [p.model_dump(mode="json") for p in made.pressures],
        "alternatives": [a.model_dump(mode="json") for a in made.plan.alternatives],
        "infeasible": list(made.plan.infeasible),
        "gap": made.plan.gap,
        "outcomes": [o.model_dump(mode="json") for o in outcomes],
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "quarantined": quarantined,
    }


def what_if(
    catalog: Catalog, config: BudgetsConfig, last: Decision | None, budget: str, delta_bytes: int
) -> dict[str, Any]:
    """The plans that would follow if a memory budget were `delta_bytes` larger (negative: smaller) and nothing else
    changed: one after another, waiting included, until nothing more would happen.

    Raises UnknownBudget for one that is not a memory budget, Conflict for a limit that would be nothing; Unavailable never: a
    missing reading is said in the answer's `missing`.
    """
    known = [b.name for b in config.budgets if b.resource in MEMORY]
    if budget not in known:
        raise UnknownBudget(f"no memory budget {budget!r}; there are: {', '.join(known) or 'none'}")
    empty = {"budget": budget, "delta_bytes": delta_bytes, "swaps": [], "assignment": {}, "infeasible": []}
    if last is None or last.snapshot is None:
        return {**empty, "missing": "nothing was observed yet"}
    found = next((p for p in last.pressures if p.name == budget), None)
    if found is None or found.usage is None or found.limit is None:
        return {**empty, "missing": found.missing if found else "not assessed"}
    if found.limit + delta_bytes <= 0:
        raise Conflict(f"budget {budget!r} is {found.limit:.0f} bytes; it cannot be {-delta_bytes} smaller")
    limits = {budget: found.limit + delta_bytes}
    swaps, assignment, infeasible = follow(catalog, config, last, limits)
    return {
        **empty,
        "limit": limits[budget],
        "usage": found.usage,
        "swaps": [s.model_dump(mode="json") for s in swaps],
        "assignment": assignment,
        "infeasible": infeasible,
        "missing": "",
    }


def follow(
    catalog: Catalog, config: BudgetsConfig, last: Decision, limits: Mapping[str, float]
) -> tuple[list[Swap], dict[str, str | None], list[str]]:
    """All swaps that would follow from a decision with other limits, where the models end, and what could not be kept."""
    assert last.snapshot is not None
    settings = config.controller.model_copy(update={"staged": False})
    config = config.model_copy(update={"controller": settings})
    snapshot = last.snapshot.model_copy(update={"staged": {}})
    memory = last.memory.model_copy(update={"verifying": (), "planned": (), "ended_at": 0.0, "quick": None})
    moved = dict.fromkeys(MEMORY, 0.0)
    swaps: list[Swap] = []
    done = Plan(generation=snapshot.generation, assignment=snapshot.assignment)
    for _ in range(MOST_PLANS):
        at_rest = memory.model_copy(update={"swapped_at": {}, "planned_at": 0.0})
        pressures = tuple(_pressure(p, limits, moved, config) for p in last.pressures)
        triggers = tuple(_trigger(t, pressures, config) for t in last.triggers)
        done = plan(catalog, snapshot, pressures, triggers, config, at_rest, last.at, last.outlook)
        if not done.swaps:
            break
        swaps += done.swaps
        for resource in MEMORY:
            before, after = (
                kept_bytes(catalog, assignment, snapshot.shapes, resource)
                for assignment in (snapshot.assignment, done.assignment)
            )
            grown = after - before
            moved[resource] += grown * max(1, len(snapshot.hosts))
        memory = remember(memory, done, snapshot, config, last.at).model_copy(update={"planned": ()})
        snapshot = _moved_on(snapshot, done)
    return swaps, dict(done.assignment), list(done.infeasible)


def _pressure(
    pressure: Pressure, limits: Mapping[str, float], moved: Mapping[str, float], config: BudgetsConfig
) -> Pressure:
    """The pressure with a budget's other limit, once swaps have `moved` so many bytes of each resource."""
    budget = next((b for b in config.budgets if b.name == pressure.name), None)
    if budget is None or budget.resource not in MEMORY or pressure.usage is None or pressure.limit is None:
        return pressure
    usage, limit = pressure.usage + moved[budget.resource], limits.get(pressure.name, pressure.limit)
    return pressure.model_copy(update={"usage": usage, "limit": limit, "ratio": usage / limit})


def _trigger(trigger: Trigger, pressures: tuple[Pressure, ...], config: BudgetsConfig) -> Trigger:
    """Where a budget's trigger ends up when the pressure stays; an objective's stays where it is."""
    pressure = next((p for p in pressures if p.name == trigger.name), None)
    if trigger.name.startswith("slo:") or pressure is None or pressure.ratio is None:
        return trigger
    limits = config.thresholds()[trigger.name]
    state = "calm"
    if pressure.ratio >= limits.enter:
        state = "saturated" if pressure.ratio >= max(1.0, limits.enter) else "scaling"
    elif pressure.ratio > limits.exit and trigger.state != "calm":
        state = "scaling"
    return trigger.model_copy(update={"state": state})


def _moved_on(snapshot: Snapshot, done: Plan) -> Snapshot:
    moves = {s.model: s.to_variant for s in done.swaps}
    hosts = tuple(
        h.model_copy(update={"variants": {**h.variants, **moves}, "observed_generation": done.generation})
        for h in snapshot.hosts
    )
    changed = {"hosts": hosts, "assignment": done.assignment, "generation": done.generation}
    return snapshot.model_copy(update=changed)


def restore_needs(catalog: Catalog, config: BudgetsConfig, last: Decision | None, model: str) -> dict[str, Any]:
    """What it would take to run each better variant of a model: every limit that binds and by how much, the largest rate
    at which it would hold, and what else is waited for. Raises UnknownModel."""
    if model not in catalog.entries:
        raise UnknownModel(f"no model {model!r}; there are: {', '.join(sorted(catalog.entries))}")
    if last is None or last.snapshot is None:
        return {"model": model, "variant": None, "waits_for": ["nothing was observed yet"], "rungs": []}
    scene = scene_of(catalog, last.snapshot, last.pressures, last.triggers, config, last.memory, last.at, last.outlook)
    current = scene.view.current.get(model)
    if current is None:
        reason = scene.view.unknown.get(model, "it is not assigned")
        return {"model": model, "variant": None, "waits_for": [reason], "rungs": []}
    better = [o for o in scene.view.options[model] if o.variant is not None and o.quality > current.quality]
    return {
        "model": model,
        "variant": current.variant,
        "waits_for": _waits_for(scene, model),
        "rungs": [_needs(scene, option) for option in reversed(better)],
    }


def in_words(needs: Mapping[str, Any]) -> list[str]:
    """The answer of `restore_needs` in sentences."""
    lines = []
    for rung in needs["rungs"]:
        reasons = [o["reason"].removeprefix("not restored: ") for o in rung["obstacles"]]
        if rung["quarantined"]:
            reasons.insert(0, f"quarantined: {rung['quarantined']}")
        lines.append(
            f"to run {rung['variant']} (quality {rung['quality']:.4f}): {'; '.join(reasons) or 'it would hold now'}"
        )
    if needs["rungs"] and needs["waits_for"]:
        lines.append(f"a restore waits: {'; '.join(needs['waits_for'])}")
    return lines


def _waits_for(scene: Scene, model: str) -> list[str]:
    """What stands in the way of any restore of the model."""
    waits = []
    if model in scene.pins():
        waits.append(f"it is pinned to {scene.pins()[model] or 'parked'}")
    if reason := scene.departed(model):
        waits.append(reason)
    waits += [f"{t.name} is {t.state}" for t in scene.active()]
    waits += [f"{p.name}: {p.missing}" for p in scene.pressures if p.ratio is None]
    left = scene.config.controller.cooldown_seconds - (scene.now - scene.memory.planned_at)
    if left > 0:
        waits.append(f"cooldown: {left:.0f} s left")
    if scene.swaps_left() <= 0:
        waits.append(f"{scene.config.controller.swaps_per_hour} swaps within the hour are used up")
    return waits


def _needs(scene: Scene, option: Option) -> dict[str, Any]:
    in_the_way = [*obstacles.memory(scene, option), *obstacles.latency(scene, option)]
    rate = scene.view.rates.get(option.model)
    return {
        "variant": option.variant,
        "quality": option.quality,
        "quarantined": scene.quarantined(option.model, option.variant),
        "obstacles": [
            {
                **o.model_dump(),
                "by": None if o.value is None or o.allowed is None else abs(o.value - o.allowed),
            }
            for o in in_the_way
        ],
        "rate": None if rate is None else rate * scene.view.hosts,
        "rate_at_most": _rate_at_most(scene, option),
    }


def _rate_at_most(scene: Scene, option: Option) -> float | None:
    """Requests per second of the model, over all hosts, up to which the option would hold at the others' predicted rates;
    None where it would not even without one, or the rate is not known."""
    view = obstacles.at_peak(scene, option)
    if view.rates.get(option.model) is None or option.profile is None:
        return None

    def holds(rate: float) -> bool:
        return not obstacles.latency_at(scene, view.at({option.model: rate}), option)

    low, high = 0.0, 1.0 / option.profile.batches[0].p50_seconds
    if not holds(low):
        return None
    for _ in range(RATE_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low * view.hosts
