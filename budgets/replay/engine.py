"""The event loop in virtual time: requests arrive, batches end, variants are loaded, the policy looks once a tick."""

from __future__ import annotations

import bisect
import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from budgets.fleet.world import Placement, Rung, Seat, World
from budgets.replay.cluster import Cluster
from budgets.replay.hosts import Host
from budgets.replay.result import Counts, Tally

#: Times ascending, and the index of each request's model.
Chunk = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Event:
    """Something that happens to a group of hosts. `hosts`: so many are there. `memory_bytes`: a host's limit, its reserve included.
    `neighbour_bytes`: what others take of each host. `slowdown`: every call takes so many times its profile."""

    at: float
    kind: str
    group: str
    value: float


@dataclass(frozen=True)
class Seen:
    """What a policy gets to see at a tick: nothing of the future. `world` has the groups as they are; rates are requests
    per second since the last tick; `violations` late and dropped requests since then; `busy` each group's share of
    stream time spent computing; `holding` how many hosts hold or load which variant, `ready` how many of them can serve;
    `slowness` how much longer than by their
    profiles each seat's calls took since then."""

    at: float
    world: World
    rates: Mapping[str, float]
    violations: Mapping[str, int]
    completed: Mapping[str, int]
    busy: Mapping[str, float]
    holding: Mapping[Seat, int]
    ready: Mapping[Seat, int]
    slowness: Mapping[Seat, float]


class Policy(Protocol):
    """Decides what hosts hold. `plan` returns a placement, or None to leave things as they are."""

    name: str

    def plan(self, seen: Seen) -> Placement | None: ...


class Replay:
    """One replay of one policy. `models` are in the order of the chunks' indices. The trace goes from `start` to `end`
    (seconds); events before it are in force when it starts, those after its end never happen."""

    def __init__(
        self,
        world: World,
        models: list[str],
        policy: Policy,
        *,
        tick_seconds: float,
        start: float = 0.0,
        end: float,
        first_rates: Mapping[str, float],
        events: Iterable[Event] = (),
        watch: Callable[[float], None] | None = None,
    ) -> None:
        self._world, self._models, self._policy = world, models, policy
        self._tick, self._start, self._end = tick_seconds, start, end
        self._first = dict(first_rates)
        self._now = world
        self.counts = Counts(max(1.0, tick_seconds))
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self.cluster = Cluster(world, self._later, self._lost, self._wake)
        self._row = Tally()
        #: Quality as a share of its model's best, by rung.
        self._share = {id(r): r.quality / world.best[r.model] if world.best[r.model] else 0.0 for r in world.rungs}
        self._row_end = -1.0
        self._arrived = [0] * len(models)
        self._violated = dict.fromkeys(models, 0)
        self._completed = dict.fromkeys(models, 0)
        self._spent: dict[Seat, list[float]] = {}
        self._watch = watch
        for host in self._hosts():
            host.looked = start
        for event in sorted(events, key=lambda e: e.at):
            if event.at <= start:
                self._happens(event, start)
            elif event.at <= end:
                self._later(event.at, lambda now, e=event: self._happens(e, now))  # type: ignore[misc]

    def run(self, chunks: Iterable[Chunk]) -> Counts:
        """Play the trace and let what is under way end."""
        self._plan(self._start, self._first, first=True)
        self._later(self._start + self._tick, self._look)
        heap, arrive = self._heap, self._arrive
        for times, models in chunks:
            for at, model in zip(times.tolist(), models.tolist(), strict=True):
                while heap and heap[0][0] <= at:
                    now, _, call = heapq.heappop(heap)
                    call(now)
                arrive(at, model)
        while heap and heap[0][0] <= self._end:
            now, _, call = heapq.heappop(heap)
            call(now)
        for host in self._hosts():
            host.account(self._end)
            self.counts.over_seconds += host.over_seconds
        now = self._end
        while heap:
            now, _, call = heapq.heappop(heap)
            call(now)
        self.cluster.close(now)
        self.counts.swaps, self.counts.flaps = self.cluster.swaps, self.cluster.flaps
        self.counts.homeless = self.cluster.homeless
        return self.counts

    def _hosts(self) -> Iterator[Host]:
        return (host for hosts in self.cluster.hosts.values() for host in hosts)

    def _later(self, at: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._heap, (at, next(self._order), call))

    # Requests

    def _arrive(self, now: float, model: int) -> None:
        if now >= self._row_end:
            self._roll(now)
        self._row.arrived += 1
        self._arrived[model] += 1
        queue = self.cluster.route(self._models[model])
        if queue is None:
            self.cluster.hold(now, self._models[model], now)
            return
        queue.waiting.append(now)
        host = queue.host
        if host.busy < host.group.streams:
            self._wake(host, now)

    def _roll(self, now: float) -> None:
        size = self.counts.bin_seconds
        self._row = self.counts.tally(now)
        self._row_end = (now // size + 1) * size

    def _lost(self, now: float, model: str) -> None:
        self.counts.tally(now).dropped += 1
        self._violated[model] += 1

    def _wake(self, host: Host, now: float) -> None:
        """Start batches while a stream is free."""
        while host.busy < host.group.streams:
            queue = host.urgent()
            if queue is None:
                if host.next is not None and not host.busy:
                    self.cluster.drained(host, now)
                return
            batch, dropped = queue.next_batch(now)
            model = queue.rung.model
            if dropped:
                self.counts.tally(now).dropped += dropped
                self._violated[model] += dropped
            if not batch:
                continue
            profiled = queue.rung.table[len(batch)]
            seconds = profiled * host.slowdown
            host.busy += 1
            host.busy_seconds += seconds
            spent = self._spent.get(queue.seat)
            if spent is None:
                spent = self._spent[queue.seat] = [0.0, 0.0]
            spent[0] += seconds
            spent[1] += profiled
            rung, slo, life = queue.rung, queue.slo, host.life
            self._later(now + seconds, partial(self._ended, host, batch, rung, slo, life))

    def _ended(self, host: Host, batch: list[float], rung: Rung, slo: float, life: int, now: float) -> None:
        if host.life != life:
            self.cluster.send(now, rung.model, batch)  # it died under them: they are asked again elsewhere
            return
        if now >= self._row_end:
            self._roll(now)
        count = len(batch)
        tally = self._row
        tally.completed += count
        tally.quality += rung.quality * count
        timely = count
        tally.share += self._share[id(rung)] * count
        self._completed[rung.model] += count
        latest = now - slo - 1e-9
        if batch[0] < latest:  # the oldest comes first
            late = bisect.bisect_left(batch, latest)
            tally.late += late
            self._violated[rung.model] += late
            timely -= late
        tally.timely += rung.quality * timely
        host.busy -= 1
        self._wake(host, now)

    # Ticks and events

    def _look(self, now: float) -> None:
        rates = {m: n / self._tick for m, n in zip(self._models, self._arrived, strict=True)}
        self._plan(now, rates)
        if self._watch is not None:
            self._watch(now)
        if now + self._tick <= self._end:
            self._later(now + self._tick, self._look)

    def _plan(self, now: float, rates: Mapping[str, float], *, first: bool = False) -> None:
        groups = self.cluster.groups()
        busy = {}
        for group in groups:
            hosts = self.cluster.hosts[group.name]
            streams = max(1, group.count) * group.streams
            busy[group.name] = sum(h.busy_seconds for h in hosts) / (streams * self._tick)
            for host in hosts:
                host.busy_seconds = 0.0
        if groups != self._now.groups:
            self._now = replace(self._world, groups=groups)
        world = self._now
        slowness = {seat: took / profiled for seat, (took, profiled) in self._spent.items() if profiled}
        holding, ready = self.cluster.held()
        seen = Seen(
            at=now,
            world=world,
            rates=rates,
            violations=dict(self._violated),
            completed=dict(self._completed),
            busy=busy,
            holding=holding,
            ready=ready,
            slowness=slowness,
        )
        self._spent.clear()
        self._arrived = [0] * len(self._models)
        self._violated = dict.fromkeys(self._models, 0)
        self._completed = dict.fromkeys(self._models, 0)
        started = time.perf_counter()
        placement = self._policy.plan(seen)
        self.counts.planner_seconds.append(time.perf_counter() - started)
        if placement is not None:
            self.counts.gaps.append(placement.gap)
            self.cluster.world = world
            self.cluster.apply(placement, now, at_once=first)
        used = sum(h.used for hosts in self.cluster.hosts.values() for h in hosts if h.alive)
        self.counts.memory[int(now // self.counts.bin_seconds)] = used

    def _happens(self, event: Event, now: float) -> None:
        for host in self.cluster.hosts[event.group]:
            host.account(now)
            if event.kind == "memory_bytes":
                host.limit = max(0.0, event.value - host.group.reserve_bytes)
            elif event.kind == "neighbour_bytes":
                host.neighbour = event.value
            elif event.kind == "slowdown":
                host.slowdown = event.value
        if event.kind == "hosts":
            self.cluster.set_live(event.group, int(event.value), now)
