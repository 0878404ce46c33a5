"""Requests that wait for an engine call: by priority, then by arrival, in lines of equal shape. No asyncio, no clock.

Putting one in, taking one out and dropping one cost O(1), a call O(log lines) more; only making room for a more
important request looks at every line of the least important level. Dropped requests stay in their line as tombstones
until the line gets there, or until there are more of them than of the living.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence

from deployments.batching import Key, Pending
from deployments.company import Company

#: Empty levels, empty lines and tombstones are cleared away when there are so many more than requests.
SPARE = 32
#: How many requests that do not fit the room left in a call are passed over to find some that do.
LOOK = 16


class _Level:
    """The requests of one priority. `heads` has an entry for each line: when its first request came, or earlier; others of that
    line, and of lines that are gone, mean nothing."""

    __slots__ = ("heads", "lines", "rows")

    def __init__(self) -> None:
        self.lines: dict[Key, deque[Pending]] = {}
        self.heads: list[tuple[int, Key]] = []
        self.rows = 0


class Waiting:
    """`count`: how many wait; `rows`: how many rows they have. `company`: who joins whom where requests are padded; None: only
    those of equal key do."""

    __slots__ = ("_company", "_dead", "_levels", "_order", "_ranks", "count", "rows")

    def __init__(self, company: Company | None = None) -> None:
        self._company = company
        self.count = 0
        self.rows = 0
        self._dead = 0
        self._order = 0
        self._levels: dict[int, _Level] = {}
        self._ranks: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Pending]:
        """All that wait, in no order."""
        for level in self._levels.values():
            for line in level.lines.values():
                yield from [pending for pending in line if pending.waiting]

    def append(self, pending: Pending) -> None:
        """Put a request behind all others of its priority."""
        level = self._levels.get(pending.priority)
        if level is None:
            if len(self._ranks) > 2 * self.count + SPARE:
                self._rebuild()
            level = self._levels[pending.priority] = _Level()
            insort(self._ranks, pending.priority)
        line = level.lines.get(pending.key)
        if line is None and len(level.lines) > 2 * self.count + SPARE:
            self._rebuild()
            self.append(pending)
            return
        self._order = pending.order = self._order + 1
        if line is None:
            line = level.lines[pending.key] = deque()
            heapq.heappush(level.heads, (pending.order, pending.key))
        line.append(pending)
        pending.waiting = True
        level.rows += pending.rows
        self.count += 1
        self.rows += pending.rows

    def remove(self, pending: Pending) -> None:
        """Drop one that waits."""
        self._leave(pending, self._levels[pending.priority])
        self._dead += 1
        if self._dead > self.count + SPARE:
            self._rebuild()

    def _leave(self, pending: Pending, level: _Level) -> None:
        pending.waiting = False
        level.rows -= pending.rows
        self.count -= 1
        self.rows -= pending.rows

    def clear(self) -> list[Pending]:
        """Take everything out, in order of arrival."""
        left = sorted(self, key=lambda pending: pending.order)
        for pending in left:
            pending.waiting = False
        self.rows = self.count = self._dead = 0
        self._levels.clear()
        self._ranks.clear()
        return left

    def _rebuild(self) -> None:
        for pending in self.clear():
            self.append(pending)

    def ahead(self, priority: int) -> int:
        """Rows that go before a request of that priority which comes now."""
        if len(self._ranks) == 1:
            return self.rows if self._ranks[0] <= priority else 0
        return sum(self._levels[rank].rows for rank in self._ranks if rank <= priority)

    def least(self) -> Pending | None:
        """The youngest request of the least important level."""
        while self._ranks:
            level = self._levels[self._ranks[-1]]
            if level.rows:
                return max((p for line in level.lines.values() for p in _youngest(line)), key=lambda p: p.order)
            self._dead -= sum(len(line) for line in level.lines.values())
            del self._levels[self._ranks.pop()]
        return None

    def put_back(self, batch: Sequence[Pending]) -> None:
        """Have requests that `take` gave last wait again, where they were."""
        for pending in reversed(batch):
            level = self._levels.get(pending.priority)
            if level is None:
                insort(self._ranks, pending.priority)
                level = self._levels[pending.priority] = _Level()
            line = level.lines.setdefault(pending.key, deque())
            line.appendleft(pending)
            heapq.heappush(level.heads, (pending.order, pending.key))
            pending.waiting = True
            level.rows += pending.rows
            self.count += 1
            self.rows += pending.rows

    def take(self, room: int, now: float) -> tuple[list[Pending], list[Pending]]:
        """Remove the next call's requests: the first in order, and those that fit its shape and the `room` (rows) left;
        and those found on the way whose deadline has passed, which do not run.

        The first always goes, also where it alone exceeds the room. A request is overtaken only while it waits behind
        another shape or size.
        """
        late: list[Pending] = []
        while (first := self._first()) is not None:
            if first.deadline > now:
                break
            late.append(first)
        else:
            return [], late
        if self._company is not None and first.length:
            others = self._others(room, now, late) if self.count and room > first.rows else []
            batch = self._company.choose(first, others, max(room, first.rows))
            self._join(batch[1:])
            return batch, late
        batch = [first]
        room -= first.rows
        if room > 0 and self.count:
            for rank in self._ranks:
                level = self._levels[rank]
                if room > 0 and (line := level.lines.get(first.key)):
                    room = self._draw(line, level, batch, late, room, now)
        return batch, late

    def _others(self, room: int, now: float, late: list[Pending]) -> list[Pending]:
        """Padded requests that may join a call of `room` rows, the longest first, then the most important; of each length and
        priority no more than could. What is late is removed."""
        levels = [self._levels[rank] for rank in self._ranks]
        keys = sorted({key for level in levels for key in level.lines if isinstance(key, int)}, reverse=True)
        others: list[Pending] = []
        for key in keys:
            for level in levels:
                expired, left = [], room
                for pending in level.lines.get(key, ()):
                    if not pending.waiting:
                        continue
                    if pending.deadline <= now:
                        expired.append(pending)
                        continue
                    others.append(pending)
                    left -= 1
                    if not left:
                        break
                for pending in expired:
                    self._leave(pending, level)
                    self._dead += 1
                late += expired
        return others

    def _join(self, batch: Sequence[Pending]) -> None:
        """Take requests from where they wait in their lines."""
        for pending in batch:
            level = self._levels[pending.priority]
            self._leave(pending, level)
            self._dead += 1
            line = level.lines[pending.key]
            while line and not line[0].waiting:
                line.popleft()
                self._dead -= 1
        if self._dead > self.count + SPARE:
            self._rebuild()

    def _first(self) -> Pending | None:
        """Remove the first request of all; what is before it are tombstones and empty lines."""
        while self._ranks:
            rank = self._ranks[0]
            level = self._levels[rank]
            heads, lines = level.heads, level.lines
            while heads:
                order, key = heads[0]
                line = lines.get(key)
                while line and not line[0].waiting:
                    line.popleft()
                    self._dead -= 1
                if not line:
                    heapq.heappop(heads)
                    lines.pop(key, None)
                elif line[0].order != order:
                    heapq.heapreplace(heads, (line[0].order, key))
                else:
                    pending = line.popleft()
                    pending.waiting = False
                    level.rows -= pending.rows
                    self.count -= 1
                    self.rows -= pending.rows
                    return pending
            del self._levels[rank]
            del self._ranks[0]
        return None

    def _draw(
        self,
        line: deque[Pending],
        level: _Level,
        batch: list[Pending],
        late: list[Pending],
        room: int,
        now: float,
    ) -> int:
        """Move requests that fit from a line into the batch; returns the room left."""
        passed: list[Pending] = []
        before, count = room, 0
        while room and line:
            pending = line.popleft()
            if not pending.waiting:
                self._dead -= 1
            elif pending.deadline <= now:
                self._leave(pending, level)
                late.append(pending)
            elif pending.rows <= room:
                pending.waiting = False
                batch.append(pending)
                room -= pending.rows
                count += 1
            else:
                passed.append(pending)
                if len(passed) == LOOK:
                    break
        if passed:
            line.extendleft(reversed(passed))
        taken = before - room
        level.rows -= taken
        self.rows -= taken
        self.count -= count
        return room


def _youngest(line: deque[Pending]) -> list[Pending]:
    for pending in reversed(line):
        if pending.waiting:
            return [pending]
    return []
