"""The simulated hosts together: routing, what a plan changes on them, hosts that go and come."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping

from budgets.fleet.pack import pack
from budgets.fleet.world import Aim, Group, Placement, Seat, World
from budgets.replay.hosts import Host, Queue, Swap

#: A swap that is taken back on the same host within this many times its load time has cost more than it gave.
PAYBACK = 20.0
#: Share of a host's memory that must stay free beside two variants, or the old one goes before the new one is loaded.
MARGIN = 0.05
Later = Callable[[float, Callable[[float], None]], None]
Lost = Callable[[float, str, float], None]


class Cluster:
    """`later(time, call)` schedules, `lost(now, model, arrival)` is told of requests that nobody can serve, `wake(host,
    now)` that a host may have something to compute."""

    def __init__(self, world: World, later: Later, lost: Lost, wake: Callable[[Host, float], None]) -> None:
        self.world = world
        self.aims: dict[str, Aim] = dict(world.aims)
        self.hosts: dict[str, list[Host]] = {
            g.name: [
                Host(f"{g.name}-{i}", g, limit=g.room_bytes if not g.exclusive else math.inf) for i in range(g.count)
            ]
            for g in world.groups
        }
        self.swaps = 0
        self.flaps = 0
        self._later, self._lost, self._wake = later, lost, wake
        self._heaps: dict[str, list[tuple[float, int, Queue]]] = {m: [] for m in self.aims}
        self._loads: dict[str, list[Queue]] = {m: [] for m in self.aims}
        self._order = itertools.count()
        self._history: dict[tuple[str, str], tuple[float, str, str, float]] = {}

    # Routing

    def route(self, model: str) -> Queue | None:
        """Where the next request goes: the plan's shares by weighted round robin, unless that queue is so long that the
        request could not be in time: then the relatively shortest. None when nothing serves the model."""
        heap = self._heaps[model]
        if not heap:
            loads = self._loads[model]
            return min(loads, key=lambda q: len(q.waiting)) if loads else None
        passed, order, queue = heap[0]
        if len(heap) > 1:
            heapq.heapreplace(heap, (passed + 1.0 / queue.weight, order, queue))
            if len(queue.waiting) >= queue.full:
                queue = min((q for _, _, q in heap), key=lambda q: len(q.waiting) / q.full)
        return queue

    def refresh(self) -> None:
        """Take in what is ready now."""
        for model in self.aims:
            found = [
                q
                for hosts in self.hosts.values()
                for h in hosts
                if h.alive
                for q in (h.queues.get(model),)
                if q is not None and not q.leaving
            ]
            self._loads[model] = [q for q in found if not q.ready]
            ready = [q for q in found if q.ready]
            # A seat that the plan gave no traffic still stands by for what is beyond the plan.
            for q in ready:
                q.weight = max(q.weight, 1e-3)
            self._heaps[model] = [(0.5 / q.weight, next(self._order), q) for q in ready]
            heapq.heapify(self._heaps[model])

    def send(self, now: float, model: str, arrivals: list[float]) -> None:
        """Route requests that were waiting or running elsewhere."""
        for arrival in arrivals:
            queue = self.route(model)
            if queue is None:
                self._lost(now, model, arrival)
                continue
            queue.waiting.append(arrival)
            self._wake(queue.host, now)

    # Plans

    def apply(self, placement: Placement, now: float, *, at_once: bool = False) -> None:
        """Make the hosts hold what the placement says. `at_once`: without loading times (before the first request)."""
        live = {g: [(h.name, h.contents()) for h in hosts if h.alive] for g, hosts in self.hosts.items()}
        wanted, _ = pack(self.world, placement, live)
        moved: list[tuple[str, list[float]]] = []
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive and host.name in wanted:
                    host.account(now)
                    settle = self._exchange if host.group.exclusive else self._settle
                    moved += settle(host, wanted[host.name], placement, now, at_once)
            for model in self.aims:
                self._shares(group, model, placement)
        self.refresh()
        for model, arrivals in moved:
            self.send(now, model, arrivals)

    def _shares(self, group: str, model: str, placement: Placement) -> None:
        """A seat's rate is dealt out to its hosts that are ready; one that becomes ready later takes as much as they."""
        seated: dict[Seat, list[Queue]] = {}
        for host in self.hosts[group]:
            queue = host.queues.get(model)
            if host.alive and queue is not None and not queue.leaving:
                swap = host.loading.get(model)
                seated.setdefault((group, model, (swap.rung if swap else queue.rung).variant), []).append(queue)
        for seat, queues in seated.items():
            rate = placement.rates.get(seat, 0.0)
            for queue in queues:
                queue.weight = rate / max(1, sum(q.ready for q in queues))

    def _exchange(
        self, host: Host, wanted: Mapping[str, str], placement: Placement, now: float, at_once: bool
    ) -> list[tuple[str, list[float]]]:
        """A host that holds one variant at a time: what waits there is computed first, then the new one is loaded."""
        held = host.contents()
        if not wanted:
            return []
        ((model, variant),) = wanted.items()
        rung = self.world.by_name[(model, variant, host.group.device)]
        limit = placement.batches.get((host.group.name, model, variant), rung.most)
        if held == dict(wanted):
            if host.next is None and model not in host.loading:
                host.queues[model].set(rung, limit)
            return []
        if held:
            self._count(host, model, "/".join(next(iter(held.items()))), f"{model}/{variant}", rung.load_seconds, now)
        host.next = (model, variant, limit)
        for queue in host.queues.values():
            queue.leaving = True
        if at_once or host.idle():
            self.drained(host, now, at_once=at_once)
        return []

    def drained(self, host: Host, now: float, *, at_once: bool = False) -> None:
        """Load what the host is to hold next."""
        assert host.next is not None
        model, variant, limit = host.next
        host.account(now)
        host.next = None
        host.queues.clear()
        host.loading.clear()
        host.used = 0.0
        self._load(host, model, variant, limit, now, at_once)

    def _settle(
        self, host: Host, wanted: Mapping[str, str], placement: Placement, now: float, at_once: bool
    ) -> list[tuple[str, list[float]]]:
        group = host.group
        moved = []
        held = host.contents()
        gone = [m for m in held if m not in wanted]
        for model in gone:
            queue = host.queues.pop(model)
            moved.append((model, list(queue.waiting)))
            queue.waiting.clear()
            swap = host.loading.pop(model, None)
            host.used -= (queue.rung if swap is None or swap.beside else swap.rung).memory_bytes
            if swap is not None and swap.beside:
                host.used -= swap.rung.memory_bytes
        rung = {m: self.world.by_name[(m, v, group.device)] for m, v in wanted.items()}
        # What frees memory goes first.
        for model in sorted(wanted, key=lambda m: rung[m].memory_bytes):
            limit = placement.batches.get((group.name, model, wanted[model]), rung[model].most)
            if held.get(model) == wanted[model]:
                if model in host.loading:
                    host.loading[model].limit = limit
                else:
                    host.queues[model].set(host.queues[model].rung, limit)
                continue
            self._count(host, model, held.get(model, ""), wanted[model], rung[model].load_seconds, now)
            self._load(host, model, wanted[model], limit, now, at_once)
        return moved

    def _load(self, host: Host, model: str, variant: str, limit: int, now: float, at_once: bool) -> None:
        rung = self.world.by_name[(model, variant, host.group.device)]
        queue = host.queues.get(model)
        abandoned = host.loading.pop(model, None)
        if abandoned is not None and abandoned.beside:
            host.used -= abandoned.rung.memory_bytes
        if queue is None:
            queue = host.queues[model] = Queue(host, rung, self.aims[model].slo_seconds)
            host.used += rung.memory_bytes
            beside = False
        else:
            held = abandoned.rung if abandoned is not None and not abandoned.beside else queue.rung
            fits = host.used + rung.memory_bytes + host.neighbour <= (1.0 - MARGIN) * host.limit
            beside = fits and queue.ready and not host.group.exclusive
            host.used += rung.memory_bytes - (0.0 if beside else held.memory_bytes)
            queue.ready = beside
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
        host.account(now)
        del host.loading[model]
        if swap.beside:
            host.used -= swap.queue.rung.memory_bytes
        swap.queue.set(swap.rung, swap.limit)
        swap.queue.ready = True
        self.refresh()
        self._wake(host, now)

    def _count(self, host: Host, model: str, before: str, after: str, load_seconds: float, now: float) -> None:
        if not before:
            return
        self.swaps += 1
        key = (host.name, "" if host.group.exclusive else model)
        last = self._history.get(key)
        if last is not None and (last[1], last[2]) == (after, before) and now - last[0] < PAYBACK * last[3]:
            self.flaps += 1
        self._history[key] = (now, before, after, load_seconds)

    # What happens to hosts

    def set_live(self, group: str, count: int, now: float) -> None:
        """So many of a group's hosts are there; those that go lose what they hold, their requests go elsewhere."""
        moved = []
        for index, host in enumerate(self.hosts[group]):
            alive = index < count
            host.account(now)
            if host.alive and not alive:
                moved += [(m, list(q.waiting)) for m, q in host.queues.items()]
                host.queues.clear()
                host.loading.clear()
                host.next = None
                host.used, host.busy = 0.0, 0
                host.life += 1
            host.alive = alive
        self.refresh()
        for model, arrivals in moved:
            self.send(now, model, arrivals)

    def groups(self) -> tuple[Group, ...]:
        """The groups as they are now: live hosts, and the memory that neighbours and budgets leave."""
        made = []
        for group in self.world.groups:
            live = [h for h in self.hosts[group.name] if h.alive]
            room = min((h.limit - h.neighbour for h in live), default=group.room_bytes)
            made.append(Group(group.name, group.device, len(live), max(0.0, room), 0.0, group.streams, group.exclusive))
        return tuple(made)

    def holding(self) -> dict[tuple[str, str, str], int]:
        """How many hosts of each group hold, or are loading, each variant."""
        counts: dict[tuple[str, str, str], int] = {}
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive:
                    for model, variant in host.contents().items():
                        counts[(group, model, variant)] = counts.get((group, model, variant), 0) + 1
        return counts

    def ready(self) -> dict[tuple[str, str, str], int]:
        """How many hosts of each group can serve each variant now."""
        counts: dict[tuple[str, str, str], int] = {}
        for group, hosts in self.hosts.items():
            for host in hosts:
                for model, queue in host.queues.items() if host.alive else ():
                    if queue.ready and not queue.leaving:
                        seat = (group, model, queue.rung.variant)
                        counts[seat] = counts.get(seat, 0) + 1
        return counts
