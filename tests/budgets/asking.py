"""Short words for what planner tests set up and look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from budgets.plan import Memory, Plan, Step
from budgets.snapshot import Reading

MIB = 2**20
NOW = 1_000.0
Make = Callable[..., Any]


def used(mib: float, at: float = NOW) -> Reading:
    return Reading(value=mib * MIB, at=at)


def moves(plan: Plan) -> dict[str, str | None]:
    return {s.model: s.to_variant for s in plan.swaps}


def step(model: str, from_variant: str | None = "fp32", to_variant: str | None = "int8", trigger: str = "ram") -> Step:
    return Step(model=model, from_variant=from_variant, to_variant=to_variant, trigger=trigger, at=0.0)


def degraded(d: Any, *steps: Step) -> Any:
    d.memory = Memory(steps=steps)
    for s in steps:
        d.assignment[s.model] = s.to_variant
    return d
