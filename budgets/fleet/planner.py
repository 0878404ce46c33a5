"""The fleet's planner: once a tick, from what was seen to the placement to move to, or None to leave things alone.

It plans for a forecast, not for the last tick; it asks the joint program only when something relevant has changed; and a
change must pay for the requests that loading it costs. Pure but for its own memory; time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from budgets.fleet import forecast
from budgets.fleet.capacity import capacity
from budgets.fleet.program import Terms, solve
from budgets.fleet.world import Placement, Seat, World


@dataclass(frozen=True)
class Settings:
    """Times in seconds. `stands`: how long a plan is expected to stand; what loading costs is spread over it. `wait`: a
    lower demand must last this long before the plan follows it. `drift`: a demand this share off the planned one is
    relevant."""

    forecast: forecast.Terms = field(default_factory=forecast.Terms)
    stands: float = 60.0
    loading: float = 0.3
    wait: float = 10.0
    drift: float = 0.1
    time_limit: float = 0.5


@dataclass
class FleetPlanner:
    """Keeps forecasts and the plan in force from tick to tick."""

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self._forecasts: dict[str, forecast.Forecast] = {}
        self._planned: dict[str, float] = {}
        self._groups: object = None
        self._at = -math.inf

    def plan(
        self, at: float, world: World, rates: Mapping[str, float], holding: Mapping[Seat, int]
    ) -> Placement | None:
        """The placement to move to; None when the one in force will do. `rates` are requests per second since the last
        tick, `holding` how many hosts hold each variant."""
        for model in world.aims:
            self._forecasts.setdefault(model, forecast.Forecast(self.settings.forecast)).take(at, rates.get(model, 0.0))
        demand = {m: f.demand() for m, f in self._forecasts.items()}
        first = not self._planned
        if not first and not self._relevant(at, world, demand):
            return None
        price = 0.0 if first else self.settings.loading / self.settings.stands
        made = solve(
            world, demand, holding, Terms(swap_price=price, time_limit=5.0 if first else self.settings.time_limit)
        )
        self._planned, self._groups, self._at = demand, world.groups, at
        return made

    def _relevant(self, at: float, world: World, demand: Mapping[str, float]) -> bool:
        if world.groups != self._groups:
            return True
        total = sum(demand.values())
        for model, rate in demand.items():
            planned = self._planned.get(model, 0.0)
            if rate > planned + self.settings.drift * 0.2 * max(planned, 0.01 * total):
                return True
        if at - self._at < self.settings.wait:
            return False
        return any(
            abs(rate - self._planned.get(m, 0.0)) > self.settings.drift * max(rate, 0.01 * total)
            for m, rate in demand.items()
        )


def able(world: World, holding: Mapping[Seat, int]) -> dict[str, float]:
    """Requests per second that the hosts holding each model could serve if they served nothing else."""
    most: dict[str, float] = {}
    groups = {g.name: g for g in world.groups}
    for (group, model, variant), count in holding.items():
        rung = world.by_name[(model, variant, groups[group].device)]
        found = capacity(rung, groups[group], world.aims[model].slo_seconds)
        most[model] = most.get(model, 0.0) + (count * found.rate if found else 0.0)
    return most
