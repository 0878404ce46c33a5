"""A good placement in milliseconds, where hosts hold one variant each: better and better by changing one host, or two at a
time, from the placement in force. What the exact solver then starts from.

On such hosts a placement's cost falls apart by model, and the best way to serve a load with given hosts is to fill the
best variants first. So a change of one host is priced by two models' costs.
"""

from __future__ import annotations

import numpy as np

from budgets.fleet.highs import Floats
from budgets.fleet.table import DROP, PEAK, Table, Terms, prices

#: How many changes of one host, the most promising first, are tried as the first half of a change of two.
PAIRS = 40
#: Changes made at most.
MOST = 300


class Improver:
    """Keeps the counts (hosts by option) and each model's cost."""

    def __init__(self, table: Table, terms: Terms) -> None:
        self._table = table
        self._adding, self._frozen, self._thawing = (part.tolist() for part in prices(table, terms))
        self._fill = terms.fill
        self._peaked, self._absent = table.peaked.tolist(), table.absent.tolist()
        self._expected, self._peak = table.expected.tolist(), table.peak.tolist()
        self._weight, self._resident = table.weight.tolist(), table.resident.tolist()
        self._now = table.now.tolist()
        self._rate, self._loss, self._group = table.rate.tolist(), table.loss.tolist(), table.group.tolist()
        self._model = table.model.tolist()
        order = np.argsort(table.loss, kind="stable")
        self._by_model: list[list[int]] = [[] for _ in table.models]
        self._by_group: list[list[int]] = [[] for _ in table.world.groups]
        for option in order.tolist():
            self._by_model[self._model[option]].append(option)
            self._by_group[self._group[option]].append(option)

    def run(self, counts: Floats) -> Floats:
        """The counts improved until nothing more is found, or after so many changes."""
        self._n = [int(n) for n in counts]
        self._free = [
            group.count - sum(self._n[o] for o in own)
            for group, own in zip(self._table.world.groups, self._by_group, strict=True)
        ]
        self._costs = [self._cost(m) for m in range(len(self._table.models))]
        for _ in range(MOST):
            moves = self._moves()
            if moves and moves[0][0] < -1e-9:
                self._make(moves[0][1], moves[0][2])
            elif not self._pair(moves[:PAIRS]):
                break
        return np.array(self._n, dtype=np.float64)

    def _cost(self, model: int) -> float:
        weight, fill = self._weight[model], self._fill
        left, able, cost = self._expected[model], 0.0, 0.0
        some = False
        for option in self._by_model[model]:
            count = self._n[option]
            frozen = self._frozen[option]
            if count:
                some = True
                rate = count * self._rate[option]
                able += rate
                served = min(left, fill * rate)
                left -= served
                cost += served * weight * self._loss[option]
                if count > self._now[option]:
                    cost += self._adding[option] * (count - self._now[option])
            if frozen > count:
                cost += self._thawing[option] * (frozen - count)
        if left > 0.0:
            cost += DROP * weight * left
        if self._peaked[model] and able < self._peak[model]:
            cost += PEAK * weight * (self._peak[model] - able)
        if not some and self._resident[model]:
            cost += self._absent[model]
        return float(cost)

    def _moves(self) -> list[tuple[float, int, int]]:
        """Every change of one host: what it adds to the cost, from which option (-1: a free host), to which."""
        found: list[tuple[float, int, int]] = []
        for group, own in enumerate(self._by_group):
            sources = [o for o in own if self._n[o]]
            out = {o: self._tried(o, -1) for o in sources}
            into = {o: self._tried(o, 1) for o in own}
            if self._free[group] > 0:
                out[-1] = 0.0
            for source, less in out.items():
                for target in own:
                    if source == target:
                        continue
                    if source >= 0 and self._model[source] == self._model[target]:
                        self._n[source] -= 1
                        change = self._tried(target, 1)
                        self._n[source] += 1
                    else:
                        change = less + into[target]
                    found.append((change, source, target))
        found.sort()
        return found

    def _tried(self, option: int, by: int) -> float:
        model = self._model[option]
        self._n[option] += by
        change: float = self._cost(model) - self._costs[model]
        self._n[option] -= by
        return change

    def _make(self, source: int, target: int) -> None:
        self._n[target] += 1
        self._costs[self._model[target]] = self._cost(self._model[target])
        if source >= 0:
            self._n[source] -= 1
            self._costs[self._model[source]] = self._cost(self._model[source])
        else:
            self._free[self._group[target]] -= 1

    def _unmake(self, source: int, target: int) -> None:
        if source >= 0:
            self._make(target, source)
            return
        self._n[target] -= 1
        self._costs[self._model[target]] = self._cost(self._model[target])
        self._free[self._group[target]] += 1

    def _pair(self, moves: list[tuple[float, int, int]]) -> bool:
        """Make two changes that pay together though neither does alone."""
        for change, source, target in moves:
            self._make(source, target)
            second = next(iter(self._moves()), None)
            if second is not None and change + second[0] < -1e-9:
                self._make(second[1], second[2])
                return True
            self._unmake(source, target)
        return False
