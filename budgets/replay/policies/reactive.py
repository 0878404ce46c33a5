"""Thresholds only: each model steps down its ladder when it is late or its hosts are full, and up again when they are
not. What an operator would build on Envoy's overload manager (its documentation, "Overload manager": triggers with a
threshold, actions that scale with it) or a Kubernetes autoscaler; no model knows of another."""

from __future__ import annotations

from budgets.fleet.capacity import capacity
from budgets.fleet.program import solve
from budgets.fleet.table import Demand
from budgets.fleet.world import Group, Placement, Rung, Seat, World
from budgets.replay.engine import Seen

LATE_SHARE = 0.01
FULL = 0.9
ROOMY = 0.6
WAIT_DOWN_SECONDS = 5.0
WAIT_UP_SECONDS = 20.0


class ReactiveLadder:
    """Hosts are dealt out once, for the first rates; then only rungs change."""

    name = "reactive-ladder"

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, str], int] = {}
        self._level: dict[str, int] = {}
        self._moved: dict[str, float] = {}
        self._quiet: dict[str, float] = {}

    def plan(self, seen: Seen) -> Placement | None:
        world = seen.world
        if not self._hosts:
            first = solve(world, Demand(seen.rates), {})
            for (group, model, variant), count in first.hosts.items():
                self._hosts[(group, model)] = self._hosts.get((group, model), 0) + count
                rungs = [r.variant for r in ladder(world, group, model)]
                self._level[model] = max(self._level.get(model, 0), rungs.index(variant))
            return self._placement(world)
        changed = False
        for model in self._level:
            changed = self._step(seen, model) or changed
        over = self._over(seen)
        for model in over:
            changed = self._move(model, 1, seen.at) or changed
        live = {g.name: g.count for g in world.groups}
        lost = any(n > live[group] for (group, _), n in self._hosts.items())
        return self._placement(world) if changed or lost else None

    def _step(self, seen: Seen, model: str) -> bool:
        finished = seen.completed.get(model, 0) + seen.violations.get(model, 0)
        late = seen.violations.get(model, 0) / finished if finished else 0.0
        busy = max((seen.busy[g] for g, m in self._hosts if m == model), default=0.0)
        exclusive = all(g.exclusive for g in seen.world.groups)
        if late > LATE_SHARE or (not exclusive and busy > FULL):
            self._quiet[model] = seen.at
            if seen.at - self._moved.get(model, -1e9) >= WAIT_DOWN_SECONDS:
                return self._move(model, 1, seen.at)
            return False
        waited = seen.at - max(self._quiet.get(model, 0.0), self._moved.get(model, 0.0))
        if waited >= WAIT_UP_SECONDS and self._level[model] > 0 and self._roomy(seen, model, busy, exclusive):
            return self._move(model, -1, seen.at)
        return False

    def _roomy(self, seen: Seen, model: str, busy: float, exclusive: bool) -> bool:
        """Exclusive hosts: the rung above would be used below the threshold; else the group is."""
        if not exclusive:
            return busy < ROOMY
        able = 0.0
        for (group, m), count in self._hosts.items():
            rungs = ladder(seen.world, group, m)
            if m == model and rungs:
                above = rungs[min(max(0, self._level[model] - 1), len(rungs) - 1)]
                found = capacity(above, _group(seen.world, group), seen.world.aims[m].slo_seconds)
                able += count * found.rate if found else 0.0
        return seen.rates.get(model, 0.0) < ROOMY * able

    def _over(self, seen: Seen) -> list[str]:
        """The largest model of each group whose memory is above its threshold."""
        found = []
        for group in seen.world.groups:
            if group.exclusive or not group.count:
                continue
            sizes = {
                m: seen.world.rung((g, m, v)).memory_bytes * n / group.count
                for (g, m, v), n in seen.holding.items()
                if g == group.name
            }
            steppable = {m: b for m, b in sizes.items() if self._level[m] + 1 < self._rungs(seen.world, m)}
            if sum(sizes.values()) > FULL * group.room_bytes and steppable:
                found.append(max(steppable, key=lambda m: steppable[m]))
        return found

    def _move(self, model: str, by: int, now: float) -> bool:
        self._moved[model] = now
        before = self._level[model]
        self._level[model] = max(0, before + by)
        return self._level[model] != before

    def _rungs(self, world: World, model: str) -> int:
        return max((len(ladder(world, g, m)) for g, m in self._hosts if m == model), default=0)

    def _placement(self, world: World) -> Placement:
        hosts: dict[Seat, int] = {}
        rates: dict[Seat, float] = {}
        batches: dict[Seat, int] = {}
        live = {g.name: g.count for g in world.groups}
        for model in self._level:
            self._level[model] = min(self._level[model], max(0, self._rungs(world, model) - 1))
        for (group, model), count in self._hosts.items():
            rungs = ladder(world, group, model)
            if not rungs or not live[group]:
                continue
            rung = rungs[min(self._level[model], len(rungs) - 1)]
            seat = (group, model, rung.variant)
            found = capacity(rung, _group(world, group), world.aims[model].slo_seconds)
            hosts[seat] = min(count, live[group])
            rates[seat] = hosts[seat] * (found.rate if found else 1.0)
            batches[seat] = found.batch if found else 1
        return Placement(hosts, rates, batches)


def ladder(world: World, group: str, model: str) -> list[Rung]:
    """A model's rungs on a group, best first, of those that keep its floor, fit a host and can meet its objective."""
    where = _group(world, group)
    aim = world.aims[model]
    fit = [
        r
        for r in world.rungs
        if r.model == model
        and r.device == where.device
        and r.quality >= aim.floor
        and (aim.pin is None or r.variant == aim.pin)
        and capacity(r, where, aim.slo_seconds) is not None
    ]
    return sorted(fit, key=lambda r: -r.quality)


def _group(world: World, name: str) -> Group:
    return next(g for g in world.groups if g.name == name)
