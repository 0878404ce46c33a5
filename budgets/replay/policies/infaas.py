"""INFaaS (Romero et al., USENIX ATC 2021): each model by itself, greedily.

As its sections 4 and 5 describe it, on a fleet of fixed size and with accuracy as what is saved (the variant that the
Proteus paper calls INFaaS-Accuracy): when a model's load outgrows its hosts, take the cheapest of adding a host and of
switching one to a faster variant; when it has been low for a while, switch one back or give one up. A model takes only
hosts that nobody holds, and memory that is free.
"""

from __future__ import annotations

from dataclasses import dataclass

from budgets.fleet.capacity import capacity
from budgets.fleet.program import solve
from budgets.fleet.table import Demand
from budgets.fleet.world import Group, Placement, Rung, Seat
from budgets.replay.engine import Seen
from budgets.replay.policies.reactive import ladder

HEADROOM = 1.05
SLACK = 1.3
WAIT_SECONDS = 30.0
STEPS = 4


@dataclass(frozen=True)
class _Step:
    """From one seat (None: a free host) to another (None: given up)."""

    before: Seat | None
    after: Seat | None
    gain: float
    loss: float


class Infaas:
    """Greedy autoscaling of each model."""

    name = "infaas-like"

    def __init__(self) -> None:
        self._hosts: dict[Seat, int] = {}
        self._low_since: dict[str, float] = {}

    def plan(self, seen: Seen) -> Placement | None:
        if not self._hosts:
            self._hosts = dict(solve(seen.world, Demand(seen.rates), {}).hosts)
            return self._placement(seen)
        live = {g.name: g.count for g in seen.world.groups}
        changed = False
        for seat in list(self._hosts):
            if self._hosts[seat] > live[seat[0]]:
                self._hosts[seat], changed = live[seat[0]], True
        for group in seen.world.groups:
            excess = sum(n for (g, _, _), n in self._hosts.items() if g == group.name) - group.count
            while group.exclusive and excess > 0:
                largest = max((s for s in self._hosts if s[0] == group.name), key=lambda s: self._hosts[s])
                self._hosts[largest] -= 1
                excess, changed = excess - 1, True
        for model in sorted(seen.world.aims):
            changed = self._scale(seen, model) or changed
        return self._placement(seen) if changed else None

    def _scale(self, seen: Seen, model: str) -> bool:
        needed = seen.rates.get(model, 0.0) * HEADROOM
        able = self._able(seen, model)
        if able < needed:
            self._low_since.pop(model, None)
            done = False
            for _ in range(STEPS):
                step = self._up(seen, model, needed - able)
                if step is None:
                    break
                self._take(step)
                able, done = able + step.gain, True
                if able >= needed:
                    break
            return done
        if able > SLACK * needed:
            since = self._low_since.setdefault(model, seen.at)
            if seen.at - since >= WAIT_SECONDS:
                step = self._down(seen, model, needed * HEADROOM, able)
                if step is not None:
                    self._take(step)
                    return True
        else:
            self._low_since.pop(model, None)
        return False

    def _up(self, seen: Seen, model: str, short: float) -> _Step | None:
        """The step of least loss that covers what is short, else the one that covers most."""
        steps = self._steps(seen, model)
        enough = [s for s in steps if s.gain >= short]
        if enough:
            return min(enough, key=lambda s: (s.loss, -s.gain))
        more = [s for s in steps if s.gain > 0]
        return max(more, key=lambda s: s.gain) if more else None

    def _down(self, seen: Seen, model: str, needed: float, able: float) -> _Step | None:
        better = [s for s in self._steps(seen, model) if s.before and s.loss < 0 and able + s.gain >= needed]
        if better:
            return min(better, key=lambda s: s.loss)
        given_up = [
            _Step(seat, None, -self._rate(seen, seat), 0.0)
            for seat, n in self._hosts.items()
            if seat[1] == model and n > 0 and self._count(model) > 1
        ]
        fits = [s for s in given_up if able + s.gain >= needed * SLACK]
        return max(fits, key=lambda s: s.gain) if fits else None

    def _steps(self, seen: Seen, model: str) -> list[_Step]:
        best = seen.world.best[model]
        made = []
        for group in seen.world.groups:
            rungs = ladder(seen.world, group.name, model)
            for rung in rungs:
                after = (group.name, model, rung.variant)
                rate = self._rate(seen, after)
                if self._free(seen, group, model, rung):
                    made.append(_Step(None, after, rate, best - rung.quality))
                for other in rungs:
                    before = (group.name, model, other.variant)
                    if other is not rung and self._hosts.get(before, 0) and self._fits(seen, group, rung, other):
                        made.append(_Step(before, after, rate - self._rate(seen, before), other.quality - rung.quality))
        return made

    def _free(self, seen: Seen, group: Group, model: str, rung: Rung) -> bool:
        if group.exclusive:
            return sum(n for (g, _, _), n in self._hosts.items() if g == group.name) < group.count
        here = sum(n for (g, m, _), n in self._hosts.items() if g == group.name and m == model)
        return here < group.count and self._fits(seen, group, rung, None)

    def _fits(self, seen: Seen, group: Group, rung: Rung, instead: Rung | None) -> bool:
        if group.exclusive:
            return True
        used = sum(seen.world.rung(s).memory_bytes * n for s, n in self._hosts.items() if s[0] == group.name)
        used += rung.memory_bytes - (instead.memory_bytes if instead else 0.0)
        return used <= group.room_bytes * group.count or (
            instead is not None and rung.memory_bytes < instead.memory_bytes
        )

    def _take(self, step: _Step) -> None:
        if step.before is not None:
            self._hosts[step.before] -= 1
        if step.after is not None:
            self._hosts[step.after] = self._hosts.get(step.after, 0) + 1
        self._hosts = {s: n for s, n in self._hosts.items() if n}

    def _count(self, model: str) -> int:
        return sum(n for (_, m, _), n in self._hosts.items() if m == model)

    def _rate(self, seen: Seen, seat: Seat) -> float:
        group = next(g for g in seen.world.groups if g.name == seat[0])
        found = capacity(seen.world.rung(seat), group, seen.world.aims[seat[1]].slo_seconds)
        return found.rate if found else 0.0

    def _able(self, seen: Seen, model: str) -> float:
        return sum(n * self._rate(seen, seat) for seat, n in self._hosts.items() if seat[1] == model)

    def _placement(self, seen: Seen) -> Placement:
        groups = {g.name: g for g in seen.world.groups}
        batches = {}
        for seat in self._hosts:
            found = capacity(seen.world.rung(seat), groups[seat[0]], seen.world.aims[seat[1]].slo_seconds)
            batches[seat] = found.batch if found else 1
        rates = {seat: n * self._rate(seen, seat) for seat, n in self._hosts.items()}
        return Placement(dict(self._hosts), rates, batches)
