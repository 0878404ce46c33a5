"""The simulated hosts together: routing, what a plan changes on them, hosts that go and come."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from budgets.fleet.capacity import capacity
from budgets.fleet.pack import pack
from budgets.fleet.world import Aim, Group, Placement, Rung, Seat, World
from budgets.replay.hosts import Host, Queue, Swap

#: A swap that is taken back on the same host within this many times its load time has cost more than it gave.
PAYBACK = 20.0
#: Share of a host's memory that must stay free beside two variants, or the old one goes before the new one is loaded.
MARGIN = 0.05
PARKED = "parked"
Later = Callable[[float, Callable[[float], None]], None]
Lost = Callable[[float, str], None]


class Cluster:
    """`later(time, call)` schedules, `lost(now, model)` is told of requests that nobody served, `wake(host,
    now)` that a host may have something to compute."""

    def __init__(self, world: World, later: Later, lost: Lost, wake: Callable[[Host, float], None]) -> None:
        self.world = world
        self.aims: dict[str, Aim] = dict(world.aims)
        self.hosts: dict[str, list[Host]] = {
            g.name: [Host(f"{g.name}-{i}", g, limit=g.room_bytes) for i in range(g.count)] for g in world.groups
        }
        self.swaps = 0
        self.flaps = 0
        self.homeless = 0
        self._later, self._lost, self._wake = later, lost, wake
        self._heaps: dict[str, list[tuple[float, int, Queue]]] = {m: [] for m in self.aims}
        self._loads: dict[str, list[Queue]] = {m: [] for m in self.aims}
        self._lobby: dict[str, deque[float]] = {m: deque() for m in self.aims}
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

    def hold(self, now: float, model: str, arrival: float) -> None:
        """Nothing serves the model or is about to: the request waits, for as long as it could still be in time."""
        lobby, slo = self._lobby[model], self.aims[model].slo_seconds
        while lobby and lobby[0] + slo < now:
            self._lost(lobby[0] + slo, model)
            lobby.popleft()
        lobby.append(arrival)

    def refresh(self, now: float, models: Iterable[str]) -> None:
        """Take in what is ready now."""
        for model in models:
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
            if found and self._lobby[model]:
                waiting = list(self._lobby[model])
                self._lobby[model].clear()
                self.send(now, model, waiting)

    def send(self, now: float, model: str, arrivals: list[float]) -> None:
        """Route requests that were waiting or running elsewhere. Queues stay in the order of arrival."""
        for arrival in sorted(arrivals):
            queue = self.route(model)
            if queue is None:
                self.hold(now, model, arrival)
                continue
            waiting = queue.waiting
            if waiting and waiting[-1] > arrival:
                later = [waiting.pop()]
                while waiting and waiting[-1] > arrival:
                    later.append(waiting.pop())
                waiting.append(arrival)
                waiting.extend(reversed(later))
            else:
                waiting.append(arrival)
            self._wake(queue.host, now)

    def close(self, now: float) -> None:
        """The end: what still waits for a host is not going to be served."""
        left = [(m, a) for m, lobby in self._lobby.items() for a in lobby]
        left += [(m, a) for hosts in self.hosts.values() for h in hosts for m, q in h.queues.items() for a in q.waiting]
        for model, arrival in left:
            self._lost(min(now, arrival + self.aims[model].slo_seconds), model)

    # Plans

    def apply(self, placement: Placement, now: float, *, at_once: bool = False) -> None:
        """Make the hosts hold what the placement says. `at_once`: without loading times (before the first request)."""
        live = {g: [(h.name, h.contents()) for h in hosts if h.alive] for g, hosts in self.hosts.items()}
        changed = {key: last[0] for key, last in self._history.items()}
        wanted, homeless = pack(self.world, placement, live, changed)
        self.homeless += bool(homeless)
        moved: list[tuple[str, list[float]]] = []
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive and host.name in wanted:
                    host.account(now)
                    settle = self._exchange if host.group.exclusive else self._settle
                    moved += settle(host, wanted[host.name], placement, now, at_once)
            for model in self.aims:
                self._shares(group, model, placement)
        self.refresh(now, self.aims)
        for model, arrivals in moved:
            self.send(now, model, arrivals)

    def _shares(self, group: str, model: str, placement: Placement) -> None:
        """A seat's rate is dealt out to its hosts that are ready; one that becomes ready later takes as much as they. A
        host belongs to the seat that it serves still, unless the plan has no traffic for that: then to the next."""
        seated: dict[Seat, list[Queue]] = {}
        for host in self.hosts[group]:
            queue = host.queues.get(model)
            if host.alive and queue is not None and not queue.leaving:
                swap = host.loading.get(model)
                seat = (group, model, queue.rung.variant)
                if swap is not None and not (queue.ready and placement.rates.get(seat)):
                    seat = (group, model, swap.rung.variant)
                seated.setdefault(seat, []).append(queue)
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
        model, variant, limit = host.next
        host.account(now)
        host.clear()
        self._load(host, model, variant, limit, now, at_once=at_once)
        if not at_once:
            self.refresh(now, (model,))

    def _settle(
        self, host: Host, wanted: Mapping[str, str], placement: Placement, now: float, at_once: bool
    ) -> list[tuple[str, list[float]]]:
        """A host that shares: a variant is loaded beside the one it replaces where memory holds both, busiest first;
        else in its place. In no moment is more held than at the end, but for what is beside."""
        moved = []
        held = host.contents()
        for model in [m for m in held if m not in wanted]:
            back = self.world.by_name[(model, held[model], host.group.device)].load_seconds
            self._count(host, model, held[model], PARKED, back, now)
            moved.append((model, list(host.queues[model].waiting)))
            host.drop(model)
        rung = {m: self.world.by_name[(m, v, host.group.device)] for m, v in wanted.items()}
        final = sum(r.memory_bytes for r in rung.values())
        new = [m for m in wanted if held.get(m) != wanted[m]]
        room = (1.0 - MARGIN) * host.limit - host.neighbour - final
        for model in wanted:
            limit = self._limit(placement, host.group, rung[model])
            swap = host.loading.get(model)
            if model in new:
                continue
            if swap is None:
                host.queues[model].set(rung[model], limit)
                continue
            swap.limit = limit
            if swap.beside:
                room -= swap.queue.rung.memory_bytes
                if room + MARGIN * host.limit < 0:  # memory first: the old one goes before the new one is there
                    room += swap.queue.rung.memory_bytes
                    host.used -= swap.queue.rung.memory_bytes
                    swap.beside = swap.queue.ready = False
        for model in sorted(new, key=lambda m: -host.queues[m].weight if m in host.queues else 0.0):
            queue = host.queues.get(model)
            if model in held or not at_once:
                self._count(host, model, held.get(model, PARKED), wanted[model], rung[model].load_seconds, now)
            beside = queue is not None and queue.ready and queue.rung.memory_bytes <= room
            if beside and queue is not None:
                room -= queue.rung.memory_bytes
            limit = self._limit(placement, host.group, rung[model])
            self._load(host, model, wanted[model], limit, now, beside=beside, at_once=at_once)
        return moved

    def _load(
        self, host: Host, model: str, variant: str, limit: int, now: float, *, beside: bool = False, at_once: bool
    ) -> None:
        rung = self.world.by_name[(model, variant, host.group.device)]
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
        host.account(now)
        del host.loading[model]
        if swap.beside:
            host.used -= swap.queue.rung.memory_bytes
        swap.queue.set(swap.rung, swap.limit)
        swap.queue.ready = True
        self.refresh(now, (model,))
        self._wake(host, now)

    def _count(self, host: Host, model: str, before: str, after: str, load_seconds: float, now: float) -> None:
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
                host.clear()
                host.busy = 0
                host.life += 1
            host.alive = alive
        self.refresh(now, self.aims)
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
