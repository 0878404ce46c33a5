"""The joint program: for every group of hosts, how many hold which variant, and what each serves.

Identical hosts are counted, not enumerated: an integer per (group, variant) and continuous rates beside it. There are two
loads: the one expected, for which quality is chosen, and a peak, for which there must be a place if it comes. A fast
variant that stands by costs no quality; so a plan for the expected load can hold the peak without a swap.
Minimise  sum(expected rate x weight x quality loss) + U x sum(weight x (unserved + made late of others + PEAK x unserved at the
peak)) + swap costs, where U is what an unserved request costs (`Terms.unserved`),  subject to
  - every model's demand is served or counted as unserved, under either load;
  - a seat serves no more than its hosts can, within the model's latency objective (`budgets.fleet.capacity`);
  - a model that must stay resident is on at least one host, or costs as much as if all requests were unserved;
  - a host holds at most one variant of a model;
  - an exclusive host holds one variant; other hosts' memory and compute hold the sum of what is on them;
  - what is measured of a host (`Table.limits`) is kept, or missed by as little as can be.
Where hosts hold one variant each, what all hosts of a model could not serve of even higher loads costs a little (`BEYOND`): hosts
that would be left over stand where a surprise finds them.
Exclusive hosts and quality as the objective are Proteus' program (Ahmad et al., ASPLOS 2024); memory, the peak, swap
costs and hosts that share are not in it.

A large program is first sifted (`budgets.fleet.sift`), and solved over the few options that are worth having.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from budgets.fleet.highs import Floats, Program
from budgets.fleet.improve import Improver
from budgets.fleet.limits import EQUAL, SAME, add_limits, least_missed
from budgets.fleet.options import options_of
from budgets.fleet.sift import LARGE, sift
from budgets.fleet.table import BEYOND, PEAK, Demand, Table, Terms, absent, leaving, prices, serving
from budgets.fleet.world import Placement, Seat, World

#: A small fleet's nodes are cheap, and plans that lose noticeably less are found among the first hundred: as many as may be
#: searched, times options.
SEARCH = 12_000
#: Models beyond those that the linear optimum splits, that a large program is solved over; then more, where that was too few.
CORES = (0, 20, 60, 200)
#: A core's nodes are cheap.
CORE_NODES = 2000


def solve(world: World, demand: Demand, now: Mapping[Seat, int], terms: Terms | None = None) -> Placement:
    """The cheapest placement for the demand, coming from `now`.

    Always a placement: what cannot be served is in `unserved`. If the solver has found none in time, of `now` stays what
    fits.
    """
    terms = terms or Terms()
    options = options_of(world, now)
    if not options:
        return Placement(unserved=dict(demand.expected))
    nodes = max(terms.nodes, SEARCH // len(options))
    return place(Table.of(world, demand, now, options), replace(terms, nodes=nodes))


def place(table: Table, terms: Terms, large: int | None = None) -> Placement:
    """The same over options that are given, sifted when there are more than `large` of them. A live group comes in here,
    with its limits (`budgets.choose`)."""
    options, world = table.options, table.world
    miss = least_missed(table, terms)
    if not math.isfinite(miss):
        return Placement(hosts=_what_fits(table), gap=math.inf)
    if len(options) <= (LARGE if large is None else large):
        start = table.now
        if all(g.exclusive for g in world.groups):
            start = Improver(table, terms).run(start)
        return _Joint(table, terms, miss).solve(start, -math.inf)
    table = replace(table, beyond=table.beyond[:0])  # the bound on the rest is not one on this
    sifted = sift(table, terms, miss)
    if sifted is None:
        return _Joint(table, terms, miss).solve(table.now, -math.inf)
    # A core too small to pack the whole on hosts shows in the gap; then a larger one is tried.
    made = Placement(gap=math.inf)
    for models in CORES:
        chosen, least = sifted.core(models)
        core = table.only(chosen)
        if len(table.limits) and least_missed(core, terms) > miss * (1 + SAME) + EQUAL:
            continue
        whole = len(core.options) == len(options)
        joint = _Joint(core, replace(terms, nodes=CORE_NODES), miss, None if whole else least)
        made = min(made, joint.solve(np.zeros(len(core.options)), sifted.bound), key=lambda p: p.gap)
        if whole or made.gap <= terms.gap or made.gap * made.cost <= terms.slack:
            break
    if len(table.limits) and not math.isfinite(made.gap):  # no core could miss the limits as little as all options can
        return _Joint(table, terms, miss).solve(table.now, sifted.bound)
    return made if math.isfinite(made.gap) else Placement(hosts=_what_fits(table), gap=math.inf)


def _what_fits(table: Table) -> dict[Seat, int]:
    """Of what is held, the heaviest models first, as much as hosts have room for now."""
    room = [g.count * (1.0 if g.exclusive else g.room_bytes) for g in table.world.groups]
    hosts: dict[Seat, int] = {}
    for i in np.argsort(-table.weight[table.model], kind="stable").tolist():
        group = table.world.groups[table.group[i]]
        size = 1.0 if group.exclusive else float(table.memory[i])
        most = room[table.group[i]] / size if size else math.inf
        if count := int(min(table.now[i], group.count, most)):
            hosts[table.options[i].seat] = count
            room[table.group[i]] -= count * size
    return hosts


class _Joint:
    """Columns: hosts of each option; its expected rate; its rate at the peak; hosts added to what is there; hosts taken
    from what is frozen, and from what is missed while they load; each model's unserved rate, expected and at the peak;
    whether it is on no host; what of it is unserved at each load beyond the peak; by how much each limit is missed, at a price
    of `miss` at most together. `least`: hosts that each option has in any case."""

    def __init__(self, table: Table, terms: Terms, miss: float = 0.0, least: Floats | None = None) -> None:
        self.table, self.terms, self.miss = table, terms, miss
        size, models = len(table.options), len(table.models)
        self.size = size
        self.peaked = np.flatnonzero(table.peaked[table.model])
        self.kept = np.flatnonzero(table.now > 0)
        self.adding, self.frozen, self.thawing = prices(table, terms)
        self.cold = np.flatnonzero(self.frozen > 0)
        self.first_peak = 2 * size
        self.first_more = self.first_peak + len(self.peaked)
        self.first_less = self.first_more + len(self.kept)
        self.leaving = leaving(table, terms)
        self.missed = np.flatnonzero((self.leaving > 0) & (table.now > 0))
        self.first_gone = self.first_less + len(self.cold)
        self.first_unserved = self.first_gone + len(self.missed)
        self.first_unready = self.first_unserved + models
        self.first_absent = self.first_unready + models
        self.first_beyond = self.first_absent + models
        self.first_missed = self.first_beyond + models * len(table.beyond)
        self.program = Program(self.first_missed + len(table.limits), size)
        if least is not None:
            self.program.bottom[:size] = least

    def solve(self, start: Floats, bound: float) -> Placement:
        """`start`: hosts by option to begin with; `bound`: below the cost of every plan, as far as is known."""
        table, terms = self.table, self.terms
        self._costs()
        self._demands()
        self._hosts()
        add_limits(self.program, table, self.first_missed, self.miss)
        found = self.program.solve(
            seconds=terms.time_limit,
            relative_gap=terms.gap,
            absolute_gap=terms.slack,
            nodes=terms.nodes,
            target=bound + max(terms.gap * abs(bound), terms.slack) if math.isfinite(bound) else -math.inf,
            start=(np.arange(self.size), start) if start.any() else None,
            good=bool(start.any()),
        )
        if found is None:
            return Placement(hosts=_what_fits(table), gap=math.inf)
        low = bound if math.isfinite(bound) else found.bound  # the solver's own holds for the sifted options only
        gap = max(0.0, found.cost - low) / max(abs(found.cost), 1e-6)
        return self._placement(found.x, found.cost, gap)

    def _costs(self) -> None:
        table, terms, cost = self.table, self.terms, self.program.cost
        cost[self.size : 2 * self.size] = serving(table, terms)
        added = np.arange(self.size)
        added[self.kept] = self.first_more + np.arange(len(self.kept))
        cost[added] += self.adding
        cost[self.first_less : self.first_gone] = self.thawing[self.cold]
        cost[self.first_gone : self.first_unserved] = self.leaving[self.missed]
        cost[self.first_unserved : self.first_unready] = table.weight * terms.unserved
        cost[self.first_unready : self.first_absent] = table.weight * terms.unserved * PEAK
        cost[self.first_absent : self.first_beyond] = absent(table, terms)
        priced = terms.unserved * np.outer(BEYOND[: len(table.beyond)], table.weight)
        cost[self.first_beyond : self.first_missed] = priced.ravel()
        cost /= table.total
        self.program.top[: self.size] = table.count
        self.program.top[self.first_absent + np.flatnonzero(table.stays)] = 0.0

    def _demands(self) -> None:
        table, program, size = self.table, self.program, self.size
        models, columns = np.arange(len(table.models)), np.arange(size)
        program.block(
            np.concatenate([table.model, models]),
            np.concatenate([size + columns, self.first_unserved + models]),
            1.0,
            table.expected,
            table.expected,
        )
        # What the options of a model without a peak serve beyond the expected is what they serve at the peak.
        own = self.peaked
        some = np.unique(table.model[own])
        if len(some):
            at = np.searchsorted(some, table.model[own])
            program.block(
                np.concatenate([at, np.arange(len(some))]),
                np.concatenate([self.first_peak + np.arange(len(own)), self.first_unready + some]),
                1.0,
                table.peak[some],
                table.peak[some],
            )
        # Hosts that hold one variant each serve a model with all they can: so one row says what of such a load finds none.
        for level, rates in enumerate(table.beyond):
            rows, short = np.append(table.model, models), self.first_beyond + level * len(models) + models
            each = np.append(table.rate, np.ones(len(models)))
            program.block(rows, np.append(columns, short), each, rates, np.full(len(models), math.inf))
        lives = np.flatnonzero(table.resident | table.stays)
        for model in lives:
            mine = np.append(columns[table.model == model], self.first_absent + model)
            program.row(mine, np.ones(len(mine)), 1.0, math.inf)
        # A host serves at most its capacity, and none serves more than there is: the second keeps the relaxation tight
        # (a tenth of a host must not count as resident).
        for first, chosen, demand, fill in (
            (size, columns, table.expected, self.terms.fill),
            (self.first_peak, own, table.peak, 1.0),
        ):
            count = np.arange(len(chosen))
            most = np.minimum(fill * table.rate[chosen], demand[table.model[chosen]])
            program.block(
                np.concatenate([count, count]),
                np.concatenate([first + count, chosen]),
                np.concatenate([np.ones(len(chosen)), -most]),
                np.full(len(chosen), -math.inf),
                np.zeros(len(chosen)),
            )
        extra = np.arange(len(self.kept))
        program.block(
            np.concatenate([extra, extra]),
            np.concatenate([self.kept, self.first_more + extra]),
            np.concatenate([np.ones(len(extra)), -np.ones(len(extra))]),
            np.full(len(extra), -math.inf),
            table.now[self.kept],
        )
        for kept, first, held in (
            (self.cold, self.first_less, self.frozen),
            (self.missed, self.first_gone, table.now),
        ):
            extra = np.arange(len(kept))
            program.block(
                np.concatenate([extra, extra]),
                np.concatenate([kept, first + extra]),
                1.0,
                held[kept],
                np.full(len(extra), math.inf),
            )

    def _hosts(self) -> None:
        table, program, size = self.table, self.program, self.size
        columns = np.arange(size)
        peak = np.full(size, -1)
        peak[self.peaked] = self.first_peak + np.arange(len(self.peaked))
        for index, group in enumerate(table.world.groups):
            own = columns[table.group == index]
            if not len(own):
                continue
            if group.exclusive:
                program.row(own, np.ones(len(own)), 0.0, group.count)
                continue
            if math.isfinite(group.room_bytes):
                program.row(own, table.memory[own] / group.room_bytes, 0.0, group.count)
            room = group.streams * group.count
            program.row(size + own, table.seconds[own], 0.0, self.terms.fill * room)
            if (peak[own] >= 0).any():
                served = np.where(peak[own] >= 0, peak[own], size + own)
                program.row(served, table.seconds[own], 0.0, room)
            _, inverse, counts = np.unique(table.model[own], return_inverse=True, return_counts=True)
            tied = (counts > 1) | (group.count > 1)
            rows = np.cumsum(tied) - 1
            chosen = tied[inverse]
            if chosen.any():
                program.block(
                    rows[inverse[chosen]],
                    own[chosen],
                    1.0,
                    np.zeros(int(tied.sum())),
                    np.full(int(tied.sum()), float(group.count)),
                )

    def _placement(self, x: Floats, cost: float, gap: float) -> Placement:
        hosts: dict[Seat, int] = {}
        rates: dict[Seat, float] = {}
        batches: dict[Seat, int] = {}
        for i, option in enumerate(self.table.options):
            if count := round(x[i]):
                hosts[option.seat] = count
                rates[option.seat] = max(0.0, float(x[self.size + i]))
                batches[option.seat] = option.capacity.batch
        left = x[self.first_unserved : self.first_unready]
        unserved = {m: float(u) for m, u in zip(self.table.models, left, strict=True) if u > 1e-6}
        return Placement(hosts, rates, batches, unserved, cost, gap)
