"""trimtab's own planner, as it is."""

from __future__ import annotations

from budgets.fleet.planner import FleetPlanner, Look, Settings
from budgets.fleet.world import Placement
from budgets.replay.engine import Seen

#: Virtual time stands still while a plan is made; a limit near what plans take would make replays differ.
TIME_LIMIT_SECONDS = 20.0


class Trimtab:
    """See `budgets.fleet.planner`."""

    name = "trimtab"

    def __init__(self) -> None:
        self._planner = FleetPlanner(Settings(time_limit=TIME_LIMIT_SECONDS))

    def plan(self, seen: Seen) -> Placement | None:
        return self._planner.plan(Look(seen.at, seen.world, seen.rates, seen.holding, seen.ready, seen.slowness))
