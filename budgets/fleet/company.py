"""What models that share hosts do to each other: a call is not interrupted, and who cannot wait for its end is late.

While a call of L seconds runs on a host of one stream, requests of another model arrive there that can wait for w seconds: those
of its first L - w seconds will be late. So calls that are long for others have a price in the joint program (`harms`), and where
variants have to be put on hosts, they are put where they make fewest late (`clash`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from budgets.fleet.capacity import COMPANY
from budgets.fleet.highs import Floats, Ints
from budgets.fleet.options import Option
from budgets.fleet.world import Placement, Seat, World

#: A request can wait for so much of its objective until a stream is free: its own call, and others before it, take the rest.
WAITS = 0.5
#: Share of the time in which another stream is not free either.
TAKEN = 0.5
#: Of what would be late if all models were on all hosts so much is reckoned with: they are put apart where there is room.
APART = 0.3
#: The same of an option's own requests, which wait for others' calls. Lower, as its calls are planned to leave room for that.
OWN = 0.03
#: Seconds: who can wait so long waits for anything.
FAR = 1e12
#: What a seat may be asked for is so much of the most that it is planned for, even where next to nothing is asked now.
ASKED = 0.5


def harms(world: World, expected: Mapping[str, float], options: Sequence[Option]) -> Floats:
    """By option: requests, times their models' weights, that are late for each request of it, on hosts that share."""
    made = np.zeros(len(options))
    if not any(expected.values()):
        return made
    models = {m: n for n, m in enumerate(sorted(world.aims))}
    groups = {g.name: n for n, g in enumerate(world.groups)}
    model = np.array([models[o.rung.model] for o in options])
    place = np.array([groups[o.group.name] for o in options])
    batch = np.array([o.capacity.batch for o in options])
    rates = np.array([o.capacity.rate for o in options])
    able = np.zeros((len(groups), len(models)))
    np.maximum.at(able, (place, model), np.array([g.count for g in world.groups])[place] * rates)
    asked = np.array([expected.get(m, 0.0) for m in models])
    aims = [world.aims[m] for m in models]
    weights, objectives = np.array([a.weight for a in aims]), np.array([a.slo_seconds for a in aims])
    for number, group in enumerate(world.groups):
        own = np.flatnonzero(place == number)
        if group.exclusive or not len(own):
            continue
        here, which = np.unique(model[own], return_inverse=True)
        weight, objective = weights[here], objectives[here]
        arrive = asked[here] * able[number, here] / able[:, here].sum(axis=0) / group.count
        call = np.array([options[i].rung.seconds(options[i].capacity.batch) for i in own.tolist()])
        late = _beyond(call, WAITS * objective, weight * arrive, which) / batch[own]
        # What the other models run is not known yet: the mean of what they may. A request whose own call leaves it `slack` waits
        # in vain for the end of a longer one that began less than their difference ago.
        many = np.bincount(which)
        usual, each = np.bincount(which, call) / many, np.bincount(which, call / batch[own]) / many
        slack = np.maximum(0.0, objective[which] - call)
        waits = _beyond(-slack, -usual, np.minimum(1.0, arrive * each) / usual, which)
        one = TAKEN ** (group.streams - 1)
        made[own] = one * (APART * late + OWN * weight[which] * waits)
    return made


def _beyond(values: Floats, bounds: Floats, factors: Floats, own: Ints) -> Floats:
    """For each value the sum over all bounds but its `own` of factor x max(0, value - bound)."""
    values = np.maximum(values, -FAR)
    order = np.argsort(bounds, kind="stable")
    count = np.searchsorted(bounds[order], values)
    below = np.where(np.isfinite(bounds[order]), bounds[order], 0.0)
    factor = np.append(0.0, np.cumsum(factors[order]))
    summed = np.append(0.0, np.cumsum(factors[order] * below))
    mine = factors[own] * np.maximum(0.0, values - bounds[own])
    made: Floats = np.maximum(0.0, values * factor[count] - summed[count] - mine)
    return made


@dataclass(frozen=True)
class Load:
    """What a seat does on one host: its calls and requests per second, how long a call takes and how long a request can wait,
    and the share of the host's streams that it takes."""

    calls: float
    requests: float
    call_seconds: float
    waits_seconds: float
    busy: float


def load_of(world: World, placement: Placement, seat: Seat) -> Load:
    """The load of a seat of the placement, on each of its hosts."""
    rung, group = world.rung(seat), world.group[seat[0]]
    batch = placement.batches.get(seat, 1)
    call = rung.seconds(batch)
    most = group.streams / (group.streams + COMPANY) * group.streams * batch / call if call else 0.0
    rate = max(placement.rates.get(seat, 0.0) / placement.hosts[seat], ASKED * most if group.count > 1 else 0.0)
    waits = WAITS * world.aims[seat[1]].slo_seconds * group.streams
    return Load(rate / batch, rate, call, waits, rate * call / batch / group.streams)


def clash(one: Load, other: Load) -> float:
    """Requests per second that are late because the two share a host."""
    return _late(one, other) + _late(other, one)


def _late(long: Load, short: Load) -> float:
    return long.calls * short.requests * max(0.0, long.call_seconds - short.waits_seconds)
