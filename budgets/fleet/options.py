"""What may be placed where: every variant that a group's hosts could serve, with what it would cost and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from budgets.fleet.capacity import Capacity, dependable, in_company, tight
from budgets.fleet.world import Aim, Group, Rung, Seat, World


@dataclass(frozen=True)
class Option:
    """A variant on a group's hosts."""

    group: Group
    rung: Rung
    capacity: Capacity

    @property
    def seat(self) -> Seat:
        return self.group.name, self.rung.model, self.rung.variant


class _Able(NamedTuple):
    """A variant that can meet its objective on a kind of host; `beaten` by another one in everything that counts."""

    rung: Rung
    capacity: Capacity
    beaten: bool


def options_of(world: World, keep: Mapping[Seat, int] | None = None) -> list[Option]:
    """What may be placed: keeps floors and pins, fits a host, can meet the objective; and is not beaten in quality,
    capacity and memory by another variant on the same group. What `keep` holds already stays an option."""
    held = {seat for seat, count in (keep or {}).items() if count}
    made: list[Option] = []
    for group in world.groups:
        if group.count == 0:
            continue
        room = group.room_bytes
        for able in _able(world, group, room if group.exclusive else None):
            if able.rung.memory_bytes > room:
                continue
            if not able.beaten or (group.name, able.rung.model, able.rung.variant) in held:
                made.append(Option(group, able.rung, able.capacity))
    return made


def fitting(world: World, group: Group, model: str, room_bytes: float, held: str | None = None) -> Rung | None:
    """A model's variant that may run on the group's hosts and takes no more memory than this: the one that is `held`, as
    nothing has to be loaded for it, else the best."""
    fits = [a.rung for a in _able(world, group, None) if a.rung.model == model and a.rung.memory_bytes <= room_bytes]
    if kept := next((r for r in fits if r.variant == held), None):
        return kept
    return max(fits, key=lambda r: (r.quality, -r.memory_bytes, r.variant), default=None)


#: What depends on the profiles alone is worked out once, not at every tick. Holds what its keys are identities of.
_known: dict[tuple[Any, ...], tuple[Any, list[_Able]]] = {}
_MOST_KNOWN = 64


def _able(world: World, group: Group, room: float | None) -> list[_Able]:
    """`room`: leave out what is larger. On hosts that share what beats another is also smaller, so this can wait there."""
    key = (id(world.rungs), id(world.aims), group.device, group.streams, group.count == 1, room)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[key] = ((world.rungs, world.aims), _rank(world, group, room))
    return found[1]


def _rank(world: World, group: Group, room: float | None) -> list[_Able]:
    rungs: dict[str, list[Rung]] = {}
    for rung in world.rungs:
        if rung.device == group.device and (room is None or rung.memory_bytes <= room):
            rungs.setdefault(rung.model, []).append(rung)
    able = dependable if group.exclusive or len(world.aims) == 1 else in_company
    made: list[_Able] = []
    for model, aim in world.aims.items():
        found = [
            (rung, most)
            for rung in rungs.get(model, ())
            if _allowed(rung, aim) and (most := able(rung, group, aim.slo_seconds)) is not None
        ]
        if able is in_company and group.count > 1:
            found = [(r, c) for r, c in found if not tight(r, group, aim.slo_seconds)] or found
        keys = [(-r.quality, -c.rate, c.seconds, r.memory_bytes if room is None else 0.0) for r, c in found]
        made += [_Able(rung, most, _beaten(key, keys)) for (rung, most), key in zip(found, keys, strict=True)]
    return made


def _allowed(rung: Rung, aim: Aim) -> bool:
    return rung.quality >= aim.floor and aim.pin in (None, rung.variant)


def _beaten(key: tuple[float, ...], keys: Sequence[tuple[float, ...]]) -> bool:
    """Whether one of the keys is as low in everything, and not the same."""
    a, b, c, d = key
    return any(o[0] <= a and o[1] <= b and o[2] <= c and o[3] <= d and o != key for o in keys)
