"""The simulated hosts together: routing, what a plan changes on them, hosts that go and come."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable

from budgets.fleet.pack import pack
from budgets.fleet.world import Group, Placement, Seat, World
from budgets.replay.holdings import Holdings, Later, Moved
from budgets.replay.hosts import Host, Queue

Lost = Callable[[float, str], None]


class Cluster(Holdings):
    """`later(time, call)` schedules, `lost(now, model)` is told of requests that nobody served, `wake(host,
    now)` that a host may have something to compute."""

    def __init__(self, world: World, later: Later, lost: Lost, wake: Callable[[Host, float], None]) -> None:
        super().__init__(world, later, wake)
        self.homeless = 0
        self._held: tuple[dict[Seat, int], dict[Seat, int]] = {}, {}
        self._lost = lost
        self._heaps: dict[str, list[tuple[float, int, Queue]]] = {m: [] for m in self.aims}
        self._loads: dict[str, list[Queue]] = {m: [] for m in self.aims}
        self._lobby: dict[str, deque[float]] = {m: deque() for m in self.aims}
        self._order = itertools.count()

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
        self.touched = True
        live = {g: [(h.name, h.contents()) for h in hosts if h.alive] for g, hosts in self.hosts.items()}
        changed = {key: last[0] for key, last in self._history.items()}
        wanted, homeless = pack(self.world, placement, live, changed)
        self.homeless += bool(homeless)
        placed = {m for contents in wanted.values() for m in contents}
        moved: Moved = []
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive and host.name in wanted:
                    host.account(now)
                    if host.group.exclusive:
                        moved += self.exchange(host, wanted[host.name], placement, now, at_once)
                    else:
                        moved += self.settle(host, wanted[host.name], placement, placed, now, at_once)
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

    # What happens to hosts

    def set_live(self, group: str, count: int, now: float) -> None:
        """So many of a group's hosts are there; those that go lose what they hold, their requests go elsewhere."""
        self.touched = True
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

    def held(self) -> tuple[dict[Seat, int], dict[Seat, int]]:
        """How many hosts of each group hold, or are loading, each variant; and how many can serve it now. The same
        objects while nothing changes."""
        if self.touched:
            self._held, self.touched = (self._holding(), self._ready()), False
        return self._held

    def _holding(self) -> dict[Seat, int]:
        counts: dict[Seat, int] = {}
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive:
                    for model, variant in host.contents().items():
                        counts[(group, model, variant)] = counts.get((group, model, variant), 0) + 1
        return counts

    def _ready(self) -> dict[Seat, int]:
        counts: dict[Seat, int] = {}
        for group, hosts in self.hosts.items():
            for host in hosts:
                for model, queue in host.queues.items() if host.alive else ():
                    if queue.ready and not queue.leaving:
                        seat = (group, model, queue.rung.variant)
                        counts[seat] = counts.get(seat, 0) + 1
        return counts
