"""Which of the requests that wait share a call where they are unequally long and are filled up. No asyncio, no clock.

A call costs something beside its positions (rows times length), often as much as a hundred of them. Of the calls that could be
made now for the request whose turn it is, the one is made that does most for its time: what it does is what its requests would
cost in full calls of their own lengths. So company that makes the others longer is taken where that costs less than a call more,
as long as all calls of late together stay below `LIMIT` of padding; a call that does by itself may always be made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from variants.lengths import run_at, whole

if TYPE_CHECKING:
    from deployments.batching import Pending

#: The share of padded positions that calls stay below.
LIMIT = 0.15
#: Weight of the newest call in what is remembered of all.
NEWEST = 1 / 128
#: What a call costs beside its positions, in positions: until so many calls are known, and at most.
OVERHEAD, KNOWN_CALLS, MOST_OVERHEAD = 32.0, 32, 1024.0


class Overhead:
    """Learns what an engine's calls cost beside their positions: seconds are `a + b * positions`, fitted so that relative errors
    are least, and `positions` is a / b."""

    __slots__ = ("_calls", "_u", "_uu", "_uv", "_v", "_vv", "positions")

    def __init__(self) -> None:
        self.positions = OVERHEAD
        self._calls = 0
        self._u = self._v = self._uu = self._uv = self._vv = 0.0

    def took(self, positions: int, seconds: float) -> None:
        """A call of so many positions took `seconds`."""
        if seconds <= 0.0:
            return
        u, v, keep = 1.0 / seconds, positions / seconds, 1.0 - NEWEST
        self._u, self._v = keep * self._u + u, keep * self._v + v
        self._uu, self._uv, self._vv = keep * self._uu + u * u, keep * self._uv + u * v, keep * self._vv + v * v
        self._calls += 1
        if self._calls < KNOWN_CALLS or self._uu * self._vv - self._uv * self._uv < 1e-3 * self._uu * self._vv:
            return  # calls of one size say nothing of another
        fixed, each = self._u * self._vv - self._v * self._uv, self._v * self._uu - self._u * self._uv
        self.positions = MOST_OVERHEAD if fixed > MOST_OVERHEAD * each else max(0.0, fixed / each)


class Company:
    """One model's. `largest`: rows of its largest call."""

    __slots__ = ("_padded", "_positions", "_sizes", "overhead")

    def __init__(self, largest: int) -> None:
        self._sizes = sorted({whole(rows, largest) for rows in range(1, largest + 1)})
        self._padded = 0.0
        self._positions = 0.0
        self.overhead = Overhead()

    def renew(self) -> None:
        """Another engine answers from now on."""
        self.overhead = Overhead()

    def choose(self, first: Pending, others: Sequence[Pending], room: int) -> list[Pending]:
        """The requests of the next call, `first` the first of them. `others`: those that wait too, by the length at which they
        are run, the longest first. `room`: rows of the call, at most, where the first does not have more."""
        extra, length, rows = self.overhead.positions, first.length, first.rows
        each = extra / room  # of a row in a full call
        least = run_at(length)
        worth = (each + length) * rows / (extra + least * rows)
        rows_to = list(accumulate([other.rows for other in others], initial=rows))
        elements_to = list(accumulate([other.length * other.rows for other in others], initial=length * rows))
        sizes = [size for size in self._sizes if rows < size <= room]
        begin = end = 0
        longest, before = 0, None
        for start, other in enumerate(others):
            if other.key == before or longest == least:
                continue
            # The call is run at the length of this one, or of `first`; from here on down the others join it.
            longest, before = max(least, run_at(other.length)), other.key
            for size in sizes:
                total = rows_to[start] + size - rows
                stop = bisect_left(rows_to, total, start)
                if stop == len(rows_to):
                    break
                if rows_to[stop] != total:
                    continue
                elements = elements_to[stop] - elements_to[start] + length * rows
                run = longest * size
                value = (each * size + elements) / (extra + run)
                if value > worth and self._may(run - elements, run):
                    worth, begin, end = value, start, stop
        return [first, *others[begin:end]]

    def made(self, padded: int, positions: int) -> None:
        """A call of so many positions is made, so many of them padding."""
        self._padded += padded - NEWEST * self._padded
        self._positions += positions - NEWEST * self._positions

    def _may(self, padded: int, positions: int) -> bool:
        keep = 1.0 - NEWEST
        return padded < LIMIT * positions or keep * self._padded + padded < LIMIT * (keep * self._positions + positions)
