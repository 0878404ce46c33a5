"""What is to come, as values: `budgets.forecast` makes them, the planner reads them, the journal keeps them."""

from __future__ import annotations

from collections.abc import Mapping

from variants.catalog import Frozen


class Ahead(Frozen):
    """The outlook for one series. `now`: its last value; `trend`: units per second; `peaks`: (seconds looked back,
    highest value then and, where there is a season, in what it says comes next), ascending; `span`: seconds of history."""

    now: float
    trend: float = 0.0
    peaks: tuple[tuple[float, float], ...] = ()
    span: float = 0.0
    season_seconds: float | None = None

    def peak(self, back_seconds: float) -> float:
        """The predicted peak when looking back that far (or as far as is known)."""
        found = self.now
        for back, value in self.peaks:
            found = max(found, value)
            if back >= back_seconds:
                break
        return found


class Outlook(Frozen):
    """What is to come: memory budgets by name (bytes that others than the models use), models' rates by name."""

    budgets: Mapping[str, Ahead] = {}
    rates: Mapping[str, Ahead] = {}
