"""The fleet's planner: once a tick, from what was seen to what hosts should hold next and what each serves.

    rates -> forecasts -> (when something relevant changed) the joint program -> the placement wanted
    the placement in force -> staged towards the one wanted -> traffic dealt out over what is ready

Pure but for its own memory; time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import numpy as np

from budgets.fleet import forecast
from budgets.fleet.changes import Changes
from budgets.fleet.highs import Floats
from budgets.fleet.options import Option, options_of
from budgets.fleet.program import solve
from budgets.fleet.routing import loss, serves, shares
from budgets.fleet.slowness import Slowness
from budgets.fleet.staging import stage
from budgets.fleet.table import Demand, Terms
from budgets.fleet.world import Group, Placement, Seat, World

#: Among so many models the largest deviation by chance is as large as what counts in any case.
FEW = 12
#: A model with less than this share of all requests is one that nobody asks for.
IDLE = 0.01


@dataclass(frozen=True)
class Settings:
    """Times in seconds. `stands`: how long a plan is expected to stand; what loading costs is spread over it. `wait`: a
    lower demand must last this long before the plan follows it. `drift`: a demand this share off the planned one is
    relevant. `headroom`: share of shared hosts' memory that stays free, for what neighbours take before the next tick.
    `payback`: a host keeps a variant for so many times the time it took to load, unless demand could not be met.
    `time_limit`: of the joint program, after which the best plan found is taken."""

    forecast: forecast.Terms = field(default_factory=forecast.Terms)
    stands: float = 60.0
    loading: float = 3.0
    losing: float = 0.1
    wait: float = 5.0
    drift: float = 0.1
    headroom: float = 0.1
    payback: float = 20.0
    time_limit: float = 2.0


@dataclass(frozen=True)
class Look:
    """What a tick sees: the fleet as it is, requests per second by model since the last tick, how many hosts hold (or
    load) each variant and how many of them can serve, and how many times its profile each seat's calls took."""

    at: float
    world: World
    rates: Mapping[str, float]
    holding: Mapping[Seat, int]
    ready: Mapping[Seat, int]
    slowness: Mapping[Seat, float] = field(default_factory=dict)


class FleetPlanner:
    """Keeps forecasts, the placement wanted, and when hosts were changed last, from tick to tick."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._models: list[str] = []
        self._forecasts = forecast.Forecasts(0)
        self._slowness = Slowness()
        self._wanted: Placement | None = None
        self._lost = math.inf
        self._seen: World | None = None
        self._quiet: tuple[object, object] = None, None
        self._said: tuple[object, ...] | None = None
        self._planned: Floats = np.zeros(0)
        self._roomy: World | None = None
        self._options: tuple[tuple[World, AbstractSet[Seat]] | None, dict[Seat, Option]] = None, {}
        self._groups: object = None
        self._at = -math.inf
        self._changes = Changes(self.settings.payback)
        self._before: tuple[Look, AbstractSet[str]] | None = None
        self._rooms: dict[str, tuple[float, float]] = {}
        self._most: dict[str, float] = {}

    def plan(self, look: Look) -> Placement | None:
        """What hosts should hold from now on and what each seat serves; None when nothing is to be changed. The models are
        those of the first look."""
        first = self._wanted is None
        if first:
            self._models = list(look.world.aims)
            self._forecasts = forecast.Forecasts(len(self._models), self.settings.forecast)
        rates = look.rates
        self._forecasts.take(look.at, np.array([rates.get(m, 0.0) for m in self._models]))
        world = self._with_headroom(look.at, self._slowness.take(look.world, look.slowness))
        need = self._forecasts.with_chance(self._forecasts.expected)
        self._take(look, need)
        changed = (self._shape(world), self._slowness.steps) != self._groups
        if first or changed or (self._drifted(look.at, world, need) and not self._good(world, need)):
            self._wanted = self._solve(look, world, self._demand(need), first)
            self._lost = self._loses(world, need)
        wanted = self._wanted
        assert wanted is not None
        if first:
            return wanted
        options = self._options_of(world, {**look.ready, **look.holding, **wanted.hosts})
        settled = look.holding == wanted.hosts == look.ready
        same = look.world is self._seen  # what is to be held may have to be packed anew on hosts that have changed
        self._seen = look.world
        if settled and same and self._quiet[0] is look.ready and self._quiet[1] is options:
            return None
        # Hosts that load when the peak comes back are missed then: changes leave as much as the peak needs, where they can.
        hosts = wanted.hosts
        if not settled:
            hosts = stage(world, options, look.holding, look.ready, hosts, self._demand(need))
        # Hosts that share serve what they have until what is wanted is loaded beside it; the others stop at once.
        ready = {s: n for s, n in look.ready.items() if s[0] in world.sharing}
        ready |= {s: min(n, look.ready.get(s, 0)) for s, n in hosts.items() if s[0] not in world.sharing}
        dealt = shares(world, options, ready, self._by_model(need))
        batches = {s: options[s].capacity.batch for s in hosts if s in options}
        said = (hosts, batches, _parts(dealt))
        if settled and same and said == self._said:
            if len({s[1] for s in dealt}) == len(dealt):  # nothing to deal out: each model has one seat
                self._quiet = look.ready, options
            return None
        self._said = said
        return replace(wanted, hosts=hosts, rates=dealt, batches=batches)

    def _take(self, look: Look, need: Floats) -> None:
        """Note what hosts have changed to since the last look. Where what was wanted had no room on any one of them, another
        variant has taken its place (`budgets.fleet.pack`): that is what is wanted then, until a plan is made again."""
        if self._wanted is None:  # what the first plan puts on empty hosts is no change
            return
        asked_for = {m for m, r in self._by_model(need).items() if r > IDLE * need.sum()}
        before, self._before = self._before, (look, asked_for)
        if before is None:
            return
        last, asked = before
        if last.holding is look.holding and last.ready == last.holding:
            return
        self._changes.note(last.at, look.world, asked, last.holding, last.ready, look.holding)
        wanted, said = self._wanted.hosts, self._said[0] if self._said else None
        if said != wanted or look.holding == wanted:
            return
        sharing = look.world.sharing
        held, meant = _by_place(look.holding, sharing), _by_place(wanted, sharing)
        other = {p for p, n in held.items() if n != meant.get(p) and sum(n.values()) == sum(meant.get(p, {}).values())}
        if other:
            hosts = {s: n for s, n in wanted.items() if s[:2] not in other}
            hosts |= {s: n for s, n in look.holding.items() if s[:2] in other}
            self._wanted = replace(self._wanted, hosts=hosts)

    def _by_model(self, rates: Floats) -> dict[str, float]:
        return dict(zip(self._models, rates.tolist(), strict=True))

    def _demand(self, need: Floats) -> Demand:
        return Demand(self._by_model(need), self._by_model(self._forecasts.peak))

    def _options_of(self, world: World, seats: Mapping[Seat, int]) -> dict[Seat, Option]:
        key = (world, seats.keys())
        if self._options[0] is None or not (self._options[0][0] is world and self._options[0][1] == key[1]):
            self._options = key, {o.seat: o for o in options_of(world, seats)}
        return self._options[1]

    def _good(self, world: World, need: Floats) -> bool:
        """The placement wanted still serves what is expected, and the peak, at a quality that no other one betters by what
        counts: it loses next to nothing; or next to nothing more than when it was the best, and more requests never
        make less loss possible. Looked at again when the demand drifts from this one."""
        assert self._wanted is not None
        lost, slack = self._loses(world, need), Terms.slack * need.sum()
        fell = bool((need < self._planned - self._off(need)).any())
        if lost > slack and (fell or not lost <= self._lost + slack < math.inf):
            return False
        self._planned = need
        return True

    def _loses(self, world: World, need: Floats) -> float:
        assert self._wanted is not None
        demand, hosts = self._demand(need), self._wanted.hosts
        return loss(world, self._options_of(world, hosts), hosts, demand.expected, demand.peak)

    def _solve(self, look: Look, world: World, demand: Demand, first: bool) -> Placement:
        settings = self.settings
        terms = Terms(
            unserved=world.unserved_cost,
            company=1.0,
            swap_price=0.0 if first else settings.loading / settings.stands,
            lost_price=0.0 if first else settings.losing * world.unserved_cost / settings.stands,
            frozen=self._changes.frozen(look.at, world),
            left=self._changes.left(look.at, world),
            # What the first plan leaves is not made up for later: then a host has to stop for it.
            slack=0.0 if first else Terms.slack,
            time_limit=settings.time_limit,
        )
        self._planned = np.array([demand.expected[m] for m in self._models])
        self._at = look.at
        self._groups = (self._shape(world), dict(self._slowness.steps))
        demand = replace(demand, beyond=tuple(self._by_model(rates) for rates in self._forecasts.beyond))
        return _kept(world, look.holding, solve(world, demand, look.holding, terms))

    def _with_headroom(self, at: float, world: World) -> World:
        """The world with room kept free on hosts that share: a fixed share, and what a shrinking room will
        have lost by the next tick."""
        groups: list[Group] = []
        for group in world.groups:
            if group.exclusive or not math.isfinite(group.memory_bytes):
                groups.append(group)
                continue
            before, room = self._rooms.get(group.name, (at, group.room_bytes))
            step = at - before
            falling = max(0.0, room - group.room_bytes) / step if step > 0 else 0.0
            self._rooms[group.name] = (at, group.room_bytes)
            kept = self.settings.headroom * group.memory_bytes + falling * step
            groups.append(replace(group, reserve_bytes=group.reserve_bytes + kept))
        made, last = tuple(groups), self._roomy
        if last is None or (last.groups, last.rungs) != (made, world.rungs) or last.aims is not world.aims:
            self._roomy = last = replace(world, groups=made)
        return last

    def _drifted(self, at: float, world: World, rates: Floats) -> bool:
        """The demand is off the planned one by what counts: at once if it is higher, after a while if it is lower."""
        off = self._off(rates)
        lower = at - self._at >= self.settings.wait and bool((rates < self._planned - off).any())
        return lower or bool((rates > self._planned + off).any()) or self._outgrown(world, rates)

    def _outgrown(self, world: World, rates: Floats) -> bool:
        """The placement wanted cannot serve what is expected now, which is more than it was made for and than chance: then
        no drift is small."""
        if not (rates > self._planned + self._chance(rates)).any():
            return False
        assert self._wanted is not None
        hosts = self._wanted.hosts
        return not serves(world, self._options_of(world, hosts), hosts, self._by_model(rates))

    def _off(self, rates: Floats) -> Floats:
        """What counts, by model: a share of the demand, beyond chance."""
        settings = self.settings
        counts = settings.drift * np.maximum(np.maximum(self._planned, rates), 0.01 * rates.sum())
        off: Floats = counts + self._chance(rates)
        return off

    def _chance(self, rates: Floats) -> Floats:
        """What chance does to forecasts, of which there is more among many models (the largest of n deviations grows with
        the root of the logarithm of n)."""
        many = math.sqrt(max(1.0, math.log(max(2, len(rates))) / math.log(FEW)))
        made: Floats = many * np.sqrt(self._forecasts.scatter * rates / self.settings.forecast.smooth)
        return made

    def _shape(self, world: World) -> tuple[tuple[str, int, float], ...]:
        """What of the groups is relevant: how many hosts there are, and their room in fiftieths of the most they had."""
        shape = []
        for group in world.groups:
            room = group.room_bytes
            most = self._most[group.name] = max(self._most.get(group.name, 1.0), room)
            shape.append((group.name, group.count, round(50 * room / most) if math.isfinite(room) else -1))
        return tuple(shape)


def _by_place(hosts: Mapping[Seat, int], groups: AbstractSet[str]) -> dict[tuple[str, str], dict[str, int]]:
    """How many hosts have each variant, by group and model, of these groups."""
    made: dict[tuple[str, str], dict[str, int]] = {}
    for (group, model, variant), count in hosts.items():
        if group in groups and count:
            made.setdefault((group, model), {})[variant] = count
    return made


def _parts(rates: Mapping[Seat, float]) -> dict[Seat, int]:
    """Each seat's part of its model's traffic, in per cent: what hosts are told of it."""
    total: dict[str, float] = {}
    for seat, rate in rates.items():
        total[seat[1]] = total.get(seat[1], 0.0) + rate
    return {s: round(100 * r / total[s[1]]) if total[s[1]] else 0 for s, r in rates.items()}


def _kept(world: World, holding: Mapping[Seat, int], placement: Placement) -> Placement:
    """What hosts that share hold and the plan has no use for stays while nobody needs the room: to give it up gains
    nothing, and to load it again when requests come is a swap."""
    hosts = dict(placement.hosts)
    for group in world.groups:
        if group.exclusive:
            continue
        own = {s: n for s, n in holding.items() if s[0] == group.name}
        size = {s: world.rung(s).memory_bytes for s in {*own, *(s for s in hosts if s[0] == group.name)}}
        # What is new must find a host: as much room as the largest piece takes stays free on each.
        new = max((size[s] for s in size if hosts.get(s, 0) > own.get(s, 0)), default=0.0)
        room = group.count * (group.room_bytes - new) - sum(b * hosts.get(s, 0) for s, b in size.items())
        free = {s[1]: group.count for s in own}
        for seat in size:
            free[seat[1]] = free.get(seat[1], group.count) - hosts.get(seat, 0)
        for seat in sorted(own, key=lambda s: (size[s], s)):
            more = min(own[seat] - hosts.get(seat, 0), free[seat[1]])
            if size[seat] > 0:
                more = min(more, int(min(room, 1e18) // size[seat]))
            if more > 0:
                hosts[seat] = hosts.get(seat, 0) + more
                free[seat[1]] -= more
                room -= more * size[seat]
    return placement if hosts == placement.hosts else replace(placement, hosts=hosts)
