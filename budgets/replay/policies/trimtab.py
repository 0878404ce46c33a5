"""trimtab's own planner, as it is."""

from __future__ import annotations

from budgets.fleet.planner import FleetPlanner, Look
from budgets.fleet.world import Placement
from budgets.replay.engine import Seen


class Trimtab:
    """See `budgets.fleet.planner`."""

    name = "trimtab"

    def __init__(self) -> None:
        self._planner = FleetPlanner()

    def plan(self, seen: Seen) -> Placement | None:
        return self._planner.plan(Look(seen.at, seen.world, seen.rates, seen.holding, seen.ready, seen.slowness))
