"""Proteus (Ahmad et al., ASPLOS 2024): an integer program that scales accuracy with the load.

As its sections 4 and 5 describe it: maximise the accuracy of what is served subject to serving all of the demand, one
variant on a device, batches such that twice their time fits the objective; solved every 30 seconds and whenever the
demand outgrows the plan; the demand is an exponential average of what was monitored, with a margin of 5 %. The program
knows no memory besides a variant fitting its device, no peak, and no cost of changing. It is given the same share of
hosts' capacity to plan with as ours, beyond what the paper says.
"""

from __future__ import annotations

import math
from dataclasses import replace

from budgets.fleet.program import solve
from budgets.fleet.table import Demand
from budgets.fleet.world import Placement
from budgets.replay.engine import Seen

PERIOD_SECONDS = 30.0
MARGIN = 1.05
SMOOTH_SECONDS = 10.0


class Proteus:
    """Accuracy scaling without memory and without swap costs."""

    name = "proteus-like"

    def __init__(self) -> None:
        self._levels: dict[str, float] = {}
        self._planned: dict[str, float] = {}
        self._at = -math.inf
        self._last = 0.0

    def plan(self, seen: Seen) -> Placement | None:
        gain = 1.0 - math.exp(-(seen.at - self._last) / SMOOTH_SECONDS) if self._levels else 1.0
        self._last = seen.at
        for model, rate in seen.rates.items():
            before = self._levels.get(model, rate)
            self._levels[model] = before + gain * (rate - before)
        outgrown = any(rate > self._planned.get(m, 0.0) for m, rate in self._levels.items())
        if seen.at - self._at < PERIOD_SECONDS and not outgrown:
            return None
        self._at = seen.at
        self._planned = {m: MARGIN * rate for m, rate in self._levels.items()}
        groups = tuple(
            g if g.exclusive else replace(g, memory_bytes=math.inf, reserve_bytes=0.0) for g in seen.world.groups
        )
        return solve(replace(seen.world, groups=groups), Demand(self._planned), seen.holding)
