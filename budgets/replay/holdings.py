"""What the simulated hosts hold, and how it changes: drained and exchanged, or loaded side by side and in turns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from budgets.fleet.capacity import capacity
from budgets.fleet.world import Aim, Group, Placement, Rung, World
from budgets.replay.hosts import Host, Queue, Swap

#: A swap that is taken back on the same host within this many times its load time has cost more than it gave.
PAYBACK = 20.0
#: Share of a host's memory that must stay free beside two variants, or the old one goes before the new one is loaded.
MARGIN = 0.05
PARKED = "parked"
Later = Callable[[float, Callable[[float], None]], None]
#: model -> arrival times of requests that are to be sent elsewhere
Moved = list[tuple[str, list[float]]]


class Holdings(ABC):
    """Hosts by group, and the swaps on them. `later(time, call)` schedules, `wake(host, now)` is told that a host may have
    something to compute."""

    def __init__(self, world: World, later: Later, wake: Callable[[Host, float], None]) -> None:
        self.world = world
        self.aims: dict[str, Aim] = dict(world.aims)
        self.hosts: dict[str, list[Host]] = {
            g.name: [Host(f"{g.name}-{i}", g, limit=g.room_bytes) for i in range(g.count)] for g in world.groups
        }
        self.swaps = 0
        self.flaps = 0
        #: What hosts hold may have changed since this was last unset.
        self.touched = True
        self._later, self._wake = later, wake
        #: (host, model; "" on a host that holds one variant at a time) -> when it changed last, from what, to what, its cost
        self._history: dict[tuple[str, str], tuple[float, str, str, float]] = {}

    @abstractmethod
    def refresh(self, now: float, models: Iterable[str]) -> None:
        """Take in what is ready now."""

    @abstractmethod
    def send(self, now: float, model: str, arrivals: list[float]) -> None:
        """Route requests that were waiting or running elsewhere."""

    def exchange(self, host: Host, wanted: Mapping[str, str], placement: Placement, now: float, at_once: bool) -> Moved:
        """A host that holds one variant at a time: what waits there is computed first, then the new one is loaded."""
        held = host.contents()
        if not wanted:
            moved = [(m, list(q.waiting)) for m, q in host.queues.items()]
            host.clear()
            return moved
        ((model, variant),) = wanted.items()
        rung = self.world.by_name[(model, variant, host.group.device)]
        limit = self._limit(placement, host.group, rung)
        if held == dict(wanted):
            if host.next is not None:
                host.next = (model, variant, limit)
            elif model in host.loading:
                host.loading[model].limit = limit
            else:
                host.queues[model].set(rung, limit)
            return []
        if held:
            self._count(host, model, "/".join(next(iter(held.items()))), f"{model}/{variant}", rung.load_seconds, now)
        host.next = (model, variant, limit)
        moved = []
        for name, queue in host.queues.items():
            queue.leaving = True
            if math.isinf(queue.slo):  # there is no end to how long they would keep the host
                moved.append((name, list(queue.waiting)))
                queue.waiting.clear()
        if at_once or host.idle():
            self.drained(host, now, at_once=at_once)
        return moved

    def _limit(self, placement: Placement, group: Group, rung: Rung) -> int:
        """The plan's batch limit; of what the plan did not foresee there, the one within its objective."""
        planned = placement.batches.get((group.name, rung.model, rung.variant))
        if planned is not None:
            return planned
        able = capacity(rung, group, self.aims[rung.model].slo_seconds)
        return able.batch if able is not None else 1

    def drained(self, host: Host, now: float, *, at_once: bool = False) -> None:
        """Load what the host is to hold next."""
        assert host.next is not None
        self.touched = True
        model, variant, limit = host.next
        host.account(now)
        host.clear()
        rung = self.world.by_name[(model, variant, host.group.device)]
        self._load(host, rung, limit, now, beside=False, at_once=at_once)
        if not at_once:
            self.refresh(now, (model,))

    def settle(
        self,
        host: Host,
        wanted: Mapping[str, str],
        placement: Placement,
        placed: set[str],
        now: float,
        at_once: bool,
    ) -> Moved:
        """A host that shares: note what is to change, and start with it. `placed`: models that are somewhere by plan."""
        moved: Moved = []
        for model in [m for m in (*host.queues, *host.pending) if m not in wanted]:
            host.pending.pop(model, None)
            if model in host.queues:
                host.parting.add(model)
                if model not in placed or any(q.host is not host for q in self._serving(model)):
                    moved += self._part(host, model, now)
        for model, variant in wanted.items():
            rung = self.world.by_name[(model, variant, host.group.device)]
            limit = self._limit(placement, host.group, rung)
            host.parting.discard(model)
            host.pending.pop(model, None)
            queue, swap = host.queues.get(model), host.loading.get(model)
            if swap is not None and swap.rung is rung:
                swap.limit = limit
            elif swap is None and queue is not None and queue.rung is rung:
                queue.set(rung, limit)
            elif at_once:
                self._load(host, rung, limit, now, beside=False, at_once=True)
            else:
                host.pending[model] = (rung, limit)
        return moved + self._proceed(host, now)

    def _proceed(self, host: Host, now: float) -> Moved:
        """Start what is to change and has room: beside the variant it replaces where memory holds both, busiest first.
        When nothing is under way any more and nothing has room so, one goes in the other's place, what frees most
        first. Memory is never over because of a change, and when it is because of others, changes that free it do not
        wait."""
        moved: Moved = []
        room = host.limit - host.neighbour
        for model in sorted(host.parting):
            if host.used > room:
                moved += self._part(host, model, now)
        for under_way in host.loading.values():
            if under_way.beside and host.used > room:  # the old one goes before the new one is there
                host.used -= under_way.queue.rung.memory_bytes
                under_way.beside = under_way.queue.ready = False
        tight = room - MARGIN * host.limit if math.isfinite(host.limit) else room
        for model in sorted(host.pending, key=lambda m: (-host.queues[m].weight if m in host.queues else 0.0, m)):
            rung, _ = host.pending[model]
            queue, swap = host.queues.get(model), host.loading.get(model)
            spare = (room if queue is None else tight) - host.used + (swap.rung.memory_bytes if swap else 0.0)
            if rung.memory_bytes <= spare and (queue is None or queue.ready):
                self._begin(host, model, now, beside=queue is not None)
        while host.pending and (host.used > room or not host.loading):
            if host.parting and not host.loading:
                moved += self._part(host, min(host.parting), now)
                return moved + self._proceed(host, now)
            freed = {m: host.occupied(m) - rung.memory_bytes for m, (rung, _) in host.pending.items()}
            model = max(freed, key=lambda m: (freed[m], m))
            if freed[model] <= 0 and host.loading:
                break
            self._begin(host, model, now, beside=False)
        return moved

    def _begin(self, host: Host, model: str, now: float, *, beside: bool) -> None:
        rung, limit = host.pending.pop(model)
        before = host.queues[model].rung.variant if model in host.queues else PARKED
        if model in host.loading:
            before = host.loading[model].rung.variant
        self._count(host, model, before, rung.variant, rung.load_seconds, now)
        self._load(host, rung, limit, now, beside=beside, at_once=False)

    def _part(self, host: Host, model: str, now: float) -> Moved:
        """A model leaves a host; what waits there goes elsewhere."""
        queue = host.queues[model]
        self._count(host, model, queue.rung.variant, PARKED, queue.rung.load_seconds, now)
        moved = [(model, list(queue.waiting))]
        queue.waiting.clear()
        host.drop(model)
        return moved

    def _serving(self, model: str) -> list[Queue]:
        """Queues of hosts that serve the model and are to keep it."""
        found = (h.queues.get(model) for hosts in self.hosts.values() for h in hosts if model not in h.parting)
        return [q for q in found if q is not None and q.ready and not q.leaving]

    def _load(self, host: Host, rung: Rung, limit: int, now: float, *, beside: bool, at_once: bool) -> None:
        model = rung.model
        queue = host.queues.get(model)
        abandoned = host.loading.pop(model, None)
        if abandoned is not None:
            host.used -= abandoned.rung.memory_bytes
        if queue is None:
            queue = host.queues[model] = Queue(host, rung, self.aims[model].slo_seconds)
        elif queue.ready:
            host.used -= 0.0 if beside else queue.rung.memory_bytes
            queue.ready = beside
        host.used += rung.memory_bytes
        swap = Swap(queue, rung, limit, now + rung.load_seconds, beside)
        host.loading[model] = swap
        if at_once:
            self._loaded(host, swap, now)
        else:
            self._later(swap.done, lambda at: self._loaded(host, swap, at))

    def _loaded(self, host: Host, swap: Swap, now: float) -> None:
        model = swap.rung.model
        if not host.alive or host.loading.get(model) is not swap:
            return
        self.touched = True
        host.account(now)
        del host.loading[model]
        if swap.beside:
            host.used -= swap.queue.rung.memory_bytes
        swap.queue.set(swap.rung, swap.limit)
        swap.queue.ready = True
        moved: Moved = []
        touched = {model}
        for hosts in self.hosts.values():
            for other in hosts:
                if other is not host and model in other.parting:
                    other.account(now)
                    moved += self._part(other, model, now)
                    moved += self._proceed(other, now)
                    touched |= set(other.loading)
        moved += self._proceed(host, now)
        self.refresh(now, touched | set(host.loading) | {m for m, _ in moved})
        for name, arrivals in moved:
            self.send(now, name, arrivals)
        self._wake(host, now)

    def _count(self, host: Host, model: str, before: str, after: str, load_seconds: float, now: float) -> None:
        self.swaps += 1
        key = (host.name, "" if host.group.exclusive else model)
        last = self._history.get(key)
        if last is not None and (last[1], last[2]) == (after, before) and now - last[0] < PAYBACK * last[3]:
            self.flaps += 1
        self._history[key] = (now, before, after, load_seconds)
