"""Which seat serves how much of a model's traffic, the hosts being what they are: quality first, within capacity.

It costs no swap, so it may follow the load every tick: at low load the best variants serve everything and the fast ones
stand by; under load the traffic spills to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from budgets.fleet.highs import Program
from budgets.fleet.options import Option
from budgets.fleet.table import FILL
from budgets.fleet.world import Seat, World


def shares(
    world: World, options: Mapping[Seat, Option], ready: Mapping[Seat, int], rates: Mapping[str, float]
) -> dict[Seat, float]:
    """Requests per second for each seat that has hosts ready. What exceeds the capacity is spread by capacity."""
    seats = [s for s, n in ready.items() if n and s in options]
    made: dict[Seat, float] = {}
    shared = [s for s in seats if not world.group[s[0]].exclusive]
    together = {s[1] for s in shared}
    for model, own in _by_model(s for s in seats if s[1] not in together).items():
        made |= _fill(world, options, ready, own, rates.get(model, 0.0))
    if shared:
        made |= _together(world, options, ready, [s for s in seats if s[1] in together], rates)
    return made


def _by_model(seats: Iterable[Seat]) -> dict[str, list[Seat]]:
    made: dict[str, list[Seat]] = {}
    for seat in seats:
        made.setdefault(seat[1], []).append(seat)
    return made


def _fill(
    world: World, options: Mapping[Seat, Option], ready: Mapping[Seat, int], seats: list[Seat], rate: float
) -> dict[Seat, float]:
    able = {s: ready[s] * options[s].capacity.rate for s in seats}
    total = sum(able.values())
    if rate >= FILL * total:
        return {s: rate * able[s] / total for s in seats}
    made: dict[Seat, float] = {}
    left = rate
    for seat in sorted(seats, key=lambda s: (world.loss(options[s].rung), s)):
        made[seat] = min(left, FILL * able[seat])
        left -= made[seat]
    return made


def _together(
    world: World,
    options: Mapping[Seat, Option],
    ready: Mapping[Seat, int],
    seats: list[Seat],
    rates: Mapping[str, float],
) -> dict[Seat, float]:
    """Models share hosts' streams, so their traffic is dealt out jointly, by a small linear program."""
    greedy = _greedy(world, options, ready, seats, rates)
    if greedy is not None:
        return greedy
    models = sorted({s[1] for s in seats})
    size = len(seats)
    demand = np.array([max(rates.get(m, 0.0), 1e-3) for m in models])
    program = Program(size + len(models), 0)
    program.cost[:size] = [world.aims[s[1]].weight * world.loss(options[s].rung) + 1e-9 for s in seats]
    program.cost[size:] = [world.unserved_cost * world.aims[m].weight for m in models]
    program.top[:size] = [FILL * ready[s] * options[s].capacity.rate for s in seats]
    model = np.array([models.index(s[1]) for s in seats])
    program.block(np.concatenate([model, np.arange(len(models))]), np.arange(size + len(models)), 1.0, demand, demand)
    for group in world.groups:
        own = [i for i, s in enumerate(seats) if s[0] == group.name]
        if own:
            seconds = [options[seats[i]].capacity.seconds for i in own]
            program.row(own, seconds, 0.0, FILL * group.streams * group.count)
    found = program.solve(seconds=0.2)
    able = {s: ready[s] * options[s].capacity.rate for s in seats}
    total = {m: sum(able[s] for s in seats if s[1] == m) for m in models}
    short = found.x[size:] if found is not None else demand
    return {
        s: (float(found.x[i]) if found is not None else 0.0)
        + float(short[model[i]]) * (able[s] / total[s[1]] if total[s[1]] else 0.0)
        for i, s in enumerate(seats)
    }


def _greedy(
    world: World,
    options: Mapping[Seat, Option],
    ready: Mapping[Seat, int],
    seats: list[Seat],
    rates: Mapping[str, float],
) -> dict[Seat, float] | None:
    """Each model's best seats first, which nothing beats where streams have the time for that and every request has a
    place; None where they have not."""
    busy: dict[str, float] = {}
    made: dict[Seat, float] = {}
    for model, own in _by_model(seats).items():
        left = max(rates.get(model, 0.0), 1e-3)
        for seat in sorted(own, key=lambda s: world.loss(options[s].rung)) if len(own) > 1 else own:
            made[seat] = served = min(left, FILL * ready[seat] * options[seat].capacity.rate)
            busy[seat[0]] = busy.get(seat[0], 0.0) + served * options[seat].capacity.seconds
            left -= served
        if left > 1e-9:
            return None
    fits = all(b <= FILL * world.group[g].streams * world.group[g].count for g, b in busy.items())
    return made if fits else None


def serves(world: World, options: Mapping[Seat, Option], hosts: Mapping[Seat, int], rates: Mapping[str, float]) -> bool:
    """These hosts have a place for all of these requests; not where streams are so busy that models compete for them."""
    return _greedy(world, options, hosts, [s for s, n in hosts.items() if n and s in options], rates) is not None


def loss(
    world: World,
    options: Mapping[Seat, Option],
    hosts: Mapping[Seat, int],
    expected: Mapping[str, float],
    peak: Mapping[str, float],
) -> float:
    """Quality that these hosts lose of what is expected, weighted, in requests per second at a total loss; infinite where
    they cannot serve all of it or of the peak, or where streams are so busy that models compete for them."""
    seats = [s for s, n in hosts.items() if n and s in options]
    there = {s[1] for s in seats}
    if any(rate > 0 and model not in there for model, rate in peak.items()):
        return math.inf
    dealt = _greedy(world, options, hosts, seats, expected)
    if dealt is None or _greedy(world, options, hosts, seats, peak) is None:
        return math.inf
    return sum(rate * world.aims[s[1]].weight * world.loss(options[s].rung) for s, rate in dealt.items())
