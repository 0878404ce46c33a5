"""What may be placed where: every variant that a group's hosts could serve, with what it would cost and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from budgets.fleet.capacity import Capacity, capacity
from budgets.fleet.world import Group, Rung, Seat, World


@dataclass(frozen=True)
class Option:
    """A variant on a group's hosts."""

    group: Group
    rung: Rung
    capacity: Capacity

    @property
    def seat(self) -> Seat:
        return self.group.name, self.rung.model, self.rung.variant


def options_of(world: World, keep: Mapping[Seat, int] | None = None) -> list[Option]:
    """What may be placed: keeps floors and pins, fits a host, can meet the objective; and is not beaten in quality,
    capacity, memory and load time by another variant on the same group. What `keep` holds already stays an option."""
    made: list[Option] = []
    held = keep or {}
    rungs: dict[tuple[str, str], list[Rung]] = {}
    for rung in world.rungs:
        rungs.setdefault((rung.device, rung.model), []).append(rung)
    for group in world.groups:
        if group.count == 0:
            continue
        for model, aim in world.aims.items():
            found = []
            for rung in rungs.get((group.device, model), ()):
                if rung.quality < aim.floor or (aim.pin is not None and rung.variant != aim.pin):
                    continue
                if rung.memory_bytes > group.room_bytes:
                    continue
                most = capacity(rung, group, aim.slo_seconds)
                if most is not None:
                    found.append(Option(group, rung, most))
            made += [o for o in found if held.get(o.seat, 0) or not any(_beats(p, o) for p in found)]
    return made


def _beats(one: Option, other: Option) -> bool:
    def key(o: Option) -> tuple[float, ...]:
        memory = 0.0 if o.group.exclusive else o.rung.memory_bytes
        return (-o.rung.quality, -o.capacity.rate, o.capacity.seconds, memory)

    ours, theirs = key(one), key(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
