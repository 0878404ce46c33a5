"""Samples from metrics endpoints -> rates, histogram quantiles and sums over a window. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from budgets import exposition as names

#: What is read of an exposition; other lines are skipped before they are parsed.
COUNTERS = (names.REQUEST_DURATION, names.ENGINE_SECONDS, names.ENGINE_SAMPLES)
GAUGES = (
    names.QUEUE_DEPTH,
    names.PROCESS_MEMORY,
    names.NEIGHBOUR_MEMORY,
    names.NODE_MEMORY_USED,
    names.NODE_MEMORY_LIMIT,
    names.NODE_CPU,
    names.GPU_MEMORY_USED,
    names.GPU_MEMORY_LIMIT,
    names.GPU_UTILIZATION,
    names.PROCESS_GPU_MEMORY,
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_GPU_UTIL",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_node_gram_used",
    "ray_node_gram_available",
    "ray_node_gpus_utilization",
)
_WANTED = (*COUNTERS, *GAUGES)
Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


def parse(text: str, wanted: tuple[str, ...] = _WANTED) -> dict[Key, float]:
    """The samples of a Prometheus text exposition whose names begin with one that is wanted: (name, sorted labels) -> value. Raises
    ValueError."""
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    samples = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            samples[(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
    return samples


@dataclass
class Target:
    """One endpoint's last samples, and the increases of its counters within the window."""

    window: float
    samples: dict[Key, float] = field(default_factory=dict)
    at: float = -math.inf
    _steps: deque[tuple[float, float, dict[Key, float]]] = field(default_factory=deque)

    def add(self, at: float, samples: dict[Key, float]) -> None:
        """Take in a scrape. A counter that fell was reset: its new value is its increase."""
        if self.samples:
            grown = {}
            for key, value in samples.items():
                if key[0].startswith(COUNTERS):
                    before = self.samples.get(key, 0.0)
                    step = value - before if value >= before else value
                    if step:
                        grown[key] = step
            self._steps.append((self.at, at, grown))
        self.samples, self.at = samples, at
        while self._steps and self._steps[0][0] < at - self.window:
            self._steps.popleft()

    @property
    def span(self) -> float:
        """Seconds that the window covers; 0 before the second scrape."""
        return self._steps[-1][1] - self._steps[0][0] if self._steps else 0.0

    def increases(self) -> dict[Key, float]:
        """Increase of every counter there is, over the window. Those that stood still are in it: the empty buckets of a
        histogram bound the others from below."""
        total = {key: 0.0 for key in self.samples if key[0].startswith(COUNTERS)}
        for _, _, grown in self._steps:
            for key, step in grown.items():
                total[key] = total.get(key, 0.0) + step
        return total


def by_model(increases: Iterable[Mapping[Key, float]], name: str) -> dict[str, float]:
    """Increase of a counter by model, over all variants and targets."""
    total: dict[str, float] = {}
    for series in increases:
        for (sample, labels), value in series.items():
            if sample == name:
                model = dict(labels).get("model", "")
                total[model] = total.get(model, 0.0) + value
    return total


def buckets_by_model(increases: Iterable[Mapping[Key, float]], name: str) -> dict[str, dict[float, float]]:
    """Cumulative histogram increases by model: upper bound -> count, merged over variants and targets."""
    merged: dict[str, dict[float, float]] = {}
    for series in increases:
        for (sample, labels), value in series.items():
            if sample == f"{name}_bucket":
                fields = dict(labels)
                bucket = merged.setdefault(fields.get("model", ""), {})
                bound = float(fields["le"])
                bucket[bound] = bucket.get(bound, 0.0) + value
    return merged


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """The `q` quantile of cumulative buckets, linear within a bucket as PromQL's `histogram_quantile`; None without
    observations. Beyond the last finite bound it is that bound."""
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    low, seen = 0.0, 0.0
    for bound in bounds:
        count = max(seen, buckets[bound])
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * ((rank - seen) / (count - seen) if count > seen else 1.0)
        low, seen = bound, count
    return low
