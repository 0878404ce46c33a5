"""What the planner remembers once a plan has been handed over. Pure.

A degradation goes on the stack of steps that are to be taken back, a restore takes it off. Relief may also bring a model
back to a variant that it had left (a smaller one is not always the faster one): then nothing is left to take back.
"""

from __future__ import annotations

from budgets.config import BudgetsConfig
from budgets.forecast import MOST_REGRETS
from budgets.plan import Broke, Memory, Plan, Step, Swap
from budgets.snapshot import Reading, Snapshot

#: Leaving a variant that soon after it was restored was a regret, seconds at least.
LEAST_REGRET_SECONDS = 600.0


def remember(memory: Memory, done: Plan, snapshot: Snapshot, config: BudgetsConfig, now: float) -> Memory:
    """The planner's memory once this plan has been handed over, at `now` (unix seconds)."""
    steps, broke = memory.steps, memory.broke
    rates = {line.model: line.rate for line in snapshot.readings.models}
    restored, regrets = dict(memory.restored_at), dict(memory.regrets)
    soon = max(LEAST_REGRET_SECONDS, 10 * config.controller.peak_seconds)
    begun = [s for s in done.swaps if s.stage != "rest"]  # the rest is what one host has begun
    for swap in begun:
        steps = _stacked(steps, swap, now)
        if swap.direction == "restore":
            restored[f"{swap.model}/{swap.to_variant}"] = now
        if swap.direction != "degrade":
            continue
        key = f"{swap.model}/{swap.from_variant}"
        if key in restored:
            again = now - restored.pop(key) < soon
            regrets[key] = min(MOST_REGRETS, regrets.get(key, 0) + 1) if again else 0
        rate = rates.get(swap.model)
        if swap.trigger == f"slo:{swap.model}" and isinstance(rate, Reading):
            broke = _broken(broke, swap, rate.value, now)
    pinned = {s.model for s in done.swaps if s.direction == "pin"}
    steps = tuple(s for s in steps if s.model not in pinned)
    swapped = {**memory.swapped_at, **{s.model: now for s in done.swaps}}
    planned = (*(at for at in memory.planned if at > now - 3600.0), *(now for _ in begun))
    quick = any(a.chosen and a.note == "quick" for a in done.alternatives)
    return memory.model_copy(
        update={
            "restored_at": restored,
            "regrets": regrets,
            "planned": planned,
            "quick": (_step_of(steps, begun[-1]) if quick and begun else None) if done.swaps else memory.quick,
            "steps": steps,
            "broke": broke,
            "swapped_at": swapped,
            "planned_at": now if done.swaps else memory.planned_at,
            "told_at": now if done.serving != snapshot.serving else memory.told_at,
        }
    )


def _stacked(steps: tuple[Step, ...], swap: Swap, now: float) -> tuple[Step, ...]:
    """The steps to be taken back after a swap. One that brings a model to a variant that a step had left, by a restore or
    as relief, takes that step off and the model's later ones along (a restore may go past a step whose variant is
    quarantined)."""
    if swap.direction not in ("degrade", "restore"):
        return steps
    target = (swap.model, swap.to_variant)
    left = max((i for i, s in enumerate(steps) if (s.model, s.from_variant) == target), default=None)
    if left is not None:
        return tuple(s for i, s in enumerate(steps) if i < left or s.model != swap.model)
    if swap.direction == "restore":
        return steps
    step = Step(
        model=swap.model, from_variant=swap.from_variant, to_variant=swap.to_variant, trigger=swap.trigger, at=now
    )
    return (*steps, step)


def _step_of(steps: tuple[Step, ...], swap: Swap) -> Step | None:
    """The step that a swap put on the stack; None where it went back to a variant that another had left."""
    return next((s for s in reversed(steps) if (s.model, s.to_variant) == (swap.model, swap.to_variant)), None)


def _broken(broke: tuple[Broke, ...], swap: Swap, rate: float, now: float) -> tuple[Broke, ...]:
    """With the variant whose objective broke at this rate, requests per second; it counts each time that it does."""
    if swap.from_variant is None:
        return broke
    before = [b for b in broke if (b.model, b.variant) == (swap.model, swap.from_variant)]
    times = 1 + max((b.times for b in before), default=0)
    others = (b for b in broke if b not in before)
    return (*others, Broke(model=swap.model, variant=swap.from_variant, rate=rate, at=now, times=times))
