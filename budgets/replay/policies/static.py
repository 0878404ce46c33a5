"""Plans that are made once: every model on its best variant that fits, or on its cheapest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from budgets.fleet.program import solve
from budgets.fleet.table import Demand
from budgets.fleet.world import Placement, Rung, World
from budgets.replay.engine import Seen


class _Static(ABC):
    """Made from the first look, never changed."""

    name = "static"

    def __init__(self) -> None:
        self._made = False

    def plan(self, seen: Seen) -> Placement | None:
        if self._made:
            return None
        self._made = True
        world = self._narrow(seen.world)
        return solve(world, Demand(seen.rates), {})

    @abstractmethod
    def _narrow(self, world: World) -> World:
        """The world with the only rungs to choose from."""


class StaticBest(_Static):
    """Each model's best variant on each device, as many hosts as the first rates ask for."""

    name = "static-best"

    def _narrow(self, world: World) -> World:
        best = {(r.model, r.device): max(_same(world, r.model, r.device), key=lambda o: o.quality) for r in world.rungs}
        return replace(world, rungs=tuple(r for r in world.rungs if best[(r.model, r.device)] is r))


class StaticCheapest(_Static):
    """Each model's variant of least compute on each device."""

    name = "static-cheapest"

    def _narrow(self, world: World) -> World:
        cheapest = {
            (r.model, r.device): min(_same(world, r.model, r.device), key=lambda o: o.seconds(1)) for r in world.rungs
        }
        return replace(world, rungs=tuple(r for r in world.rungs if cheapest[(r.model, r.device)] is r))


def _same(world: World, model: str, device: str) -> list[Rung]:
    return [r for r in world.rungs if r.model == model and r.device == device]
