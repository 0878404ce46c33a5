"""A host's lanes: how many engine calls run at once, and whose turn it is.

Order is start-time fair queueing (Goyal, Vin, Cheng 1996) over engine seconds divided by weight: a model's next call is
tagged with the time it has used, never less than the tag last served. So models that are always busy share the engines
by their weights, and one that was idle goes next: a small model waits for at most the calls that are running, not for a
queue of big ones. One model never takes the last lane where there is more than one.

More lanes than calls that the cores can carry are there for latency: the calls slow each other down. So a model gets
such a lane only while it is not ahead of its share by more than `AHEAD_SECONDS`; otherwise two models with a lane each
would get equal time whatever their weights.

A model that is busy alone has its next call at hand, where that would not be fuller later: the thread whose call has ended
begins it at once, and the engine does not wait for the event loop, which may be handing out results.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from deployments.workers import Work, Workers

#: How far a model may get ahead of another running one on a lane that takes the other's cores (seconds over weight).
AHEAD_SECONDS = 0.05

#: Calls that far apart at most are as good as always there.
LIVE_SECONDS = 0.2

#: Less than this is no time to wait.
CLOCK_SECONDS = 1e-6


class Job(Protocol):
    """One engine call."""

    seconds: float
    brief: bool  # it takes less time than handing it to a thread would

    def run(self) -> None:
        """Carry it out and set `seconds`; never raises. Called in a worker thread, or on the event
        loop when it is brief."""
        ...

    def ended(self) -> None:
        """Learn from how it went, before anything else runs. Called on the event loop."""
        ...

    def finish(self) -> None:
        """Hand out the results. Called on the event loop."""
        ...


class Pool(Protocol):
    """Where calls are carried out: `deployments.workers.Workers`."""

    def submit(self, function: Callable[..., Work | None], *arguments: Any) -> None: ...

    def close(self) -> None: ...


class Claimant(ABC):
    """Something with engine calls to make. The fields belong to `Lanes`. `width`: calls of others that one of its calls takes the
    place of."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.width = 1
        self.claimed = False
        self.running = 0
        self.begun = 0.0  # the sum of the running calls' starts
        self.used = 0.0
        self.epoch = 0
        self.at_hand: deque[tuple[Job, int]] = deque()  # at most one; threads take it from here

    def renew(self) -> None:
        """Calls under way no longer count: they run on an engine that is not in force any more, and what it still does,
        however long, must not hold up its successor."""
        self.running = 0
        self.begun = 0.0
        self.epoch += 1

    @abstractmethod
    def next_job(self) -> Job | None:
        """The next call, or None when there is nothing to run now. It offers itself again when there is."""

    @abstractmethod
    def has_work(self) -> bool:
        """True when `next_job` would have something."""

    def full_job(self) -> Job | None:
        """The next call, where it would not be fuller if it were made later; else None, and nothing has changed."""
        return None


def default_lanes(abreast: int) -> int:
    """Engine calls at once where the cores carry `abreast`: so many, and one more, which no model gets alone (a small one
    must not wait for a big one's call to end; the system shares the cores between the two)."""
    return abreast + 1


class Lanes:
    """Runs jobs of claimants on `count` worker threads. All methods belong to the event loop.

    `abreast`: the calls that the cores carry without slowing each other down; None: all of them. `each`: as many may be one
    model's, fewer where they are wide.
    """

    def __init__(
        self,
        count: int,
        abreast: int | None = None,
        *,
        pool: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = count
        self._abreast = count if abreast is None else max(1, abreast)
        self.each = max(1, count - 1)
        self._free = count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool = pool or Workers(count, "engine")
        self._clock = clock
        self._ready: list[tuple[float, int, Claimant]] = []
        self._active: set[Claimant] = set()
        self._order = itertools.count()
        self._served = 0.0
        self._scheduled = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._called = self._woken = -math.inf

    @property
    def live(self) -> bool:
        """Calls are made now, or were a moment ago. May be read from any thread."""
        return self._free < self.count or self._clock() - self._called < LIVE_SECONDS

    def offer(self, claimant: Claimant) -> None:
        """`claimant` has something to run. It is asked for its next job one pass of the event loop later, so that
        requests which arrive together are batched together."""
        if claimant.claimed:
            return
        if not claimant.running:  # it was idle: that earns nothing
            claimant.used = max(claimant.used, self._served)
        self._claim(claimant)

    def _claim(self, claimant: Claimant) -> None:
        if claimant.claimed or self._all_running(claimant) or self._closed:
            return
        claimant.claimed = True
        heapq.heappush(self._ready, (claimant.used, next(self._order), claimant))
        self._wake()

    def _all_running(self, claimant: Claimant) -> bool:
        """So many calls of one claimant run that there may be no other."""
        return claimant.running >= max(1, self.each // claimant.width)

    def _prepare(self, claimant: Claimant) -> None:
        """Have the next call of one that is busy alone at hand."""
        alone = not self._ready and len(self._active) == 1
        if not self._all_running(claimant) or claimant.at_hand or not alone or self._closed:
            return
        job = claimant.full_job()
        if job is not None:
            claimant.at_hand.append((job, claimant.epoch))

    def _wake(self) -> None:
        if self._free and not self._scheduled:
            self._scheduled = True
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._woken = self._clock()
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        until = -math.inf
        while self._free and self._ready:
            tag, _, claimant = self._ready[0]
            now = self._clock()
            if self.count - self._free >= self._abreast and (wait := self._ahead(claimant, tag, now)) > CLOCK_SECONDS:
                self._wake_in(wait)  # all others are further ahead
                return
            heapq.heappop(self._ready)
            claimant.claimed = False
            job = claimant.next_job()
            if job is None:
                continue
            self._served = max(self._served, tag)
            self._begun(claimant, claimant.epoch, now)
            if job.brief:
                # The event loop has others to look after. Calls are made for as long as it did that since the first of them
                # was ready: with one in each pass, a flood of requests that are refused would leave nothing to the others.
                if until == -math.inf:
                    until = 2 * now - self._woken
                job.run()
                self._ended(claimant, job, claimant.epoch, now)
                job.finish()
                self._woken = self._clock()
                if self._woken >= until:
                    if self._ready:
                        self._wake()
                    return
                continue
            self._pool.submit(self._work, claimant, job, claimant.epoch, now)
            if claimant.has_work():
                self._claim(claimant)
                self._prepare(claimant)

    def _begun(self, claimant: Claimant, epoch: int, now: float) -> None:
        self._free -= 1
        self._called = now
        if epoch == claimant.epoch:
            claimant.running += 1
            claimant.begun += now
            self._active.add(claimant)

    def _ahead(self, claimant: Claimant, tag: float, now: float) -> float:
        """Seconds until the claimant is no longer too far ahead of those that run."""
        wait = 0.0
        for other in self._active:
            if other.running and other is not claimant:
                used = other.used + (other.running * now - other.begun) * other.width / other.weight
                wait = max(wait, (tag - used - AHEAD_SECONDS) * other.weight / (other.running * other.width))
        return wait

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        self._timer = self._loop.call_later(seconds, self._wake)

    def _work(self, claimant: Claimant, job: Job, epoch: int, started: float) -> Work | None:
        job.run()
        following, now = _taken(claimant), self._clock()
        assert self._loop is not None
        # A closed loop (the engine was still busy when the host stopped) has nobody left to answer.
        with contextlib.suppress(RuntimeError):
            goes_on = None if following is None else (following[1], now)
            self._loop.call_soon_threadsafe(self._done, claimant, job, epoch, started, goes_on)
        return None if following is None else (self._work, (claimant, *following, now))

    def _done(
        self, claimant: Claimant, job: Job, epoch: int, started: float, goes_on: tuple[int, float] | None
    ) -> None:
        """A call has ended, in a thread that has begun the next one of the same claimant, of that epoch and then, if `goes_on`
        says so."""
        self._ended(claimant, job, epoch, started, goes_on)
        if goes_on is None and (left := _taken(claimant)) is not None:  # it was put there too late for the thread
            now = self._clock()
            self._begun(claimant, left[1], now)
            self._pool.submit(self._work, claimant, *left, now)
        if self._ready:
            self._woken = self._clock()  # what waited for the lane did not keep the event loop
            self._dispatch()  # before the results are handed out: the engine runs meanwhile
        job.finish()
        if claimant.has_work():  # what the results led to
            self._claim(claimant)
            self._prepare(claimant)
        if self._ready:
            self._wake()

    def _ended(
        self, claimant: Claimant, job: Job, epoch: int, started: float, goes_on: tuple[int, float] | None = None
    ) -> None:
        self._free += 1
        if epoch == claimant.epoch:
            claimant.running -= 1
            claimant.begun = claimant.begun - started if claimant.running else 0.0
        if goes_on is not None:
            self._begun(claimant, *goes_on)
        if not claimant.running:
            self._active.discard(claimant)
        claimant.used += job.seconds * claimant.width / claimant.weight
        job.ended()
        if claimant.has_work():
            self._claim(claimant)

    def close(self) -> None:
        """Run nothing more. Calls under way end by themselves."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._ready.clear()
        self._pool.close()


def _taken(claimant: Claimant) -> tuple[Job, int] | None:
    """The call that is at hand, no longer there. May be called from any thread."""
    try:
        return claimant.at_hand.popleft()
    except IndexError:
        return None
