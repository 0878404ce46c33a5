"""From the placement in force to the one wanted, in steps that keep serving: which hosts may change now.

A host that holds one variant at a time serves nothing while it loads another. So only so many change at once as leave
every model able to serve its load, or as help a model that is short more than they hurt another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from budgets.fleet.options import Option
from budgets.fleet.table import FILL, Demand
from budgets.fleet.world import Seat, World


@dataclass
class _Room:
    """Requests per second that each model can serve now, will be able to when what is loading is there, should be able to
    (its peak), and is asked for."""

    ready: dict[str, float]
    coming: dict[str, float]
    need: Mapping[str, float]
    asked: Mapping[str, float]
    weight: Mapping[str, float]

    def _lost(self, model: str, rate: float) -> float:
        return self.weight[model] * max(0.0, self.asked.get(model, 0.0) - rate)

    def harm(self, source: Seat, able: Mapping[Seat, float]) -> float:
        """What is lost of what is asked for while a host of the source serves nothing."""
        ready = self.ready.get(source[1], 0.0)
        return self._lost(source[1], ready - able[source]) - self._lost(source[1], ready)

    def gain(self, source: Seat, target: Seat, able: Mapping[Seat, float]) -> float:
        """What is lost less of it once that host serves the target."""
        change = {source[1]: -able[source]}
        change[target[1]] = change.get(target[1], 0.0) + able[target]
        coming = {m: self.coming.get(m, 0.0) for m in change}
        return sum(self._lost(m, coming[m]) - self._lost(m, coming[m] + by) for m, by in change.items())

    def short(self, model: str) -> float:
        """The share of its need that a model misses now."""
        need = self.need.get(model, 0.0)
        return max(0.0, 1.0 - self.ready.get(model, 0.0) / need) if need > 0 else 0.0

    def spare(self, model: str) -> float:
        return self.ready.get(model, 0.0) - self.need.get(model, 0.0)


def stage(
    world: World,
    options: Mapping[Seat, Option],
    holding: Mapping[Seat, int],
    ready: Mapping[Seat, int],
    wanted: Mapping[Seat, int],
    demand: Demand,
) -> dict[Seat, int]:
    """What hosts should hold next, between `holding` (loading counts as held) and `wanted`.

    Hosts that share change all at once: a variant is loaded beside the old one, or memory would not hold. The demand's
    peak is what every model is kept able to serve.
    """
    able = {s: (FILL * options[s].capacity.rate if s in options else 0.0) for s in {*holding, *wanted}}
    room = _Room({}, {}, demand.peak, demand.expected, {m: a.weight for m, a in world.aims.items()})
    for seat, count in holding.items():
        room.ready[seat[1]] = room.ready.get(seat[1], 0.0) + min(count, ready.get(seat, 0)) * able[seat]
        room.coming[seat[1]] = room.coming.get(seat[1], 0.0) + count * able[seat]
    made: dict[Seat, int] = {}
    for group in world.groups:
        before = {s: n for s, n in holding.items() if s[0] == group.name and n}
        after = {s: n for s, n in wanted.items() if s[0] == group.name and n}
        if group.exclusive:
            # What memory no longer holds gives way at once, whoever is short then.
            before = {s: n for s, n in before.items() if world.rung(s).memory_bytes <= group.room_bytes}
            loading = any(n > ready.get(s, 0) for s, n in before.items())
            after = _moves(before, after, group.count, able, room, loading)
        made |= after
    return made


def _moves(
    before: Mapping[Seat, int],
    after: Mapping[Seat, int],
    count: int,
    able: Mapping[Seat, float],
    room: _Room,
    loading: bool,
) -> dict[Seat, int]:
    now = dict(before)
    free = max(0, count - sum(now.values()))
    plenty = {s: n - after.get(s, 0) for s, n in now.items() if n > after.get(s, 0)}
    lack = {s: n - now.get(s, 0) for s, n in after.items() if n > now.get(s, 0)}
    moved = 0
    while lack:
        # Who is short comes first, then who gains most.
        target = max(lack, key=lambda s: (room.need.get(s[1], 0.0) - room.coming.get(s[1], 0.0), able[s], s))
        if free:
            free -= 1
        else:
            source = _source(plenty, target, able, room)
            if source is None and (moved or loading):
                del lack[target]
                continue
            if source is None:  # nothing is under way and nothing can be spared: one step at least, the cheapest
                source = min(plenty, key=lambda s: (able[s] / max(1e-9, room.need.get(s[1], 0.0)), s), default=None)
            if source is None:
                break
            plenty[source] -= 1
            now[source] -= 1
            if not plenty[source]:
                del plenty[source]
            room.ready[source[1]] -= able[source]
            room.coming[source[1]] -= able[source]
        moved += 1
        now[target] = now.get(target, 0) + 1
        room.coming[target[1]] = room.coming.get(target[1], 0.0) + able[target]
        lack[target] -= 1
        if not lack[target]:
            del lack[target]
    return {s: n for s, n in now.items() if n}


def _source(plenty: Mapping[Seat, int], target: Seat, able: Mapping[Seat, float], room: _Room) -> Seat | None:
    """The seat to take a host from: of a model that can spare it; else of one that stays better off than the target."""
    sparing = [s for s in plenty if room.spare(s[1]) >= able[s]]
    if sparing:
        return max(sparing, key=lambda s: (s[1] == target[1], room.spare(s[1]), s))
    lacking = room.need.get(target[1], 0.0) - room.coming.get(target[1], 0.0)
    if lacking <= 0:
        return None
    # What is asked for now is lost either way: less by changing if what the target adds is more than what the source serves.
    pays = {s: room.gain(s, target, able) - room.harm(s, able) for s in plenty}
    best = max(pays, key=lambda s: (pays[s], s[1] == target[1], s), default=None)
    if best is not None and pays[best] > 0:
        return best
    # Room for the peak is taken from room for the peak, where that leaves who gives it better off.
    worse = [
        s
        for s in plenty
        if s[1] != target[1] and room.harm(s, able) <= 0 and _after(room, s, able) < room.short(target[1])
    ]
    return min(worse, key=lambda s: (_after(room, s, able), s), default=None)


def _after(room: _Room, seat: Seat, able: Mapping[Seat, float]) -> float:
    need = room.need.get(seat[1], 0.0)
    return max(0.0, 1.0 - (room.ready.get(seat[1], 0.0) - able[seat]) / need) if need > 0 else 0.0
