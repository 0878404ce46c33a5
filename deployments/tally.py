"""What a slot and a host have counted, cheaply: plain numbers, written on the event loop only.

They are read from other threads (a metrics scrape), which see every number whole but may see one request in one of them
and not yet in another.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from prometheus_client.samples import Exemplar

from budgets.exposition import LATENCY_BUCKETS
from budgets.snapshot import Counted
from deployments.api import Duration, Statistics
from variants.errors import DeadlineExceeded, EngineFailed

BATCH_BUCKETS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SWAP_BUCKETS: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Histogram:
    """Counts by upper bound (the last one is unbounded), the sum of what was observed, and of each bucket the last trace
    that was given as its example."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: str) -> None:
        """Remember the trace of a value that was observed."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar({"trace_id": trace_id}, value, time.time())

    def cumulative(self) -> list[Bucket]:
        """(upper bound, observations at or below it[, exemplar]) as Prometheus wants them, `+Inf` last."""
        total = 0
        buckets: list[Bucket] = []
        for index, (bound, count) in enumerate(zip([*self.bounds, None], list(self.counts), strict=True)):
            total += count
            bucket = ("+Inf" if bound is None else repr(float(bound)), float(total))
            exemplar = self.exemplars.get(index)
            buckets.append(bucket if exemplar is None else (*bucket, exemplar))
        return buckets


class _Sum:
    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    def duration(self) -> Duration:
        return Duration(self.count, int(self.seconds * 1e9))


class Tally:
    """One model's counters since the host started. `trace_id`: the current request's, for the latency's exemplars."""

    def __init__(self, trace_id: Callable[[], str | None] | None = None) -> None:
        self._trace_id = trace_id
        self.requests: dict[tuple[str, str, str], int] = {}  # (variant, code, protocol)
        self.latency: dict[str, Histogram] = {}  # by variant
        self.engine: dict[str, _Sum] = {}  # by variant: seconds in engine calls, samples through them
        self.queue = Histogram(LATENCY_BUCKETS)
        self.batch = Histogram(BATCH_BUCKETS)
        self.positions = 0  # rows times length, of models whose calls are padded
        self.padding = 0  # those of them that nobody sent
        self._batches: dict[int, tuple[_Sum, _Sum, _Sum]] = {}  # by size: input, engine, output
        self._success = _Sum()
        self._fail = _Sum()
        self._queue = _Sum()
        self._compute = (_Sum(), _Sum(), _Sum())
        self._samples = 0
        self._last = 0.0

    def executed(
        self,
        variant: str,
        size: int,
        queue_seconds: Sequence[float],
        seconds: float,
        around: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """One engine call of `size` samples for as many requests as waited `queue_seconds`. `around`: what of `seconds`
        passed before and after the engine itself."""
        engine = self.engine.get(variant)
        if engine is None:
            engine = self.engine[variant] = _Sum()
        engine.add(seconds, size)
        batches = self._batches.get(size)
        if batches is None:
            batches = self._batches[size] = (_Sum(), _Sum(), _Sum())
        before, after = around
        inside = seconds - before - after
        batches[0].add(before)
        batches[1].add(inside)
        batches[2].add(after)
        self.batch.observe(size)
        for waited in queue_seconds:
            self.queue.observe(waited)
        requests = len(queue_seconds)
        self._queue.add(sum(queue_seconds), requests)
        compute = self._compute
        compute[0].add(before * requests, requests)
        compute[1].add(inside * requests, requests)
        compute[2].add(after * requests, requests)
        self._last = time.time()

    def padded(self, padding: int, positions: int) -> None:
        """One engine call had that many positions, and so many of them were padding."""
        self.padding += padding
        self.positions += positions

    def answered(self, variant: str, protocol: str, seconds: float, samples: int) -> None:
        """One request got its result, `seconds` after it arrived."""
        self._count(variant, "ok", protocol)
        self._observe(variant, seconds)
        self._success.add(seconds)
        self._samples += samples

    def failed(self, variant: str, code: str, protocol: str, seconds: float) -> None:
        """One request got an error (`code`: the error's class) or its caller went away (`Cancelled`)."""
        self._count(variant, code, protocol)
        self._fail.add(seconds)
        if code == DeadlineExceeded.__name__:  # it took at least that long: without these, overload would look fast
            self._observe(variant, seconds)

    def _observe(self, variant: str, seconds: float) -> None:
        latency = self.latency.get(variant)
        if latency is None:
            latency = self.latency[variant] = Histogram(LATENCY_BUCKETS)
        latency.observe(seconds)
        if self._trace_id is not None and (trace := self._trace_id()):
            latency.exemplify(seconds, trace)

    def _count(self, variant: str, code: str, protocol: str) -> None:
        key = (variant, code, protocol)
        self.requests[key] = self.requests.get(key, 0) + 1

    def counted(self, variant: str) -> Counted:
        """What is known of one variant."""
        codes = [(code, count) for (name, code, _), count in self.requests.items() if name == variant]
        engine = self.engine.get(variant)
        return Counted(
            variant=variant,
            answered=sum(count for code, count in codes if code == "ok"),
            errors=sum(count for code, count in codes if code == EngineFailed.__name__),
            engine_seconds=engine.seconds if engine else 0.0,
            samples=engine.count if engine else 0,
        )

    def statistics(self) -> Statistics:
        """The V2 statistics extension's view."""
        batches = sorted(self._batches.items())
        by_size = [{size: stages[i].duration() for size, stages in batches} for i in range(3)]
        return Statistics(
            inference_count=self._samples,
            execution_count=sum(engine.count for _, (_, engine, _) in batches),
            last_inference=int(self._last * 1000),
            success=self._success.duration(),
            fail=self._fail.duration(),
            queue=self._queue.duration(),
            compute_input=self._compute[0].duration(),
            compute=self._compute[1].duration(),
            compute_output=self._compute[2].duration(),
            batches=by_size[1],
            batch_inputs=by_size[0],
            batch_outputs=by_size[2],
        )


class SwapTally:
    """A host's swaps since it started."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], int] = {}  # (model, direction, outcome)
        self.seconds: dict[tuple[str, str], Histogram] = {}  # (model, mode)

    def finished(self, model: str, direction: str, outcome: str, mode: str, seconds: float) -> None:
        """One swap came to its end."""
        key = (model, direction, outcome)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        self.seconds.setdefault((model, mode), Histogram(SWAP_BUCKETS)).observe(seconds)
