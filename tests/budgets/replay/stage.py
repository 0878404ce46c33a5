"""A replay with a scripted policy, for tests of what the simulated hosts do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from budgets.fleet.world import Placement, Seat, World
from budgets.replay.engine import Event, Replay, Seen
from budgets.replay.result import Counts, Tally


class Script:
    """Returns what is written down for a tick, and notes what it saw."""

    name = "script"

    def __init__(self, plans: Mapping[float, Mapping[Seat, int]], **more: Any) -> None:
        self.plans, self.more = plans, more
        self.seen: list[Seen] = []
        self.replay: Replay | None = None
        self.used: dict[float, dict[str, float]] = {}

    def plan(self, seen: Seen) -> Placement | None:
        self.seen.append(seen)
        if self.replay is not None:
            hosts = self.replay.cluster.hosts.values()
            self.used[seen.at] = {h.name: h.used for group in hosts for h in group}
        hosts = self.plans.get(round(seen.at, 6))
        return None if hosts is None else Placement(hosts, rates={s: float(n) for s, n in hosts.items()}, **self.more)


class Played:
    """One replay that has been played."""

    def __init__(
        self,
        made: World,
        plans: Mapping[float, Mapping[Seat, int]],
        arrivals: Iterable[tuple[float, str]],
        *,
        end: float = 10.0,
        start: float = 0.0,
        tick: float = 1.0,
        events: Sequence[Event] = (),
        **more: Any,
    ) -> None:
        models = sorted(made.aims)
        ordered = sorted(arrivals)
        self.script = Script(plans, **more)
        self.replay = Replay(
            made,
            models,
            self.script,
            tick_seconds=tick,
            start=start,
            end=end,
            first_rates=dict.fromkeys(models, 1.0),
            events=events,
        )
        self.script.replay = self.replay
        chunk = np.array([a for a, _ in ordered]), np.array([models.index(m) for _, m in ordered], dtype=np.int64)
        self.counts: Counts = self.replay.run([chunk])

    @property
    def total(self) -> Tally:
        made = Tally()
        for tally in self.counts.bins.values():
            made.arrived += tally.arrived
            made.completed += tally.completed
            made.late += tally.late
            made.dropped += tally.dropped
            made.quality += tally.quality
        return made

    def at(self, second: int) -> Tally:
        return self.counts.bins.get(second, Tally())
