"""A good placement in milliseconds, where hosts hold one variant each: better and better by changing one host, or two at a
time, from the placement in force. What the exact solver then starts from.

On such hosts a placement's cost falls apart by model, and the best way to serve a load with given hosts is to fill the
best variants first. So a change of one host is priced by two models' costs.
"""

from __future__ import annotations

import heapq

import numpy as np

from budgets.fleet.highs import Floats
from budgets.fleet.table import BEYOND, PEAK, Table, Terms, absent, leaving, prices

#: How many changes of one host, the most promising first, are tried as the first half of a change of two.
PAIRS = 40
#: Changes made at most.
MOST = 300


class Improver:
    """Keeps the counts (hosts by option) and each model's cost."""

    def __init__(self, table: Table, terms: Terms) -> None:
        self._table = table
        self._adding, self._frozen, self._thawing = (part.tolist() for part in prices(table, terms))
        self._leaving = leaving(table, terms).tolist()
        self._fill, self._unserved = terms.fill, terms.unserved
        self._further = [terms.unserved * share for share in BEYOND]
        self._peaked, self._absent = table.peaked.tolist(), absent(table, terms).tolist()
        self._expected, self._peak = table.expected.tolist(), table.peak.tolist()
        self._beyond = table.beyond.T.tolist()
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
        self._widest = max(map(len, self._by_model), default=0)

    def run(self, counts: Floats) -> Floats:
        """The counts improved until nothing more is found, or after so many changes."""
        self._n = [int(n) for n in counts]
        self._free = [
            group.count - sum(self._n[o] for o in own)
            for group, own in zip(self._table.world.groups, self._by_group, strict=True)
        ]
        self._costs = [self._cost(m) for m in range(len(self._table.models))]
        self._known: dict[tuple[int, int], float] = {}
        for _ in range(MOST):
            moves = self._moves()
            if moves and moves[0][0] < -1e-9:
                self._make(moves[0][1], moves[0][2])
            elif not self._pair(moves):
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
            if count < self._now[option]:
                cost += self._leaving[option] * (self._now[option] - count)
            if frozen > count:
                cost += self._thawing[option] * (frozen - count)
        if left > 0.0:
            cost += self._unserved * weight * left
        if self._peaked[model] and able < self._peak[model]:
            cost += PEAK * self._unserved * weight * (self._peak[model] - able)
        for most, price in zip(self._beyond[model], self._further, strict=False):
            if able < most:
                cost += price * weight * (most - able)
        if not some and self._resident[model]:
            cost += self._absent[model]
        return float(cost)

    def _moves(self) -> list[tuple[float, int, int]]:
        """The best changes of one host: what each adds to the cost, from which option (-1: a free host), to which.

        Between two models a change costs what either does, so the best are among the sums of the best of both; as many
        more of them are looked at as may be of one model."""
        found: list[tuple[float, int, int]] = []
        for group, own in enumerate(self._by_group):
            most = PAIRS + self._widest
            sources = [o for o in own if self._n[o]]
            out = [(self._tried(o, -1), o) for o in sources]
            if self._free[group] > 0:
                out.append((0.0, -1))
            into = heapq.nsmallest(most, ((self._tried(o, 1), o) for o in own))
            for less, source in heapq.nsmallest(most, out):
                model = self._model[source] if source >= 0 else -1
                found += [(less + more, source, o) for more, o in into if self._model[o] != model]
            for source in sources:
                for target in self._by_model[self._model[source]]:
                    if target != source and self._group[target] == group:
                        found.append((self._exchanged(source, target), source, target))
        return heapq.nsmallest(PAIRS, found)

    def _exchanged(self, source: int, target: int) -> float:
        """What it adds to the cost that a host changes to another option of its model. Known until the model changes."""
        change = self._known.get((source, target))
        if change is None:
            self._n[source] -= 1
            change = self._known[(source, target)] = self._tried(target, 1, known=False)
            self._n[source] += 1
        return change

    def _tried(self, option: int, by: int, *, known: bool = True) -> float:
        key = (option, -2 - by)
        change = self._known.get(key) if known else None
        if change is None:
            model = self._model[option]
            self._n[option] += by
            change = self._cost(model) - self._costs[model]
            self._n[option] -= by
            if known:
                self._known[key] = change
        return change

    def _price(self, model: int) -> None:
        """A model's hosts have changed."""
        self._costs[model] = self._cost(model)
        for option in self._by_model[model]:
            self._known.pop((option, -3), None)
            self._known.pop((option, -1), None)
            for other in self._by_model[model]:
                self._known.pop((option, other), None)

    def _make(self, source: int, target: int) -> None:
        self._n[target] += 1
        self._price(self._model[target])
        if source >= 0:
            self._n[source] -= 1
            self._price(self._model[source])
        else:
            self._free[self._group[target]] -= 1

    def _unmake(self, source: int, target: int) -> None:
        if source >= 0:
            self._make(target, source)
            return
        self._n[target] -= 1
        self._price(self._model[target])
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
