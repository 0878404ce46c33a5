"""A linear or mixed-integer program put together row block by row block, and solved by HiGHS (Huangfu and Hall 2018).

HiGHS itself (`highspy`) and not `scipy.optimize.milp`, because a plan starts from the one in force (a warm start).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """`x` by column, its cost, a bound below every solution's cost, and the dual price of each row (a linear program
    only; empty for an integer one)."""

    x: Floats
    cost: float
    bound: float
    prices: Floats


class _Quiet(highspy.Highs):  # type: ignore[misc]
    """Prints nothing: the solver greets on standard output when its callbacks, unused here, are enabled."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)


def by_row(
    rows: Ints, cols: Ints, values: Floats, count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
    """A sparse matrix of `count` rows from triplets in any order, those of one place added up: where each row starts (count + 1
    numbers), columns and values row by row. (As `scipy.sparse.csr_matrix` has it, which takes 10 MiB to import.)"""
    order = np.lexsort((cols, rows))
    rows, cols, values = rows[order], cols[order], values[order]
    first = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])][: len(rows)])
    start = np.searchsorted(rows[first], np.arange(count + 1))
    return (
        start.astype(np.int32),
        cols[first].astype(np.int32),
        np.add.reduceat(values, first) if len(first) else values,
    )


class Program:
    """Minimise cost @ x subject to low <= A x <= high and bottom <= x <= top, the first `integers` columns whole."""

    def __init__(self, columns: int, integers: int) -> None:
        self.columns, self.integers = columns, integers
        self.cost = np.zeros(columns)
        self.bottom = np.zeros(columns)
        self.top = np.full(columns, math.inf)
        self._rows: list[Ints] = []
        self._cols: list[Ints] = []
        self._values: list[Floats] = []
        self._low: list[Floats] = []
        self._high: list[Floats] = []
        self._count = 0

    def block(
        self,
        rows: npt.ArrayLike,
        cols: npt.ArrayLike,
        values: npt.ArrayLike,
        low: npt.ArrayLike,
        high: npt.ArrayLike,
    ) -> None:
        """Rows as triplets (row within the block, column, value), and their bounds."""
        low = np.atleast_1d(np.asarray(low, dtype=np.float64))
        cols = np.asarray(cols, dtype=np.int64)
        self._rows.append(np.asarray(rows, dtype=np.int64) + self._count)
        self._cols.append(cols)
        self._values.append(np.broadcast_to(np.asarray(values, dtype=np.float64), cols.shape))
        self._low.append(low)
        self._high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), low.shape))
        self._count += len(low)

    def row(self, cols: Sequence[int] | Ints, values: npt.ArrayLike, low: float, high: float) -> None:
        """One row."""
        self.block(np.zeros(len(cols), dtype=np.int64), cols, values, low, high)

    def solve(
        self,
        *,
        seconds: float,
        relative_gap: float = 0.0,
        absolute_gap: float = 0.0,
        nodes: int | None = None,
        target: float = -math.inf,
        start: tuple[Ints, Floats] | None = None,
        good: bool = False,
    ) -> Solution | None:
        """The best solution found in the time and within `nodes` of the search (which, unlike seconds, end the same way
        on every machine); None when there is none. `target`: a cost that is good enough. `start`:
        columns and values to begin with; `good`: they are near the best."""
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.columns, self._count
        model.col_cost_, model.col_lower_, model.col_upper_ = self.cost, self.bottom, self.top
        model.row_lower_, model.row_upper_ = np.concatenate(self._low), np.concatenate(self._high)
        rows, cols, values = np.concatenate(self._rows), np.concatenate(self._cols), np.concatenate(self._values)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = by_row(rows, cols, values, self._count)
        if self.integers:
            whole, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
            model.integrality_ = [whole] * self.integers + [real] * (self.columns - self.integers)
        solver = _Quiet()
        for name, value in {
            "threads": 1,
            # Linear programs come without anything that presolve could remove, and it takes a third of their time.
            "presolve": "choose" if self.integers else "off",
            "time_limit": seconds,
            "mip_rel_gap": relative_gap,
            "mip_abs_gap": absolute_gap,
            "objective_target": target,
            # With a good solution to start from, restarts and large neighbourhoods cost more than they find.
            "mip_allow_restart": not good,
            "mip_heuristic_run_rins": not good,
            "mip_heuristic_run_rens": not good,
        }.items():
            solver.setOptionValue(name, value)
        if nodes is not None:
            solver.setOptionValue("mip_max_nodes", nodes)
        solver.passModel(model)
        if start is not None and self.integers:
            solver.setSolution(len(start[0]), start[0].astype(np.int32), start[1])
        solver.run()
        info = solver.getInfo()
        if info.primal_solution_status != 2:  # kSolutionStatusFeasible
            return None
        found = solver.getSolution()
        cost = float(info.objective_function_value)
        if start is not None and abs(float(self.cost @ found.col_value) - cost) > 1e-6 * max(1.0, abs(cost)):
            # HiGHS 1.16 may hand the start back beside the cost of the better solution that it found.
            return self.solve(
                seconds=seconds, relative_gap=relative_gap, absolute_gap=absolute_gap, nodes=nodes, target=target
            )
        bound = float(info.mip_dual_bound) if self.integers else cost
        prices = np.empty(0) if self.integers else np.asarray(found.row_dual)
        return Solution(np.asarray(found.col_value), cost, bound, prices)
