"""The joint choice of a live host group, made by the fleet's program (`budgets.fleet.program`): one option for every model,
subject to what was measured.

Hosts of a group are alike, so one stands for all. What a budget may hold is known for all who use it, not for the models
alone: a limit of the program that is missed by as little as can be where nothing keeps it. Every model keeps a variant
unless its owner allows it to be parked, which is an option like others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from budgets.fleet import options as fleet
from budgets.fleet.capacity import Capacity
from budgets.fleet.program import place
from budgets.fleet.sift import LARGE
from budgets.fleet.table import BESIDE, FILL, IN_PLACE, Demand, Table, Terms
from budgets.fleet.world import Aim, Group, Rung, World
from budgets.options import Option

#: Cost of changing a model at all: between choices of equal quality the one with fewer changes wins.
CHANGE = 1e-6
#: What a second of loading costs, as a share of a total loss of the model's traffic (the simulator's: 3 of 60 seconds).
SWAP_PRICE = 0.05
#: What a late request costs, in requests served at a total loss of quality. Journals are made again with it.
LATE = 20.0
#: Programs of up to so many options are solved exactly (or as far as so many nodes lead), larger ones to the first gap, the
#: largest to the second.
EXACT, GAPS = 100, (2e-3, 1e-2)
NODES = 1000
TIME_LIMIT_SECONDS = 2.0
HOST = Group("host", "", 1)


@dataclass(frozen=True)
class Limit:
    """sum over models of `weight(option)` must be at most `bound`. `scale` makes the numbers comparable (a budget's
    size); `price`: what missing it by its scale counts against missing others."""

    name: str
    weights: Mapping[tuple[str, str | None], float]
    bound: float
    scale: float
    price: float = 1.0


@dataclass(frozen=True)
class Choice:
    """An option for every model, and how far its cost may be from the least there is, as a share of it (1: nothing was
    found in time)."""

    options: dict[str, Option]
    gap: float = 0.0


def choose(
    candidates: Mapping[str, Sequence[Option]], current: Mapping[str, str | None], limits: Sequence[Limit]
) -> Choice:
    """The cheapest choice that keeps every limit, or misses them by as little as possible.

    `candidates` has at least one option for each model; `current` is what each runs now. Where the solver has found
    nothing in time, nothing is changed.
    """
    options = [option for model in sorted(candidates) for option in candidates[model]]
    if not options:
        return Choice({})
    gap = 0.0 if len(options) <= EXACT else GAPS[len(options) > LARGE]
    terms = Terms(
        LATE, swap_price=SWAP_PRICE, change=CHANGE, gap=gap, slack=0.0, nodes=NODES, time_limit=TIME_LIMIT_SECONDS
    )
    made = place(_table(options, current, limits), terms, EXACT)
    if not math.isfinite(made.gap):
        kept = {
            m: next((o for o in several if o.variant == current.get(m)), several[0])
            for m, several in candidates.items()
        }
        return Choice(kept, 1.0)
    chosen = {o.model: o for o in options if (HOST.name, o.model, o.variant or "") in made.hosts}
    return Choice({m: chosen[m] for m in candidates}, made.gap)


def _table(options: Sequence[Option], current: Mapping[str, str | None], limits: Sequence[Limit]) -> Table:
    busy = sum(o.busy for o in options if current.get(o.model) == o.variant)
    # What a host is busy with now it can do: more than all of its time is what profiles say of calls one by one.
    able = max(1.0, busy / FILL)
    made = [
        fleet.Option(
            HOST,
            Rung(
                o.model, o.variant or "", "", o.quality, 0.0, o.loading * (1.0 if o.beside else IN_PLACE / BESIDE), ()
            ),
            Capacity((1.0 - o.late) * o.traffic / FILL, o.busy / o.traffic / able, o.batch),
        )
        for o in options
    ]
    now = {seat.seat: 1 for o, seat in zip(options, made, strict=True) if current.get(o.model) == o.variant}
    world = World((HOST,), tuple(o.rung for o in made), {o.model: Aim(o.model) for o in options})
    table = Table.of(world, Demand({}), now, made)
    traffic = {o.model: o.traffic for o in options}
    weights = [[limit.weights.get((o.model, o.variant), 0.0) / limit.scale for o in options] for limit in limits]
    return replace(
        table,
        expected=np.array([traffic[m] for m in table.models]),
        peak=np.array([traffic[m] for m in table.models]),
        loss=np.array([o.cost / o.traffic for o in options]),
        limits=np.array(weights).reshape(len(limits), len(options)),
        bounds=np.array([limit.bound / limit.scale for limit in limits]),
        missing=np.array([limit.price for limit in limits]),
        stays=np.ones(len(table.models), dtype=bool),
    )
