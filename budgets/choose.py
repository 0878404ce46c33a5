"""The joint choice: one option for every model at least cost, subject to what must hold. An exact integer program.

Minimise sum(cost of the chosen options) + a little for each change, subject to
  - one option for each model;
  - for each limit: sum(weight of the chosen options) <= bound, or as far below as can be (slack at a price that no
    quality can pay).
Solved by HiGHS (`scipy.optimize.milp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from budgets.options import Option

#: Cost of changing a model at all: between choices of equal quality the one with fewer changes wins.
CHANGE = 1e-6
#: Price of one unit of a limit's own size missed; far above any sum of quality losses.
SLACK = 1e6
#: ... and of any lateness (`budgets.degrade.LATE`): that many times the dearest option.
SLACK_SHARE = 1e4
TIME_LIMIT_SECONDS = 1.0


@dataclass(frozen=True)
class Limit:
    """sum over models of `weight(option)` must be at most `bound`. `scale` makes the numbers comparable (a budget's
    size)."""

    name: str
    weights: Mapping[tuple[str, str | None], float]
    bound: float
    scale: float


def choose(
    candidates: Mapping[str, Sequence[Option]], current: Mapping[str, str | None], limits: Sequence[Limit]
) -> dict[str, Option]:
    """The cheapest choice that keeps every limit, or misses them by as little as possible.

    `candidates` has at least one option for each model; `current` is what each runs now.
    """
    models = [m for m in candidates if candidates[m]]
    columns = [option for m in models for option in candidates[m]]
    if not columns:
        return {}
    price = max(SLACK, SLACK_SHARE * max(o.cost for o in columns))
    count, slacks = len(columns), len(limits)
    cost = np.array(
        [o.cost + (0.0 if current.get(o.model) == o.variant else CHANGE) for o in columns] + [price] * slacks
    )
    matrix = lil_matrix((len(models) + slacks, count + slacks))
    lower = np.concatenate([np.ones(len(models)), np.full(slacks, -np.inf)])
    upper = np.concatenate([np.ones(len(models)), np.zeros(slacks)])
    rows = {m: i for i, m in enumerate(models)}
    for column, option in enumerate(columns):
        matrix[rows[option.model], column] = 1.0
        for index, limit in enumerate(limits):
            matrix[len(models) + index, column] = limit.weights.get((option.model, option.variant), 0.0) / limit.scale
    for index, limit in enumerate(limits):
        matrix[len(models) + index, count + index] = -1.0
        upper[len(models) + index] = limit.bound / limit.scale
    integrality = np.concatenate([np.ones(count), np.zeros(slacks)])
    bounds = Bounds(np.zeros(count + slacks), np.concatenate([np.ones(count), np.full(slacks, np.inf)]))
    result = milp(
        cost,
        constraints=LinearConstraint(matrix.tocsr(), lower, upper),
        integrality=integrality,
        bounds=bounds,
        # HiGHS accepts a relative gap of 1e-4 unless told: with slack in the objective that is more than any quality.
        options={"time_limit": TIME_LIMIT_SECONDS, "mip_rel_gap": 0.0},
    )
    if result.x is None:  # no solution in time: change nothing
        return {m: next((o for o in candidates[m] if o.variant == current.get(m)), candidates[m][0]) for m in models}
    chosen = {}
    for column, option in enumerate(columns):
        if result.x[column] > 0.5:
            chosen[option.model] = option
    return chosen
