"""Small random fleets, what a plan costs worked out apart from the program, and every plan there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np
from scipy.optimize import linprog

from budgets.fleet.company import APART, OWN, TAKEN, WAITS
from budgets.fleet.options import Option, options_of
from budgets.fleet.table import BACK, BESIDE, BEYOND, BUSY, FILL, IDLE_RATE, IN_PLACE, NUDGE, PEAK, Demand, Terms
from budgets.fleet.world import Aim, Group, Placement, Rung, Seat, World

MIB = 2**20


def rung(
    model: str,
    variant: str,
    *,
    device: str = "d",
    quality: float = 1.0,
    mib: float = 100.0,
    load: float = 1.0,
    seconds: float = 0.01,
    batches: tuple[int, ...] = (1, 2, 4),
) -> Rung:
    """Each request of a batch beyond the first takes half as long as the first."""
    return Rung(
        model,
        variant,
        device,
        quality,
        mib * MIB,
        load,
        tuple((b, seconds * (0.5 + 0.5 * b)) for b in batches),
    )


def world(groups: list[Group], rungs: list[Rung], **aims: Aim) -> World:
    models = sorted({r.model for r in rungs})
    every = {m: aims.get(m, Aim(m, slo_seconds=0.2)) for m in models}
    return World(tuple(groups), tuple(rungs), every)


def random_case(seed: int, kind: str) -> tuple[World, Demand, dict[Seat, int], Terms]:
    """A world with few plans, and where it comes from. `kind`: exclusive, shared or mixed."""
    draw = np.random.default_rng(seed)
    groups = []
    if kind in ("exclusive", "mixed"):
        groups.append(Group("alone", "a", int(draw.integers(1, 4)), 300 * MIB, exclusive=True))
    if kind in ("shared", "mixed"):
        room = float(draw.integers(150, 500)) * MIB
        groups.append(Group("shared", "s", int(draw.integers(1, 3)), room, 20 * MIB, int(draw.integers(1, 3))))
    rungs, aims = [], {}
    for model in "mno"[: 2 if kind == "mixed" else 3]:
        size, slow = float(draw.uniform(60, 200)), float(draw.uniform(0.005, 0.05))
        for i in range(2):
            rungs += [
                rung(
                    model,
                    f"v{i}",
                    device=g.device,
                    quality=1.0 - 0.1 * i * float(draw.uniform(0.2, 1.5)),
                    mib=size / (1 + i),
                    seconds=slow / (1 + 1.5 * i) / (1 + (g.device == "a")),
                    load=float(draw.uniform(0.2, 2.0)),
                )
                for g in groups
            ]
        aims[model] = Aim(
            model,
            slo_seconds=float(draw.choice([0.05, 0.2, math.inf])),
            weight=float(draw.choice([0.5, 1.0, 3.0])),
            floor=float(draw.choice([-math.inf, 0.93])),
            pin=str(draw.choice(["v0", "v1"])) if draw.random() < 0.15 else None,
            park=bool(draw.random() < 0.5),
        )
    made = World(tuple(groups), tuple(rungs), aims)
    expected = {m: float(draw.uniform(0, 120)) for m in aims}
    peak = {m: r * float(draw.choice([1.0, 1.5, 3.0])) for m, r in expected.items()}
    beyond = tuple({m: r * times for m, r in peak.items()} for times in (1.3, 2.0)[: int(draw.integers(3))])
    plans = list(every_plan(made, options_of(made)))
    now = plans[int(draw.integers(len(plans)))]
    frozen = {s: 1 for s, n in now.items() if n and draw.random() < 0.4}
    left = frozenset(o.seat for o in options_of(made) if o.seat not in now and draw.random() < 0.2)
    price, lost = float(draw.choice([0.0, 0.05])), float(draw.choice([0.0, 0.3]))
    cost = float(draw.choice([20.0, 0.7]))
    terms = Terms(
        cost,
        company=1.0,
        swap_price=price,
        lost_price=lost,
        frozen=frozen,
        left=left,
        gap=0.0,
        slack=0.0,
        nodes=100_000,
    )
    return made, Demand(expected, peak, beyond), now, terms


def every_plan(made: World, options: list[Option]) -> Iterator[dict[Seat, int]]:
    """Every count of hosts by seat that keeps hosts, memory, and one variant of a model on a host."""
    ranges = [range(o.group.count + 1) for o in options]
    for counts in itertools.product(*ranges):
        plan = {o.seat: n for o, n in zip(options, counts, strict=True) if n}
        if not broken(made, plan):
            yield plan


def broken(made: World, hosts: Mapping[Seat, int]) -> list[str]:
    """Which limits of hosts a plan breaks."""
    found = []
    for group in made.groups:
        own = {s: n for s, n in hosts.items() if s[0] == group.name}
        if group.exclusive and sum(own.values()) > group.count:
            found.append(f"{group.name} has fewer hosts")
        memory = sum(made.rung(s).memory_bytes * n for s, n in own.items())
        if not group.exclusive and memory > group.room_bytes * group.count * (1 + 1e-9):
            found.append(f"{group.name} has less memory")
        for seat in own:
            if made.rung(seat).memory_bytes > group.room_bytes:
                found.append(f"{seat} is larger than a host")
            if sum(n for s, n in own.items() if s[1] == seat[1]) > group.count:
                found.append(f"{seat[1]} is twice on a host")
    return found


def broken_promises(made: World, demand: Demand, placement: Placement, fill: float) -> list[str]:
    """Which of everything that a plan must keep it breaks."""
    found = broken(made, placement.hosts)
    options = {o.seat: o for o in options_of(made, placement.hosts)}
    for seat, count in placement.hosts.items():
        aim, one = made.aims[seat[1]], made.rung(seat)
        if count < 0:
            found.append(f"{seat} on {count} hosts")
        if one.quality < aim.floor or aim.pin not in (None, one.variant):
            found.append(f"{seat} is below its floor or not what is pinned")
        if placement.rates[seat] > fill * count * options[seat].capacity.rate * (1 + 1e-6) + 1e-6:
            found.append(f"{seat} serves more than it can")
        if 2 * one.seconds(placement.batches[seat]) > aim.slo_seconds and placement.batches[seat] > 1:
            found.append(f"{seat}'s batches take too long")
    for group in made.groups:
        if not group.exclusive:
            busy = sum(r * options[s].capacity.seconds for s, r in placement.rates.items() if s[0] == group.name)
            if busy > fill * group.streams * group.count + 1e-6:
                found.append(f"{group.name} computes more than it can")
    for model in made.aims:
        served = sum(r for s, r in placement.rates.items() if s[1] == model)
        wanted = max(IDLE_RATE, demand.expected.get(model, 0.0))
        if abs(served + placement.unserved.get(model, 0.0) - wanted) > 1e-4 * max(1.0, wanted) + IDLE_RATE:
            found.append(f"{model}: {served} and {placement.unserved.get(model)} are not {wanted}")
    return found


def cost_of(made: World, demand: Demand, now: Mapping[Seat, int], terms: Terms, hosts: Mapping[Seat, int]) -> float:
    """What a plan costs if its hosts serve as well as they can: the formula of `budgets.fleet.program`, by another road."""
    options = [o for o in options_of(made, now) if hosts.get(o.seat)]
    models = sorted(made.aims)
    expected = {m: max(demand.expected.get(m, 0.0), IDLE_RATE) for m in models}
    peak = {m: max(expected[m], demand.peak.get(m, 0.0)) for m in models}
    total = sum(expected.values())
    fixed = 0.0
    for option in options_of(made, now):
        seat, rate = option.seat, option.capacity.rate
        missed = rate
        if not option.group.exclusive:
            used = sum(made.rung(s).memory_bytes * n for s, n in now.items() if s[0] == seat[0])
            beside = option.rung.memory_bytes <= option.group.room_bytes - used / option.group.count
            missed = (BESIDE if beside else IN_PLACE) * min(rate, expected[seat[1]])
        swap = terms.swap_price * missed * option.rung.load_seconds
        busy = 1.0
        if option.group.exclusive:
            held = sum(now.get(o.seat, 0) * o.capacity.rate for o in options_of(made, now) if o.seat[1] == seat[1])
            busy = min(1.0, expected[seat[1]] / held) ** BUSY if held else 1.0
            left = min(rate, max(0.0, expected[seat[1]] - FILL * (held - rate)))
            loads = median(o.rung.load_seconds for o in options_of(made, now) if o.group is option.group)
            gone = max(0, now.get(seat, 0) - hosts.get(seat, 0))
            fixed += gone * terms.lost_price * made.aims[seat[1]].weight * left * loads
        added = max(0, hosts.get(seat, 0) - now.get(seat, 0))
        fixed += added * (NUDGE * rate / max(1, option.group.count) + busy * swap)
        frozen = min(terms.frozen.get(seat, 0), now.get(seat, 0))
        back = added if seat in terms.left else 0
        thaw = max(terms.thaw * swap, terms.unserved * rate if option.group.exclusive else 0.0)
        away = max(terms.thaw * swap, 0.0 if option.group.exclusive else BACK * terms.unserved * rate)
        fixed += away * back + thaw * max(0, frozen - hosts.get(seat, 0))
    for model, aim in made.aims.items():
        if not aim.park and not any(s[1] == model for s in hosts):
            fixed += terms.unserved * aim.weight * total
    if all(g.exclusive for g in made.groups):
        for price, rates in zip(BEYOND, demand.beyond, strict=False):
            for model, rate in rates.items():
                could = sum(hosts[o.seat] * o.capacity.rate for o in options if o.rung.model == model)
                fixed += price * terms.unserved * made.aims[model].weight * max(0.0, rate - could)
    every = options_of(made, now)
    return (fixed + _serving(made, options, hosts, models, expected, peak, demand.expected, every, terms)) / total


def late_for(option: Option, made: World, expected: Mapping[str, float], every: list[Option]) -> float:
    """Weighted requests that are late for each one of an option: what `budgets.fleet.company` works out for all at once."""
    group, call = option.group, option.rung.seconds(option.capacity.batch)
    if group.exclusive:
        return 0.0
    late = waits = 0.0
    for model, aim in made.aims.items():
        mine = [o for o in every if o.rung.model == model]
        here = [o for o in mine if o.group is group]
        if model == option.rung.model or not here:
            continue
        most = {
            g.name: max((g.count * o.capacity.rate for o in mine if o.group is g), default=0.0) for g in made.groups
        }
        rate = expected[model] * most[group.name] / sum(most.values()) / group.count
        late += aim.weight * rate * max(0.0, call - WAITS * aim.slo_seconds)
        calls = [o.rung.seconds(o.capacity.batch) for o in here]
        usual = sum(calls) / len(calls)
        each = sum(c / o.capacity.batch for c, o in zip(calls, here, strict=True)) / len(calls)
        slack = max(0.0, made.aims[option.rung.model].slo_seconds - call)
        waits += min(1.0, rate * each) * max(0.0, usual - slack) / usual
    own = made.aims[option.rung.model].weight
    return TAKEN ** (group.streams - 1) * (APART * late / option.capacity.batch + OWN * own * waits)


def _serving(
    made: World,
    options: list[Option],
    hosts: Mapping[Seat, int],
    models: list[str],
    expected: Mapping[str, float],
    peak: Mapping[str, float],
    asked: Mapping[str, float],
    every: list[Option],
    terms: Terms,
) -> float:
    """The least that serving costs: a linear program over what each option serves of the expected load and of the peak,
    and what of each model is unserved. A model without a peak (or that nothing is `able` to serve) serves what is
    expected at the peak too."""
    size, many = len(options), len(models)
    weight = np.array([made.aims[m].weight for m in models])
    able = {o.rung.model for o in every}
    surges = np.array([m in able and peak[m] > 1.001 * expected[m] for m in models])
    of = np.array([models.index(o.rung.model) for o in options], dtype=int)
    rate = np.array([o.capacity.rate * hosts[o.seat] for o in options])
    loss = np.array([made.loss(o.rung) for o in options])
    fill, unserved = terms.fill, weight * terms.unserved
    late = np.array([late_for(o, made, asked, every) for o in options])
    cost = np.concatenate(
        [
            weight[of] * loss + terms.unserved * terms.company * late,
            np.zeros(size),
            unserved,
            np.where(surges, unserved * PEAK, 0.0),
        ]
    )
    belongs = (of[None, :] == np.arange(many)[:, None]).astype(float)
    none = np.zeros((many, size))
    nobody = np.zeros((many, many))
    equal = np.vstack(
        [
            np.hstack([belongs, none, np.eye(many), nobody]),
            np.hstack([np.where(surges[:, None], 0.0, -belongs), belongs, nobody, np.diag(surges.astype(float))]),
        ]
    )
    demand = [expected[m] for m in models] + [peak[m] if s else 0.0 for m, s in zip(models, surges, strict=True)]
    rows, limits = [], []
    for group in made.groups:
        if not group.exclusive:
            seconds = np.array([o.capacity.seconds if o.group is group else 0.0 for o in options])
            rows += [np.concatenate([seconds, np.zeros(size + 2 * many)])]
            rows += [np.concatenate([np.zeros(size), seconds, np.zeros(2 * many)])]
            limits += [fill * group.streams * group.count, float(group.streams * group.count)]
    bounds = [(0.0, fill * r) for r in rate] + [(0.0, r) for r in rate] + [(0.0, None)] * (2 * many)
    found = linprog(cost, rows or None, limits or None, equal, demand, bounds)
    assert found.status == 0, found.message
    return float(found.fun)
