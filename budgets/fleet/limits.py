"""What is measured of a host and must be kept: budgets that others use too, so that it may be impossible to keep them.

Then they are missed by as little as can be, and only then is anything else looked at: a plan is made over what misses them
least (`least_missed` first, its answer as a bound on what may be missed after).
"""

from __future__ import annotations

import math

import numpy as np

from budgets.fleet.highs import Program
from budgets.fleet.table import Table, Terms

#: Misses that differ by less, or by less of themselves, are equal.
EQUAL = 1e-9
SAME = 1e-6


def least_missed(table: Table, terms: Terms) -> float:
    """At what price the limits may be missed together: no more than must be, 0 where something keeps them all, infinite
    where nothing was found in time."""
    rows, size = table.limits.shape
    if not rows:
        return 0.0
    program = Program(size + rows, size)
    program.cost[size:] = table.missing
    program.top[:size] = table.count
    add_limits(program, table, size)
    add_stays(program, table)
    found = program.solve(seconds=terms.time_limit, nodes=terms.nodes)
    if found is None:
        return math.inf
    return found.cost * (1 + SAME) + EQUAL if found.cost > EQUAL else 0.0


def add_limits(program: Program, table: Table, first_missed: int, miss: float = math.inf) -> None:
    """The limits' rows, over the options' hosts (the first columns); columns from `first_missed` are by how much each is
    missed, at a price of `miss` at most together."""
    rows, size = table.limits.shape
    if not rows:
        return
    columns, missed = np.arange(size), np.arange(first_missed, first_missed + rows)
    for weights, bound, column in zip(table.limits, table.bounds, missed, strict=True):
        program.row(np.append(columns, column), np.append(weights, -1.0), -math.inf, bound)
    if math.isfinite(miss):
        program.row(missed, table.missing, 0.0, miss)


def add_stays(program: Program, table: Table, most: float = math.inf) -> None:
    """A row for each model that stays, in their order: it is on one host or more, up to so many."""
    models = np.flatnonzero(table.stays)
    if len(models):
        own = np.flatnonzero(table.stays[table.model])
        rows = np.searchsorted(models, table.model[own])
        program.block(rows, own, 1.0, np.ones(len(models)), np.full(len(models), most))
