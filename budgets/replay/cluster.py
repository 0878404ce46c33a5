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
        placed = {m for contents in wanted.values() for m in contents}
        moved: list[tuple[str, list[float]]] = []
        for group, hosts in self.hosts.items():
            for host in hosts:
                if host.alive and host.name in wanted:
                    host.account(now)
                    if host.group.exclusive:
                        moved += self._exchange(host, wanted[host.name], placement, now, at_once)
                    else:
                        moved += self._settle(host, wanted[host.name], placement, placed, now, at_once)
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
        rung = self.world.by_name[(model, variant, host.group.device)]
        self._load(host, rung, limit, now, beside=False, at_once=at_once)
        if not at_once:
            self.refresh(now, (model,))

    def _settle(
        self,
        host: Host,
        wanted: Mapping[str, str],
        placement: Placement,
        placed: set[str],
        now: float,
        at_once: bool,
    ) -> list[tuple[str, list[float]]]:
        """A host that shares: note what is to change, and start with it. `placed`: models that are somewhere by plan."""
        moved: list[tuple[str, list[float]]] = []
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

    def _proceed(self, host: Host, now: float) -> list[tuple[str, list[float]]]:
        """Start what is to change and has room: beside the variant it replaces where memory holds both, busiest first.
        When nothing is under way any more and nothing has room so, one goes in the other's place, what frees most
        first. Memory is never over because of a change, and when it is because of others, changes that free it do not
        wait."""
        moved: list[tuple[str, list[float]]] = []
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

    def _part(self, host: Host, model: str, now: float) -> list[tuple[str, list[float]]]:
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
        host.account(now)
        del host.loading[model]
        if swap.beside:
            host.used -= swap.queue.rung.memory_bytes
        swap.queue.set(swap.rung, swap.limit)
        swap.queue.ready = True
        moved = []
        for hosts in self.hosts.values():
            for other in hosts:
                if other is not host and model in other.parting:
                    other.account(now)
                    moved += self._part(other, model, now)
                    moved += self._proceed(other, now)
        moved += self._proceed(host, now)
        self.refresh(now, {model, *(m for m, _ in moved)} | set(host.loading))
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
