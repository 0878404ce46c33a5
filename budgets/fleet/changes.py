"""What hosts changed to of late: to change it back before it has paid for its loading would be a flap."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from budgets.fleet.world import Seat, World


class Changes:
    """Remembers changes, with when they were made. `payback`: one is recent for so many times what it took to load.

    A host that holds one variant at a time is missed while it loads whatever comes next, so what it changed to stays
    (`frozen`). Hosts that share go on to a smaller variant for little, as when a neighbour takes memory bit by bit; only the
    way back is barred (`left`), and so is that of a model which left a host.
    """

    def __init__(self, payback: float) -> None:
        self._payback = payback
        self._frozen: list[tuple[float, Seat, int]] = []
        #: seat that was left -> when, and for which other one of its model (itself: for none)
        self._left: dict[Seat, tuple[float, Seat]] = {}

    def frozen(self, at: float, world: World) -> dict[Seat, int]:
        """How many hosts of each seat must stay what they are."""
        made: dict[Seat, int] = {}
        for since, seat, count in self._frozen:
            if self._recent(at - since, seat, world):
                made[seat] = made.get(seat, 0) + count
        return made

    def left(self, at: float, world: World) -> frozenset[Seat]:
        """Seats to which hosts must not go back."""
        return frozenset(s for s, (since, other) in self._left.items() if self._recent(at - since, other, world))

    def _recent(self, seconds: float, seat: Seat, world: World) -> bool:
        return seat[0] in world.group and seconds < self._payback * world.rung(seat).load_seconds

    def note(
        self,
        at: float,
        world: World,
        asked: AbstractSet[str],
        holding: Mapping[Seat, int],
        ready: Mapping[Seat, int],
        hosts: Mapping[Seat, int],
    ) -> None:
        """What changes now, from `holding` to `hosts`. What is still on its way, or waits for its turn, has not begun to
        pay. A change of a model that is not `asked` for has cost nothing."""
        coming = {s: n - ready.get(s, 0) for s, n in holding.items() if n > ready.get(s, 0)}
        longest = self._payback * max((r.load_seconds for r in world.rungs), default=0.0)
        self._left = {
            seat: (at if other in coming else since, other)
            for seat, (since, other) in self._left.items()
            if other in coming or at - since < longest
        }
        noted: list[tuple[float, Seat, int]] = []
        for since, seat, count in reversed(self._frozen):
            waits = min(count, coming.get(seat, 0))
            if waits:
                coming[seat] -= waits
                noted.append((at, seat, waits))
            if count > waits and at - since < longest:
                noted.append((since, seat, count - waits))
        self._frozen = noted[::-1]
        for seat, count in hosts.items():
            added = count - holding.get(seat, 0)
            if added <= 0 or seat[1] not in asked:
                continue
            fewer = [s for s, n in holding.items() if s[:2] == seat[:2] and n > hosts.get(s, 0)]
            if world.group[seat[0]].exclusive or not fewer:
                self._frozen.append((at, seat, added))
            else:
                self._left |= dict.fromkeys(fewer, (at, seat))
        more = {s[:2] for s, n in hosts.items() if n > holding.get(s, 0)}
        for seat, count in holding.items():
            if count > hosts.get(seat, 0) and seat[:2] not in more and seat[0] in world.sharing:
                self._left[seat] = at, seat
