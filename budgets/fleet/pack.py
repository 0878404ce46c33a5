"""A placement's counts -> which host holds what, changing as few hosts as possible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from budgets.fleet.company import clash, load_of
from budgets.fleet.options import fitting
from budgets.fleet.world import Group, Placement, Seat, World

#: On hosts that share: beyond this share of its time a host has queues. So many requests per second are late where it has all
#: its time more than it has, and a difference of so many is none.
FULL, LATE_OF_OVER, STEP = 0.7, 20.0, 0.02
#: model -> variant
Contents = Mapping[str, str]
#: (host, model) -> seconds of its last change; hosts that hold one variant at a time have "" for the model.
Changed = Mapping[tuple[str, str], float]


def pack(
    world: World,
    placement: Placement,
    hosts: Mapping[str, Sequence[tuple[str, Contents]]],
    changed: Changed | None = None,
) -> tuple[dict[str, dict[str, str]], list[Seat]]:
    """What each host should hold, by host, and the seats (once for each host that lacks) that no host had room for.

    `hosts`: for each group its live hosts and what each holds now. A host that holds what is wanted keeps it, what was
    `changed` last first: to undo that would be a flap. On hosts that share, what is new goes where it makes fewest requests
    late (`budgets.fleet.company`), then where least is computed, and among equals where most room is left; a group's sum fits
    by plan, yet the pieces may not: then what the host holds of the model stays where that fits, or its best variant that
    does takes the place.
    """
    wanted: dict[str, dict[str, str]] = {}
    homeless: list[Seat] = []
    for group in world.groups:
        live = hosts.get(group.name, ())
        left = {(m, v): n for (g, m, v), n in placement.hosts.items() if g == group.name and n > 0}
        if group.exclusive:
            packed, out = _exclusive(world, group, left, live, changed or {})
        else:
            packed, out = _shared(world, group, left, live, changed or {}, placement)
        wanted.update(packed)
        homeless += [(group.name, m, v) for m, v in out]
    return wanted, homeless


def _exclusive(
    world: World,
    group: Group,
    left: dict[tuple[str, str], int],
    live: Sequence[tuple[str, Contents]],
    changed: Changed,
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """One variant a host. Hosts that nothing is wanted of keep what they have while it fits: it costs nothing and may be
    of use."""
    wanted: dict[str, dict[str, str]] = {}
    free: list[tuple[str, Contents]] = []
    for host, contents in sorted(live, key=lambda h: -changed.get((h[0], ""), -math.inf)):
        seat = next(iter(contents.items()), None)
        if seat is not None and left.get(seat, 0):
            left[seat] -= 1
            wanted[host] = dict([seat])
        else:
            free.append((host, contents))
    place = {host: i for i, (host, _) in enumerate(live)}
    free.sort(key=lambda f: place[f[0]])
    new = sorted(seat for seat, n in left.items() for _ in range(n))
    # An empty host loses nothing by loading. One that holds another variant of the model costs no other model a host.
    for suits in (_empty, _same_model, _any):
        for seat in list(new):
            chosen = next((f for f in free if suits(seat, f[1])), None)
            if chosen is not None:
                free.remove(chosen)
                new.remove(seat)
                wanted[chosen[0]] = dict([seat])
    for host, contents in free:
        fits = all(world.rung((group.name, m, v)).memory_bytes <= group.room_bytes for m, v in contents.items())
        wanted[host] = dict(contents) if fits else {}
    return wanted, new


def _empty(seat: tuple[str, str], held: Contents) -> bool:
    return not held


def _same_model(seat: tuple[str, str], held: Contents) -> bool:
    return seat[0] in held


def _any(seat: tuple[str, str], held: Contents) -> bool:
    return True


def _shared(
    world: World,
    group: Group,
    left: dict[tuple[str, str], int],
    live: Sequence[tuple[str, Contents]],
    changed: Changed,
    placement: Placement,
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    size = {seat: world.rung((group.name, *seat)).memory_bytes for seat in left}
    wanted: dict[str, dict[str, str]] = {host: {} for host, _ in live}
    room = {host: group.room_bytes for host, _ in live}
    before = dict(live)
    busy = dict.fromkeys(wanted, 0.0)
    load = {seat: load_of(world, placement, (group.name, *seat)) for seat in left}

    def put(host: str, model: str, variant: str, memory: float) -> None:
        wanted[host][model] = variant
        room[host] -= memory
        busy[host] += load[(model, variant)].busy if (model, variant) in load else 0.0

    def late(host: str, seat: tuple[str, str]) -> int:
        """What putting a seat there makes late, in steps: less makes no difference."""
        over = max(0.0, busy[host] + load[seat].busy - FULL)
        others = (load[s] for s in wanted[host].items() if s in load)
        return int((over * LATE_OF_OVER + sum(clash(load[seat], other) for other in others)) / STEP)

    kept = [(host, seat) for host, contents in live for seat in contents.items()]
    for host, seat in sorted(kept, key=lambda k: -changed.get((k[0], k[1][0]), -math.inf)):
        if left.get(seat, 0) and size[seat] <= room[host]:
            put(host, *seat, size[seat])
            left[seat] -= 1
    # Where the model is already, another variant takes its place, and no host is added or lost; then the others.
    largest = sorted(left, key=lambda s: (-load[s].busy, -size[s], s))
    for seat in largest:
        for host in sorted((h for h in wanted if seat[0] in before[h]), key=lambda h: (-room[h], h)):
            if left[seat] and seat[0] not in wanted[host] and size[seat] <= room[host]:
                put(host, *seat, size[seat])
                left[seat] -= 1
    homeless: list[tuple[str, str]] = []
    longest = sorted(left, key=lambda s: (-load[s].call_seconds, -load[s].busy, -size[s], s))
    for seat in [s for s in longest for _ in range(left[s])]:
        model, variant = seat
        free = [(late(h, seat), model not in before[h], busy[h], -room[h], h) for h in wanted if model not in wanted[h]]
        able = [h for *_, h in sorted(free)]
        first = next((h for h in able if size[(model, variant)] <= room[h]), None)
        if first is not None:
            put(first, model, variant, size[(model, variant)])
            continue
        smaller = ((h, fitting(world, group, model, room[h], before[h].get(model))) for h in able)
        place = next(((h, rung) for h, rung in smaller if rung is not None), None)
        if place is None:
            homeless.append((model, variant))
        else:
            put(place[0], model, place[1].variant, place[1].memory_bytes)
    return wanted, homeless
