"""The joint program's data as arrays, and what things cost in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from budgets.fleet.company import harms
from budgets.fleet.highs import Floats, Ints
from budgets.fleet.options import Option
from budgets.fleet.world import UNSERVED, Seat, World

#: A request that is unserved only if the peak comes costs this share of one that is unserved in any case.
PEAK = 0.01
#: One that is unserved only if even more comes, by how much more: what hosts are for that would be left over.
BEYOND = (0.00025, 0.0001, 0.00005)
#: A resident model that nobody asks for is planned as if it had this rate, so that its quality counts a little.
IDLE_RATE = 0.01
#: Share of what hosts can do that the expected load may take: what is beyond is left to chance's bursts.
FILL = 0.95
#: Share of a model's requests that suffer while a variant is loaded beside another one, and where memory is so full that
#: the other one must go first (hosts take turns at that).
BESIDE, IN_PLACE = 0.1, 0.5
#: Power of a model's utilisation by which a host of its is missed while it loads.
BUSY = 1.5
#: To go back on a host that shares costs at least so much of what it could serve there, as if nobody did.
BACK = 0.5
#: Changing a host costs at least this share of what it serves at a total loss: of two equal plans the nearer one wins.
NUDGE = 1e-5


@dataclass(frozen=True)
class Terms:
    """How a program is to be solved. `unserved`: what a request that nobody serves costs, in requests served at a total loss of
    quality; `company`: what one costs that another model's call makes late, as a share of that. `fill`: see FILL. `swap_price`:
    what a request that a host cannot serve while it loads a variant costs (a share of total loss), spread over the seconds that
    the plan is expected to stand; `lost_price`: what it costs beside where no other host has room for it. `frozen`: how many
    hosts of each seat were changed so short a time ago that to change them again would be a flap; they cost `thaw` times the
    price. `left`: seats from which hosts went to another variant of their model so short a time ago that to go back would be
    one; so does that. `gap`, `slack`: distance from the optimum that is good enough, relative and in mean quality. `nodes` end
    the search in the same place on every machine, `time_limit` (seconds) in any case. `change`: what each change costs beside,
    as a share of all traffic at a total loss."""

    unserved: float = UNSERVED
    company: float = 0.0
    fill: float = FILL
    swap_price: float = 0.0
    lost_price: float = 0.0
    change: float = 0.0
    frozen: Mapping[Seat, int] = field(default_factory=dict)
    left: frozenset[Seat] = frozenset()
    thaw: float = 100.0
    gap: float = 1e-2
    slack: float = 2e-4
    nodes: int = 30
    time_limit: float = 10.0


@dataclass(frozen=True)
class Demand:
    """Requests per second by model: the rate to choose quality for, the one to have room for, and higher ones, one for each
    of `BEYOND` or fewer, to have room for where that costs next to nothing."""

    expected: Mapping[str, float]
    peak: Mapping[str, float] = field(default_factory=dict)
    beyond: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Table:
    """The options as arrays, one entry for each.

    `beyond`: a row of rates by model for each such load; none where hosts share, as what a model could serve there is not
    its own.
    `limits`: rows of what a host of each option takes of something measured (a budget's memory, engine time), as shares of
    it; their sums must be at most `bounds`, or above them by as little as can be, each counted at its price (`missing`).
    `stays`: by model, it is on a host whatever limit that misses.
    """

    world: World
    options: list[Option]
    models: list[str]
    expected: Floats
    peak: Floats
    beyond: Floats
    weight: Floats
    resident: npt.NDArray[np.bool_]
    model: Ints
    group: Ints
    rate: Floats
    seconds: Floats
    memory: Floats
    loss: Floats
    harm: Floats
    load: Floats
    count: Floats
    now: Floats
    limits: Floats
    bounds: Floats
    missing: Floats
    stays: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, world: World, demand: Demand, now: Mapping[Seat, int], options: list[Option]) -> Table:
        models = sorted(world.aims)
        at = {m: i for i, m in enumerate(models)}
        groups = {g.name: i for i, g in enumerate(world.groups)}
        group = np.array([groups[o.group.name] for o in options])
        expected = np.array([max(demand.expected.get(m, 0.0), IDLE_RATE) for m in models])
        peak = np.array([demand.peak.get(m, 0.0) for m in models])
        further = demand.beyond if all(g.exclusive for g in world.groups) else ()
        return cls(
            world=world,
            options=options,
            models=models,
            expected=expected,
            peak=np.where(peak > 1.001 * expected, peak, expected),
            beyond=np.array([[d.get(m, 0.0) for m in models] for d in further]).reshape(len(further), len(models)),
            weight=np.array([world.aims[m].weight for m in models]),
            resident=np.array([not world.aims[m].park for m in models]),
            model=np.array([at[o.rung.model] for o in options]),
            group=group,
            rate=np.array([o.capacity.rate for o in options]),
            seconds=np.array([o.capacity.seconds for o in options]),
            memory=np.array([o.rung.memory_bytes for o in options]),
            loss=np.array([world.loss(o.rung) for o in options]),
            harm=harms(world, demand.expected, options),
            load=np.array([o.rung.load_seconds for o in options]),
            count=np.array([float(g.count) for g in world.groups])[group],
            now=_held(now, options),
            limits=np.zeros((0, len(options))),
            bounds=np.zeros(0),
            missing=np.zeros(0),
            stays=np.zeros(len(models), dtype=bool),
        )

    def only(self, chosen: Ints) -> Table:
        """The table with these options alone."""
        arrays = ("model", "group", "rate", "seconds", "memory", "loss", "harm", "load", "count", "now")
        picked: dict[str, Any] = {name: getattr(self, name)[chosen] for name in arrays}
        options = [self.options[i] for i in chosen.tolist()]
        return replace(self, options=options, limits=self.limits[:, chosen], **picked)

    @property
    def peaked(self) -> npt.NDArray[np.bool_]:
        """By model: there is a peak beyond what is expected, and something that could serve it."""
        able = np.bincount(self.model, minlength=len(self.models)) > 0
        return able & (self.peak > self.expected)

    @property
    def alone(self) -> npt.NDArray[np.bool_]:
        """By option: its hosts hold one variant at a time."""
        return np.array([g.exclusive for g in self.world.groups], dtype=bool)[self.group]

    @property
    def total(self) -> float:
        return float(self.expected.sum())

    @property
    def swap(self) -> Floats:
        """Requests that are not served while a host loads each option. Hosts that share load it beside what runs there
        where memory allows, and then lose little."""
        groups = self.world.groups
        used = np.bincount(self.group, self.now * self.memory, minlength=len(groups))
        room = np.array([g.room_bytes for g in groups]) - used / np.maximum(1, [g.count for g in groups])
        suffers = np.where(self.memory <= room[self.group], BESIDE, IN_PLACE)
        shared = suffers * np.minimum(self.rate, self.expected[self.model])
        return np.where(self.alone, self.rate, shared) * self.load

    @property
    def missed(self) -> Floats:
        """By option: how much a host of its model is missed while it loads. The busier what is held, the more; changes are
        staged so that the others serve the load where they can (`budgets.fleet.staging`)."""
        models = len(self.models)
        able = np.bincount(self.model, self.now * self.rate, minlength=models)
        busy = np.minimum(1.0, self.expected / np.maximum(able, 1e-9))
        return np.where(self.alone, busy[self.model] ** BUSY, 1.0)

    @property
    def torn(self) -> Floats:
        """By option: requests that nobody serves while one of its hosts loads something else: what its model's other hosts
        have no room for, for as long as loading takes there."""
        able = FILL * np.bincount(self.model, self.now * self.rate, minlength=len(self.models))
        left = np.clip(self.expected[self.model] - able[self.model] + FILL * self.rate, 0.0, self.rate)
        made = np.zeros(len(self.options))
        for index, group in enumerate(self.world.groups):
            own = self.group == index
            if group.exclusive and own.any():
                made[own] = left[own] * np.median(self.load[own])
        return made


def _held(hosts: Mapping[Seat, int], options: list[Option]) -> Floats:
    """How many hosts each option has of these."""
    return np.array([float(hosts.get(o.seat, 0)) for o in options]) if hosts else np.zeros(len(options))


def absent(table: Table, terms: Terms) -> Floats:
    """By model: what it costs not to be resident, as if every request of the fleet were unserved."""
    return terms.unserved * table.weight * table.total


def serving(table: Table, terms: Terms) -> Floats:
    """By option: what each request that it serves costs, in quality and in requests of others made late."""
    return table.weight[table.model] * table.loss + terms.unserved * terms.company * table.harm


def leaving(table: Table, terms: Terms) -> Floats:
    """By option: what it costs that a host which holds it is to hold something else."""
    return terms.lost_price * table.weight[table.model] * table.torn


def prices(table: Table, terms: Terms) -> tuple[Floats, Floats, Floats]:
    """By option: what a host that is added costs; how many hosts are frozen; what changing one of those costs."""
    adding = NUDGE * table.rate / np.maximum(1.0, table.count) + terms.swap_price * table.swap * table.missed
    adding += terms.change * table.total
    frozen = _held(terms.frozen, table.options)
    # More than the slack, or a plan that is good enough might flap a model that few ask for.
    thawing = np.maximum(terms.thaw * terms.swap_price * table.swap, 2.0 * terms.slack * table.total)
    if terms.left:
        back = np.maximum(thawing, BACK * terms.unserved * np.where(table.alone, 0.0, table.rate))
        adding += np.where([o.seat in terms.left for o in table.options], back, 0.0)
    # Gusts are gone when a host has loaded: where some request is always unserved, only more than it can itself serve.
    thawing = np.maximum(thawing, np.where(table.alone, terms.unserved * table.rate, 0.0))
    return adding, np.minimum(frozen, table.now), thawing
