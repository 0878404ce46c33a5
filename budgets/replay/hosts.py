"""A simulated host: what it holds, what waits there, what its streams compute.

The data path is the same for every policy: a queue for each model, batches up to the plan's limit that never make the
oldest request late by their own size, the queue with the earliest deadline first, and a request that can no longer be
in time is dropped before it costs anything. Virtual time is passed in.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field

from budgets.fleet.world import Group, Rung


class Queue:
    """One model's requests on one host. `waiting` are arrival times, oldest first. `ready`: the variant is loaded;
    `leaving`: what waits is computed still, nothing new is sent here."""

    __slots__ = ("full", "host", "leaving", "limit", "patience", "ready", "rung", "seat", "slo", "waiting", "weight")

    def __init__(self, host: Host, rung: Rung, slo: float) -> None:
        self.host = host
        self.slo = slo
        self.patience = min(slo, 1e6)
        self.waiting: deque[float] = deque()
        self.ready = False
        self.leaving = False
        self.weight = 0.0
        self.limit = 1
        self.full = 1
        self.rung = rung
        self.set(rung, rung.most)

    def set(self, rung: Rung, limit: int) -> None:
        """Run another variant, or other batches."""
        self.rung, self.limit = rung, min(limit, rung.most)
        self.seat = self.host.group.name, rung.model, rung.variant
        seconds = rung.table[self.limit]
        waits = self.slo / seconds - 1.0 if seconds and math.isfinite(self.slo) else 64.0
        #: More than this many waiting cannot all be in time.
        self.full = max(1, int(self.host.group.streams * self.limit * max(1.0, waits)))

    def next_batch(self, now: float) -> tuple[list[float], int]:
        """Requests to compute now, and how many were dropped because they cannot be in time."""
        waiting, slo, table = self.waiting, self.slo, self.rung.table
        dropped = 0
        size = min(len(waiting), self.limit)
        if slo < math.inf:
            latest = now + table[1] - slo - 1e-9
            while waiting and waiting[0] < latest:
                waiting.popleft()
                dropped += 1
            if not waiting:
                return [], dropped
            size = min(len(waiting), self.limit)
            slack = waiting[0] + slo - now + 1e-9
            if table[size] > slack:
                size = max(1, bisect.bisect_right(table, slack, 0, size) - 1)
        take = waiting.popleft
        return [take() for _ in range(size)], dropped


@dataclass
class Swap:
    """A variant on its way onto a host."""

    queue: Queue
    rung: Rung
    limit: int
    done: float
    beside: bool


@dataclass
class Host:
    """One host. `used` is what is loaded or being loaded, bytes; `neighbour` what others take of it. `life` counts how
    often it has died. `next`: model, variant and batch limit that a host which holds one variant at a time
    loads once nothing waits or runs here any more. `pending`: variant and batch limit of models that a host which
    shares is to change to once there is room; `parting`: models that leave it once they run elsewhere."""

    name: str
    group: Group
    queues: dict[str, Queue] = field(default_factory=dict)
    loading: dict[str, Swap] = field(default_factory=dict)
    busy: int = 0
    alive: bool = True
    life: int = 0
    slowdown: float = 1.0
    used: float = 0.0
    neighbour: float = 0.0
    limit: float = math.inf
    busy_seconds: float = 0.0
    over_seconds: float = 0.0
    looked: float = 0.0
    next: tuple[str, str, int] | None = None
    pending: dict[str, tuple[Rung, int]] = field(default_factory=dict)
    parting: set[str] = field(default_factory=set)

    def account(self, now: float) -> None:
        """Count the time since the last look if the memory was over its limit."""
        if self.alive and self.used + self.neighbour > self.limit * (1 + 1e-9):
            self.over_seconds += now - self.looked
        self.looked = now

    def clear(self) -> None:
        """Hold nothing, at once."""
        self.queues.clear()
        self.loading.clear()
        self.pending.clear()
        self.parting.clear()
        self.next, self.used = None, 0.0

    def drop(self, model: str) -> None:
        """Free a model: what runs, and what is being loaded for it."""
        self.used -= self.occupied(model)
        del self.queues[model]
        self.loading.pop(model, None)
        self.parting.discard(model)

    def occupied(self, model: str) -> float:
        """Bytes that a model takes here now: what runs, and what is being loaded for it."""
        queue, swap = self.queues.get(model), self.loading.get(model)
        runs = queue.rung.memory_bytes if queue is not None and queue.ready else 0.0
        return runs + (swap.rung.memory_bytes if swap is not None else 0.0)

    def contents(self) -> dict[str, str]:
        """What it holds, or is about to hold."""
        if self.next is not None:
            return {self.next[0]: self.next[1]}
        held = {m: (self.loading[m].rung if m in self.loading else q.rung).variant for m, q in self.queues.items()}
        held |= {m: rung.variant for m, (rung, _) in self.pending.items()}
        return {m: v for m, v in held.items() if m not in self.parting}

    def urgent(self) -> Queue | None:
        """The queue whose oldest request is due first, of those that can run."""
        best, due = None, math.inf
        for queue in self.queues.values():
            if queue.waiting and queue.ready:
                deadline = queue.waiting[0] + queue.patience
                if deadline < due:
                    best, due = queue, deadline
        return best

    def idle(self) -> bool:
        """Nothing waits or runs here."""
        return not self.busy and not any(q.waiting for q in self.queues.values())
