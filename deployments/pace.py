"""How fast a model's calls go and its queue drains, how fast requests arrive, and what follows from both. Seconds.

Learnt from the calls themselves; until there are any, a variant's profile speaks. Pure but for what it remembers: time
is always an argument.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import exp

from variants.catalog import Profile

#: Weight of the newest call in the running means.
NEWEST = 1 / 8
#: Arrivals are counted over about the last second.
MEMORY_SECONDS = 1.0
#: A model keeps up with its arrivals when its calls take at most this share of the time.
KEEPS_UP = 0.7
#: A call takes at most this share of a latency objective, so that a request can wait for one and have one.
OBJECTIVE_SHARE = 0.5
#: And the delay for company at most this one.
DELAY_SHARE = 0.1
#: A call that takes at most this long is made on the event loop itself: handing it to a thread and back would take longer,
#: and the two threads would fight over the interpreter's lock meanwhile.
BRIEF_SECONDS = 0.0002
#: That is known once so many were made. One on the loop that takes longer than is tolerated sends the model's calls back to
#: the threads for so many times its own duration, which bounds the share of the loop's time that such calls can take.
KNOWN_CALLS, TOLERATED_SECONDS, EXILE = 32, 0.005, 20
#: How much slower than the fastest a call may have become each time that one is made.
FORGOTTEN = 1.02


class Rate:
    """Arrivals per second, with an exponentially fading memory."""

    __slots__ = ("_at", "_mass", "_new")

    def __init__(self, now: float) -> None:
        self._at = now
        self._mass = 0.0
        self._new = 0

    def arrived(self, rows: int) -> None:
        """Some rows came."""
        self._new += rows

    def at(self, now: float) -> float:
        """Rows per second about now."""
        self._mass = self._mass * exp((self._at - now) / MEMORY_SECONDS) + self._new
        self._at, self._new = now, 0
        return self._mass / MEMORY_SECONDS


class Pace:
    """One variant's calls. `drain` is the seconds that each waiting row keeps those behind it waiting, contention by
    other models included; 0 while nothing is known. `longest`: no call is expected to take more."""

    __slots__ = ("_barred", "_calls", "_floors", "_sizes", "drain", "longest", "tail")

    def __init__(self, profile: Profile | None, max_batch: int) -> None:
        #: class of batch size (bit length) -> rows, seconds of a call
        self._sizes: dict[int, tuple[float, float]] = {}
        #: class of batch size -> seconds that a call takes when nothing disturbs it: calls in threads also wait for locks
        self._floors: dict[int, float] = {}
        self._calls = 0
        self._barred = 0.0  # until when all calls are made in threads
        self.drain = 0.0
        self.longest = 0.0
        self.tail = 1.0
        if profile is not None and profile.batches:
            for measured in profile.batches:
                self._sizes[measured.batch.bit_length()] = (float(measured.batch), measured.p50_seconds)
                self.longest = max(self.longest, measured.p50_seconds)
            fit = [b for b in profile.batches if b.batch <= max_batch] or list(profile.batches)
            self.drain = min(b.p50_seconds / b.batch for b in fit)
            first = profile.smallest
            self.tail = max(1.0, first.p99_seconds / first.p50_seconds) if first.p50_seconds else 1.0

    def called(
        self, rows: int, seconds: float, elapsed: float, backlog: bool, blocked: float = 0.0, now: float = 0.0
    ) -> None:
        """A call of `rows` took `seconds`, and its model got through it in `elapsed`, waiting for its turn included and what
        other calls of its took meanwhile left out. `backlog`: more waited behind it, so that it was as full as it could be.
        `blocked`: how long it kept the event loop from going on, until `now`."""
        # Of calls that run side by side each takes its seconds, but the queue is through with all of them in as many. Where none
        # waits, a call may have been alone by chance.
        each = (elapsed if backlog or elapsed > seconds else seconds) / rows
        kind = rows.bit_length()
        floor = self._floors.get(kind, seconds)
        self._floors[kind] = min(seconds, floor * FORGOTTEN)
        self._calls += 1
        if blocked > TOLERATED_SECONDS:
            self._barred = now + EXILE * blocked
        known = self._sizes.get(kind)
        if known is None:
            self._sizes[kind] = (float(rows), seconds)
        else:
            size, mean = known
            seconds = mean + NEWEST * (seconds - mean)
            self._sizes[kind] = (size + NEWEST * (rows - size), seconds)
        if seconds > self.longest:
            self.longest = seconds
        if backlog or each < self.drain:  # a call that was not full only bounds the drain from above
            self.drain += (NEWEST if self.drain else 1.0) * (each - self.drain)

    def brief(self, rows: int, now: float) -> bool:
        """Whether a call of that many rows is so short, as measured, that it may be made on the event loop."""
        return (
            self._floors.get(rows.bit_length(), 1.0) <= BRIEF_SECONDS
            and now >= self._barred
            and self._calls >= KNOWN_CALLS
        )

    def seconds(self, rows: int) -> float | None:
        """A call of that many rows: on the line through the two nearest sizes that are known, or by proportion to the only
        one. None while nothing is known."""
        known = self._sizes.get(rows.bit_length())
        if known is not None and known[0] == rows:
            return known[1]
        points = sorted(self._sizes.values())
        if len(points) < 2:
            return points[0][1] * max(1.0, rows / points[0][0]) if points else None
        above = min(max(1, bisect_left(points, (rows, 0.0))), len(points) - 1)
        (size, seconds), (larger, more) = points[above - 1], points[above]
        slope = max(0.0, more - seconds) / (larger - size)
        return max(seconds if rows >= size else 0.0, seconds + slope * (rows - size))

    def tail_seconds(self, rows: int) -> float | None:
        """A slow call of that many rows (99th percentile, as far as the profile tells)."""
        mean = self.seconds(rows)
        return None if mean is None else mean * self.tail


def sizes(max_batch: int) -> list[int]:
    """The batch sizes worth considering: powers of two, and the maximum."""
    return sorted({1 << i for i in range(max_batch.bit_length()) if 1 << i <= max_batch} | {max_batch})


def company(rate: float, seconds: Callable[[int], float | None], max_batch: int) -> int:
    """The smallest batch with which calls keep up with `rate` (rows per second). 1 when single calls do, when nothing is
    known, and when no batch does: then the queue fills the batches by itself."""
    for size in sizes(max_batch):
        call = seconds(size)
        if call is None:
            return 1
        if rate * call <= KEEPS_UP * size:
            return size
    return 1


def largest(objective: float, seconds: Callable[[int], float | None], max_batch: int) -> int:
    """The largest batch whose call leaves room for a wait within a latency objective."""
    best = 1
    for size in sizes(max_batch):
        call = seconds(size)
        if call is not None and call > OBJECTIVE_SHARE * objective:
            break
        best = size
    return best
