"""The values a fleet is planned over, all frozen. Times are seconds, sizes bytes, rates requests per second."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

#: An unserved request costs as much as this many requests served at a total loss of quality, unless somebody says otherwise.
UNSERVED = 10.0


@dataclass(frozen=True)
class Group:
    """Identical hosts. `streams`: batches that one host computes at once. `exclusive`: a host holds one variant at a
    time; otherwise it holds what fits `memory_bytes` less `reserve_bytes`."""

    name: str
    device: str
    count: int
    memory_bytes: float = math.inf
    reserve_bytes: float = 0.0
    streams: int = 1
    exclusive: bool = False

    @property
    def room_bytes(self) -> float:
        """What one host may hold."""
        return max(0.0, self.memory_bytes - self.reserve_bytes)


@dataclass(frozen=True)
class Rung:
    """A variant of a model as profiled on a device. `batches`: batch size -> seconds of one call, ascending."""

    model: str
    variant: str
    device: str
    quality: float
    memory_bytes: float
    load_seconds: float
    batches: tuple[tuple[int, float], ...]

    def seconds(self, batch: int) -> float:
        """Seconds of a call with `batch` requests; linear between profiled sizes, and beyond the largest."""
        return self.table[batch] if batch < len(self.table) else self._beyond(batch)

    @cached_property
    def table(self) -> tuple[float, ...]:
        """Seconds of a call by batch size, from 0 to the largest profiled one."""
        made = [0.0]
        below, before = self.batches[0]
        made += [before] * below
        for size, seconds in self.batches[1:]:
            slope = (seconds - before) / (size - below)
            made += [before + slope * more for more in range(1, size - below + 1)]
            below, before = size, seconds
        return tuple(made)

    def within(self, seconds: float) -> int:
        """The largest profiled or interpolated batch whose call takes at most so long; 0 when none does."""
        return bisect.bisect_right(self.table, seconds) - 1 if seconds < math.inf else self.most

    def _beyond(self, batch: int) -> float:
        largest, seconds = self.batches[-1]
        return seconds * batch / largest

    @property
    def most(self) -> int:
        """The largest profiled batch."""
        return self.batches[-1][0]


@dataclass(frozen=True)
class Aim:
    """What a model's owner asks for: `slo_seconds` for each request (infinite: none), how much its quality matters, a
    floor under its quality, a variant it is pinned to, and whether it may be off every host when nobody asks for it."""

    model: str
    slo_seconds: float = math.inf
    weight: float = 1.0
    floor: float = -math.inf
    pin: str | None = None
    park: bool = True


@dataclass(frozen=True)
class World:
    """What there is to plan with, and what for. A model's rungs are those of all devices. `unserved_cost`: what a request that
    nobody serves counts against quality, as so many requests served at a total loss of it."""

    groups: tuple[Group, ...]
    rungs: tuple[Rung, ...]
    aims: Mapping[str, Aim]
    unserved_cost: float = UNSERVED

    @cached_property
    def best(self) -> dict[str, float]:
        """A model's highest quality on any device of the fleet."""
        devices = {g.device for g in self.groups}
        best: dict[str, float] = {}
        for rung in self.rungs:
            if rung.device in devices or rung.model not in best:
                best[rung.model] = max(best.get(rung.model, -math.inf), rung.quality)
        return best

    @cached_property
    def by_name(self) -> dict[tuple[str, str, str], Rung]:
        """(model, variant, device) -> rung."""
        return {(r.model, r.variant, r.device): r for r in self.rungs}

    @cached_property
    def scale(self) -> float:
        """The highest quality of any model: qualities may be accuracies in per cent or shares of one."""
        return max((abs(q) for q in self.best.values()), default=1.0) or 1.0

    def loss(self, rung: Rung) -> float:
        """Quality lost against the model's best, as a share of the fleet's highest quality."""
        return (self.best[rung.model] - rung.quality) / self.scale

    @cached_property
    def group(self) -> dict[str, Group]:
        """Groups by name."""
        return {g.name: g for g in self.groups}

    @cached_property
    def sharing(self) -> frozenset[str]:
        """Names of the groups whose hosts hold several variants at a time."""
        return frozenset(g.name for g in self.groups if not g.exclusive)

    def rung(self, seat: Seat) -> Rung:
        """The rung of a seat. Raises KeyError."""
        return self.by_name[(seat[1], seat[2], self.group[seat[0]].device)]


#: (group, model, variant)
Seat = tuple[str, str, str]


@dataclass(frozen=True)
class Placement:
    """A plan. `hosts`: how many hosts of a group hold a variant. `rates`: what each seat is meant to serve, of the
    rates planned for. `batches`: the batch limit of each seat. `unserved`: rates that no plan could place, by model."""

    hosts: Mapping[Seat, int] = field(default_factory=dict)
    rates: Mapping[Seat, float] = field(default_factory=dict)
    batches: Mapping[Seat, int] = field(default_factory=dict)
    unserved: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    gap: float = 0.0
