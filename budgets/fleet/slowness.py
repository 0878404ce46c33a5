"""How much longer calls take than their profiles say, learned slowly and within bounds, and the world corrected by it.

What one variant shows on a group's hosts is believed of the group's others too, until they show their own: a slow clock
or a busy neighbour slows them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from budgets.fleet.world import Group, Rung, Seat, World

#: Observed / profiled is believed within these bounds.
BOUNDS = (0.5, 4.0)
#: Share of a new observation that is believed.
GAIN = 0.5
#: Corrections are made in steps of this size, rounded up, and changed when they are half a step too small or one too
#: large: noise changes nothing, and hosts are rather believed too slow than too fast.
STEP = 0.1
#: Share of a correction that is forgotten with each tick that shows nothing: a group that its slowness has emptied is
#: tried again.
FORGET = 0.01


class Slowness:
    """Keeps a factor for each group; `steps` are those that are corrected for."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}
        self._made: tuple[object, World] | None = None
        self.steps: dict[str, float] = {}

    def take(self, world: World, observed: Mapping[Seat, float]) -> World:
        """Learn from a tick's observed / profiled seconds by seat; the world with its groups' devices corrected."""
        groups: dict[str, list[float]] = {}
        for (group, _, _), factor in observed.items():
            groups.setdefault(group, []).append(min(BOUNDS[1], max(BOUNDS[0], factor)))
        for group in {*groups, *self._factors}:
            before = self._factors.get(group, 1.0)
            seen, gain = (median(groups[group]), GAIN) if group in groups else (1.0, FORGET)
            self._factors[group] = before + gain * (seen - before)
        steps = {
            g: s if s - STEP <= f <= s + STEP / 2 else round(math.ceil(f / STEP) * STEP, 6)
            for g, f in self._factors.items()
            for s in (self.steps.get(g, 1.0),)
        }
        self.steps = steps = {g: s for g, s in steps.items() if s != 1.0}
        if not steps:
            return world
        key = (world.groups, world.rungs, tuple(sorted(steps.items())))
        if self._made is None or self._made[0] != key:
            self._made = (key, _corrected(world, steps))
        return self._made[1]


def _corrected(world: World, factors: Mapping[str, float]) -> World:
    groups: list[Group] = []
    rungs: list[Rung] = []
    for group in world.groups:
        factor = factors.get(group.name, 1.0)
        device = f"{group.device} of {group.name}"
        groups.append(replace(group, device=device))
        rungs += [
            replace(r, device=device, batches=tuple((b, s * factor) for b, s in r.batches))
            for r in world.rungs
            if r.device == group.device
        ]
    return replace(world, groups=tuple(groups), rungs=tuple(rungs))
