"""The joint program: for every group of hosts, how many hold which variant, and what each serves.

Identical hosts are counted, not enumerated: an integer per (group, variant) and a continuous rate beside it.
Minimise  sum(rate x weight x quality loss) + sum(unserved x weight x DROP) + swap costs,  subject to
  - every model's demand is served or counted as unserved;
  - a seat serves no more than its hosts can, within the model's latency objective (`budgets.fleet.capacity`);
  - a model that must stay resident is on at least one host; a host holds at most one variant of a model;
  - an exclusive host holds one variant; other hosts' memory and compute hold the sum of what is on them.
Solved by HiGHS (Huangfu and Hall 2018). Exclusive hosts and quality as the objective are Proteus' program (Ahmad et al.,
ASPLOS 2024); memory, swap costs and hosts that share are not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import highspy
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from budgets.fleet.capacity import Capacity, capacity
from budgets.fleet.world import Group, Placement, Rung, Seat, World

#: An unserved request costs as much as this many requests served at a total loss of quality.
DROP = 20.0
#: A resident model that nobody asks for is planned as if it had this rate, so that its quality counts a little.
IDLE_RATE = 0.01
#: Share of the streams' time that may be planned.
UTILISATION = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """A variant on a group's hosts."""

    group: Group
    rung: Rung
    capacity: Capacity

    @property
    def seat(self) -> Seat:
        return self.group.name, self.rung.model, self.rung.variant


@dataclass(frozen=True)
class Terms:
    """How a program is to be solved. `swap_price`: what a request that a host cannot serve while it loads a variant costs
    (a share of total loss), spread over the seconds that the plan is expected to stand. `gap`: relative distance from
    the optimum that is good enough. `time_limit`: seconds."""

    swap_price: float = 0.0
    gap: float = 1e-3
    time_limit: float = 1.0


def options_of(world: World, keep: Mapping[Seat, int] | None = None) -> list[Option]:
    """What may be placed: keeps floors and pins, fits a host, can meet the objective; and is not beaten in quality,
    capacity, memory and load time by another variant on the same group. What `keep` holds already stays an option."""
    made: list[Option] = []
    held = keep or {}
    rungs: dict[tuple[str, str], list[Rung]] = {}
    for rung in world.rungs:
        rungs.setdefault((rung.device, rung.model), []).append(rung)
    for group in world.groups:
        for model, aim in world.aims.items():
            found = []
            for rung in rungs.get((group.device, model), ()):
                if rung.quality < aim.floor or (aim.pin is not None and rung.variant != aim.pin):
                    continue
                if rung.memory_bytes > group.room_bytes or group.count == 0:
                    continue
                most = capacity(rung, group, aim.slo_seconds)
                if most is not None:
                    found.append(Option(group, rung, most))
            made += [o for o in found if held.get(o.seat, 0) or not any(_beats(p, o) for p in found)]
    return made


def _beats(one: Option, other: Option) -> bool:
    def key(o: Option) -> tuple[float, ...]:
        memory = 0.0 if o.group.exclusive else o.rung.memory_bytes
        return (-o.rung.quality, -o.capacity.rate, o.capacity.seconds, memory)

    ours, theirs = key(one), key(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def solve(world: World, demand: Mapping[str, float], now: Mapping[Seat, int], terms: Terms | None = None) -> Placement:
    """The cheapest placement for the demand (requests per second by model), coming from `now`.

    Always a placement: what cannot be served is in `unserved`. If the solver has found none in time, `now` stays.
    """
    terms = terms or Terms()
    options = options_of(world, now)
    if not options:
        return Placement(unserved=dict(demand))
    return _Program(world, demand, now, options, terms).solve()


class _Program:
    """Columns: hosts of each option, rate of each option, unserved rate of each model, hosts added where some are."""

    def __init__(
        self, world: World, demand: Mapping[str, float], now: Mapping[Seat, int], options: list[Option], terms: Terms
    ) -> None:
        self.world, self.now, self.options, self.terms = world, now, options, terms
        self.models = sorted(world.aims)
        self.demand = {m: max(demand.get(m, 0.0), IDLE_RATE) for m in self.models}
        self.total = sum(self.demand.values())
        self.count = count = len(options)
        self.first_drop = 2 * count
        self.first_more = self.first_drop + len(self.models)
        self.kept = [i for i, o in enumerate(options) if now.get(o.seat, 0) and terms.swap_price]
        self.columns = self.first_more + len(self.kept)
        self.rows: list[npt.NDArray[np.int64]] = []
        self.cols: list[npt.NDArray[np.int64]] = []
        self.values: list[Floats] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def _row(self, cols: list[int], values: list[float], low: float, high: float) -> None:
        self.rows.append(np.full(len(cols), len(self.low), dtype=np.int64))
        self.cols.append(np.array(cols, dtype=np.int64))
        self.values.append(np.array(values, dtype=np.float64))
        self.low.append(low)
        self.high.append(high)

    def _constrain(self) -> None:
        by_model: dict[str, list[int]] = {m: [] for m in self.models}
        by_group: dict[str, list[int]] = {g.name: [] for g in self.world.groups}
        for i, option in enumerate(self.options):
            by_model[option.rung.model].append(i)
            by_group[option.group.name].append(i)
        for k, model in enumerate(self.models):
            own = by_model[model]
            demand = self.demand[model]
            self._row([self.count + i for i in own] + [self.first_drop + k], [1.0] * (len(own) + 1), demand, demand)
            if own and not self.world.aims[model].park:
                self._row(own, [1.0] * len(own), 1.0, math.inf)
        for i, option in enumerate(self.options):
            # A host serves at most its capacity, and none serves more than there is: the second keeps the relaxation
            # tight (a tenth of a host must not count as resident).
            most = min(option.capacity.rate, self.demand[option.rung.model])
            self._row([self.count + i, i], [1.0, -most], -math.inf, 0.0)
        for group in self.world.groups:
            own = by_group[group.name]
            if not own:
                continue
            if group.exclusive:
                self._row(own, [1.0] * len(own), 0.0, group.count)
                continue
            if math.isfinite(group.room_bytes):
                sizes = [self.options[i].rung.memory_bytes / group.room_bytes for i in own]
                self._row(own, sizes, 0.0, group.count)
            seconds = [self.options[i].capacity.seconds for i in own]
            self._row([self.count + i for i in own], seconds, 0.0, UTILISATION * group.streams * group.count)
            shared: dict[str, list[int]] = {}
            for i in own:
                shared.setdefault(self.options[i].rung.model, []).append(i)
            for same in shared.values():
                if len(same) > 1 or group.count > 1:
                    self._row(same, [1.0] * len(same), 0.0, group.count)
        for k, i in enumerate(self.kept):
            self._row([i, self.first_more + k], [1.0, -1.0], -math.inf, self.now[self.options[i].seat])

    def _costs(self) -> Floats:
        costs = np.zeros(self.columns)
        price = self.terms.swap_price
        fixed = {i: self.first_more + k for k, i in enumerate(self.kept)}
        for i, option in enumerate(self.options):
            weight = self.world.aims[option.rung.model].weight
            costs[self.count + i] = weight * self.world.loss(option.rung)
            costs[fixed.get(i, i)] += price * option.rung.load_seconds * option.capacity.rate
            costs[i] += 1e-6 * self.total / max(1, sum(g.count for g in self.world.groups))
        for k, model in enumerate(self.models):
            costs[self.first_drop + k] = self.world.aims[model].weight * DROP
        return costs / self.total

    def solve(self) -> Placement:
        self._constrain()
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.columns, len(self.low)
        model.col_cost_ = self._costs()
        model.col_lower_ = np.zeros(self.columns)
        tops = np.full(self.columns, math.inf)
        tops[: self.count] = [o.group.count for o in self.options]
        model.col_upper_ = tops
        model.row_lower_, model.row_upper_ = np.array(self.low), np.array(self.high)
        matrix = csr_matrix(
            (np.concatenate(self.values), (np.concatenate(self.rows), np.concatenate(self.cols))),
            shape=(len(self.low), self.columns),
        )
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
        model.a_matrix_.value_ = matrix.data
        kinds = [highspy.HighsVarType.kInteger] * self.count
        model.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (self.columns - self.count)
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        for name, value in {
            "output_flag": False,
            "threads": 1,
            "mip_rel_gap": self.terms.gap,
            "mip_abs_gap": 1e-5,
            "time_limit": self.terms.time_limit,
        }.items():
            solver.setOptionValue(name, value)
        solver.passModel(model)
        solver.run()
        info = solver.getInfo()
        if info.primal_solution_status != 2:  # kSolutionStatusFeasible
            return Placement(hosts=dict(self.now), gap=math.inf)
        return self._placement(np.array(solver.getSolution().col_value), info.objective_function_value, info.mip_gap)

    def _placement(self, x: Floats, cost: float, gap: float) -> Placement:
        hosts: dict[Seat, int] = {}
        rates: dict[Seat, float] = {}
        batches: dict[Seat, int] = {}
        for i, option in enumerate(self.options):
            count = round(x[i])
            if count:
                hosts[option.seat] = count
                rates[option.seat] = max(0.0, float(x[self.count + i]))
                batches[option.seat] = option.capacity.batch
        unserved = {
            m: float(x[self.first_drop + k]) for k, m in enumerate(self.models) if x[self.first_drop + k] > 1e-6
        }
        return Placement(hosts, rates, batches, unserved, cost, gap)
