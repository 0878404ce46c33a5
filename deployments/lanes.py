"""A host's lanes: how many engine calls run at once, and whose turn it is.

Order is start-time fair queueing (Goyal, Vin, Cheng 1996) over engine seconds: a model's next call is tagged with the
time it has used, never less than the tag last served. So models that are always busy get equal shares of the engines,
and one that was idle goes next: a small model waits for at most the calls that are running, not for a queue of big
ones. One model never takes the last lane where there is more than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Job(Protocol):
    """One engine call."""

    seconds: float

    def run(self) -> None:
        """Carry it out and set `seconds`; never raises. Called in a worker thread."""
        ...

    def finish(self) -> None:
        """Hand out the results. Called on the event loop."""
        ...


class Claimant(ABC):
    """Something with engine calls to make. The fields belong to `Lanes`."""

    def __init__(self) -> None:
        self.claimed = False
        self.running = 0
        self.used = 0.0
        self.epoch = 0

    def renew(self) -> None:
        """Calls under way no longer count: they run on an engine that is not in force any more, and what it still does,
        however long, must not hold up its successor."""
        self.running = 0
        self.epoch += 1

    @abstractmethod
    def next_job(self) -> Job | None:
        """The next call, or None when there is nothing to run now. It offers itself again when there is."""

    @abstractmethod
    def has_work(self) -> bool:
        """True when `next_job` would have something."""


def default_lanes(cpus: float, threads: int) -> int:
    """Engine calls at once on `cpus` with `threads` each: as many as fit, and at least two (a small model must not wait
    for a big one's call to end; the system shares the cores between the two)."""
    return max(2, int(cpus // max(1, threads)))


class Lanes:
    """Runs jobs of claimants on `count` worker threads. All methods belong to the event loop."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._each = max(1, count - 1)
        self._free = count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="engine")
        self._ready: list[tuple[float, int, Claimant]] = []
        self._order = itertools.count()
        self._served = 0.0
        self._scheduled = False
        self._closed = False

    def offer(self, claimant: Claimant) -> None:
        """`claimant` has something to run. It is asked for its next job one pass of the event loop later, so that
        requests which arrive together are batched together."""
        if claimant.claimed or claimant.running >= self._each or self._closed:
            return
        claimant.claimed = True
        claimant.used = max(claimant.used, self._served)
        heapq.heappush(self._ready, (claimant.used, next(self._order), claimant))
        self._wake()

    def _wake(self) -> None:
        if self._free and not self._scheduled:
            self._scheduled = True
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._free and self._ready:
            tag, _, claimant = heapq.heappop(self._ready)
            claimant.claimed = False
            job = claimant.next_job()
            if job is None:
                continue
            self._served = tag
            self._free -= 1
            claimant.running += 1
            self._pool.submit(self._work, claimant, job, claimant.epoch)
            if claimant.has_work():
                self.offer(claimant)

    def _work(self, claimant: Claimant, job: Job, epoch: int) -> None:
        job.run()
        assert self._loop is not None
        # A closed loop (the engine was still busy when the host stopped) has nobody left to answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._done, claimant, job, epoch)

    def _done(self, claimant: Claimant, job: Job, epoch: int) -> None:
        self._free += 1
        if epoch == claimant.epoch:
            claimant.running -= 1
        claimant.used += job.seconds
        job.finish()
        if claimant.has_work():
            self.offer(claimant)
        if self._ready:
            self._wake()

    def close(self) -> None:
        """Run nothing more. Calls under way end by themselves."""
        self._closed = True
        self._ready.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
