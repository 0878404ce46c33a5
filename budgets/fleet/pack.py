"""A placement's counts -> which host holds what, changing as few hosts as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from budgets.fleet.world import Group, Placement, World

#: model -> variant
Contents = Mapping[str, str]


def pack(
    world: World, placement: Placement, hosts: Mapping[str, Sequence[tuple[str, Contents]]]
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, str]]]:
    """What each host should hold, by host, and the seats for which no host had room.

    `hosts`: for each group its live hosts and what each holds now. A host that holds what is wanted keeps it. On hosts
    that share, what is new goes where most room is left; a group's sum fits by plan, yet the pieces may not.
    """
    wanted: dict[str, dict[str, str]] = {}
    homeless: list[tuple[str, str, str]] = []
    for group in world.groups:
        live = hosts.get(group.name, ())
        left = {(m, v): n for (g, m, v), n in placement.hosts.items() if g == group.name and n > 0}
        packed, out = _exclusive(left, live) if group.exclusive else _shared(world, group, left, live)
        wanted.update(packed)
        homeless += [(group.name, m, v) for m, v in out]
    return wanted, homeless


def _exclusive(
    left: dict[tuple[str, str], int], live: Sequence[tuple[str, Contents]]
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """One variant a host. Hosts that nothing is wanted of keep what they have: it costs nothing and may be of use."""
    wanted: dict[str, dict[str, str]] = {}
    free = []
    for host, contents in live:
        seat = next(iter(contents.items()), None)
        if seat is not None and left.get(seat, 0):
            left[seat] -= 1
            wanted[host] = dict([seat])
        else:
            free.append((host, contents))
    new = [seat for seat, n in left.items() for _ in range(n)]
    # A host that holds another variant of the same model changes first: its model loses no host.
    for seat in sorted(new):
        if free:
            chosen = min(free, key=lambda f: (seat[0] not in f[1], bool(f[1])))
            free.remove(chosen)
            wanted[chosen[0]] = dict([seat])
    wanted.update({host: dict(contents) for host, contents in free})
    placed = sum(1 for c in wanted.values() if c)
    return wanted, new[max(0, placed) :] if len(new) > len(live) else []


def _shared(
    world: World, group: Group, left: dict[tuple[str, str], int], live: Sequence[tuple[str, Contents]]
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    size = {
        (r.model, r.variant): r.memory_bytes
        for r in world.rungs
        if r.device == group.device and (r.model, r.variant) in left
    }
    wanted: dict[str, dict[str, str]] = {host: {} for host, _ in live}
    room = {host: group.room_bytes for host, _ in live}
    before = dict(live)

    def put(host: str, seat: tuple[str, str]) -> None:
        wanted[host][seat[0]] = seat[1]
        room[host] -= size[seat]
        left[seat] -= 1

    for host, contents in live:
        for seat in contents.items():
            if left.get(seat, 0) and size[seat] <= room[host]:
                put(host, seat)
    homeless = []
    for seat in sorted(left, key=lambda s: (-size[s], s)):
        while left[seat] > 0:
            able = [h for h in wanted if seat[0] not in wanted[h] and size[seat] <= room[h]]
            if not able:
                homeless += [seat] * left[seat]
                break
            # Where the model is already, another variant takes its place and no host is added or lost.
            put(max(able, key=lambda h: (seat[0] in before[h], room[h], h)), seat)
    return wanted, homeless
