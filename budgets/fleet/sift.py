"""Large programs made small: which options are worth an integer, a bound that no plan can beat, and a plan to start from.

Without whole hosts the program is a linear one with a row for each model and two for each group, solved in milliseconds
for tens of thousands of options. Nearly every model is whole in its optimum (there are as many exceptions as there are
group rows), so its prices say which few options each model may end on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from budgets.fleet.highs import Floats, Ints, Program
from budgets.fleet.table import DROP, Table, Terms, prices

#: Programs with more options than this are sifted.
LARGE = 1500
#: Options kept for each model, at least: a rounding needs somewhere to go.
FEW = 3
#: A host is not added for less than this share of what it could serve.
FEWEST = 0.1


@dataclass(frozen=True)
class Sifted:
    """`chosen`: options kept. `share`: hosts of each of them in the optimum of the linear program. `price`: what each
    would add to that optimum. `bound`: the optimum, below the cost of every plan."""

    chosen: Ints
    share: Floats
    price: Floats
    bound: float


def sift(table: Table, terms: Terms) -> Sifted:
    """Hosts may be fractions here, and a seat's hosts serve all they can (no model's demand is exceeded by one host):
    whatever the full program allows, with the peak's cost and residency left out, costs at least as much."""
    size, models = len(table.options), len(table.models)
    most = np.minimum(terms.fill * table.rate, table.expected[table.model])
    program = Program(size + models, 0)
    program.cost[:size] = most * table.weight[table.model] * table.loss
    program.cost[:size] += prices(table, terms)[0] * (table.now == 0)
    program.cost[size:] = table.weight * DROP
    program.cost /= table.total
    program.top[:size] = table.count
    columns = np.arange(size)
    program.block(
        np.concatenate([table.model, np.arange(models)]),
        np.concatenate([columns, size + np.arange(models)]),
        np.concatenate([most, np.ones(models)]),
        table.expected,
        table.expected,
    )
    rows: list[tuple[Ints, Floats]] = []
    for index, group in enumerate(table.world.groups):
        own = columns[table.group == index]
        if not len(own):
            continue
        limits = [(np.ones(len(own)), float(group.count))]
        if not group.exclusive:
            limits = [(most[own] * table.seconds[own], terms.fill * group.streams * group.count)]
            if math.isfinite(group.room_bytes):
                limits.append((table.memory[own] / group.room_bytes, float(group.count)))
        for weights, high in limits:
            program.row(own, weights, 0.0, high)
            rows.append((own, weights))
    found = program.solve(seconds=terms.time_limit)
    if found is None:
        return Sifted(columns, table.now, np.zeros(size), -math.inf)
    price = program.cost[:size] - found.prices[table.model] * most
    for row, (own, weights) in enumerate(rows):
        price[own] -= found.prices[models + row] * weights
    share = found.x[:size]
    order = np.lexsort((price, table.model))
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size) - np.searchsorted(table.model[order], np.arange(models))[table.model[order]]
    keep = (share > 1e-9) | (table.now > 0) | (place < max(FEW, LARGE // models))
    return Sifted(columns[keep], share[keep], price[keep], found.cost)


def rounded(table: Table, share: Floats, price: Floats, terms: Terms) -> Floats:
    """Whole hosts near the linear optimum, that keep every group's memory and compute: the largest models first, each on
    the options that the optimum has it on, else on those of least price, until its demand is served."""
    counts = np.zeros(len(table.options))
    groups = table.world.groups
    memory = np.array([g.room_bytes * g.count for g in groups])
    compute = np.array([terms.fill * g.streams * g.count for g in groups], dtype=np.float64)
    free = np.array([float(g.count) if g.exclusive else math.inf for g in groups])
    seats = np.tile(np.array([float(g.count) for g in groups]), (len(table.models), 1))
    by_model: list[list[int]] = [[] for _ in table.models]
    for option in np.lexsort((price, -np.minimum(share, 1.0))).tolist():
        by_model[int(table.model[option])].append(option)
    for model in _largest_first(table, share):
        left = float(table.expected[model])
        for option in by_model[model]:
            group = int(table.group[option])
            rate = terms.fill * float(table.rate[option])
            while left > 1e-9 and seats[model, group] >= 1.0 and free[group] >= 1.0:
                served = min(left, rate)
                if not groups[group].exclusive:
                    served = min(served, compute[group] / float(table.seconds[option]))
                    if table.memory[option] > memory[group] or served < FEWEST * min(left, rate):
                        break
                    memory[group] -= table.memory[option]
                    compute[group] -= served * float(table.seconds[option])
                counts[option] += 1.0
                seats[model, group] -= 1.0
                free[group] -= 1.0
                left -= served
            if left <= 1e-9:
                break
    return counts


def _largest_first(table: Table, share: Floats) -> list[int]:
    """Models by what they take of the fleet in the linear optimum, of memory or of compute."""
    groups = table.world.groups
    memory = sum(g.room_bytes * g.count for g in groups if math.isfinite(g.room_bytes)) or 1.0
    compute = sum(g.streams * g.count for g in groups) or 1.0
    size = np.zeros(len(table.models))
    np.add.at(size, table.model, share * np.maximum(table.memory / memory, table.rate * table.seconds / compute))
    return np.argsort(-size, kind="stable").tolist()  # type: ignore[no-any-return]
