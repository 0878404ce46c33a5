"""Large programs made small: which options are worth an integer, and a bound that no plan can beat.

Without whole hosts the program is a linear one with a row for each model and two for each group, solved in milliseconds
for tens of thousands of options. Nearly every model is whole in its optimum: there are as many exceptions as there are
group rows, and models that need several hosts. So all but a core of models stay where the optimum has them, as in the
core of a knapsack (Balas and Zemel 1980), and the integer program is solved over the core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from budgets.fleet.highs import Floats, Ints, Program
from budgets.fleet.limits import add_limits, add_stays
from budgets.fleet.table import Table, Terms, prices, serving

#: Programs with more options than this are sifted.
LARGE = 1500
#: Options that a model of the core is given.
FEW = 6


@dataclass(frozen=True)
class Sifted:
    """`share`: hosts of each option in the optimum of the linear program. `price`: what each would add to that optimum.
    `bound`: the optimum, below the cost of every plan. `frozen`: options that cost something to leave."""

    table: Table
    frozen: npt.NDArray[np.bool_]
    share: Floats
    price: Floats
    bound: float

    def core(self, models: int) -> tuple[Ints, Floats]:
        """Options: those in the optimum or frozen, and the cheapest few of the models that the optimum splits and of so many others
        that are nearest to a change. With how many hosts of each there are at least: the other models stay where they are."""
        table = self.table
        used = self.share > 1e-9
        order = np.lexsort((self.price, table.model))
        place = np.empty(len(used), dtype=np.int64)
        first = np.searchsorted(table.model[order], np.arange(len(table.models)))
        place[order] = np.arange(len(used)) - first[table.model[order]]
        free = self._split(used)
        second = np.full(len(table.models), math.inf)
        np.minimum.at(second, table.model[~used], self.price[~used] / table.memory[~used].clip(1.0))
        second[free] = math.inf
        free[np.argsort(second, kind="stable")[:models]] = True
        chosen = used | self.frozen | (free[table.model] & ((place < FEW) | (table.now > 0)))
        stay = np.where(free[table.model] | self.frozen, 0.0, np.round(self.share))
        return np.flatnonzero(chosen), stay[chosen]

    def _split(self, used: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Models that are not whole in the optimum: on several options, or on parts of hosts."""
        table = self.table
        count = np.bincount(table.model[used], minlength=len(table.models))
        part = np.abs(self.share - np.round(self.share)) > 1e-6
        split: npt.NDArray[np.bool_] = np.not_equal(count, 1)
        split[table.model[used & part]] = True
        return split


def sift(table: Table, terms: Terms, miss: float = 0.0) -> Sifted | None:
    """Hosts may be fractions here, and a seat's hosts serve all they can (no model's demand is exceeded by one host):
    whatever the full program allows, with the peak's cost and residency left out, costs at least as much. A model that
    stays may be served less than its host could: then that much is spilt, which takes back the most it can have cost.
    `miss`: at what price limits are missed together. None when even this was not solved in time."""
    size, models, limits = len(table.options), len(table.models), len(table.limits)
    stay = np.flatnonzero(table.stays)
    spill = size + models + limits + np.arange(len(stay))
    most = np.minimum(terms.fill * table.rate, table.expected[table.model])
    dearest, slowest = np.zeros(models), np.zeros(models)
    np.maximum.at(dearest, table.model, table.loss)
    np.maximum.at(slowest, table.model, table.seconds)
    program = Program(size + models + limits + len(stay), 0)
    program.cost[:size] = most * serving(table, terms)
    program.cost[:size] += prices(table, terms)[0] * (table.now == 0)
    program.cost[size : size + models] = table.weight * terms.unserved
    program.cost[spill] = -table.weight[stay] * dearest[stay]
    program.cost /= table.total
    program.top[:size] = table.count
    columns = np.arange(size)
    program.block(
        np.concatenate([table.model, np.arange(models), stay]),
        np.concatenate([columns, size + np.arange(models), spill]),
        np.concatenate([most, np.ones(models), -np.ones(len(stay))]),
        table.expected,
        table.expected,
    )
    rows: list[tuple[Ints, Floats]] = []
    for index, group in enumerate(table.world.groups):
        own = columns[table.group == index]
        if not len(own):
            continue
        if group.exclusive:
            program.row(own, np.ones(len(own)), 0.0, group.count)
            rows.append((own, np.ones(len(own))))
            continue
        busy = most[own] * table.seconds[own]
        spilt = np.concatenate([busy, -slowest[stay]])
        program.row(np.concatenate([own, spill]), spilt, -math.inf, terms.fill * group.streams * group.count)
        rows.append((own, busy))
        if math.isfinite(group.room_bytes):
            program.row(own, table.memory[own] / group.room_bytes, 0.0, group.count)
            rows.append((own, table.memory[own] / group.room_bytes))
    rows += [(columns, weights) for weights in table.limits]
    add_limits(program, table, size + models, miss)
    add_stays(program, table, float(sum(g.count for g in table.world.groups)))
    found = program.solve(seconds=terms.time_limit)
    if found is None:
        return None
    price = program.cost[:size] - found.prices[table.model] * most
    for row, (own, weights) in enumerate(rows):
        price[own] -= found.prices[models + row] * weights
    if len(stay):
        staying = np.flatnonzero(table.stays[table.model])
        last = found.prices[len(found.prices) - len(stay) :]
        price[staying] -= last[np.searchsorted(stay, table.model[staying])]
    return Sifted(table, prices(table, terms)[1] > 0, found.x[:size], price, found.cost)
