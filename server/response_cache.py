"""Answers kept by what was asked: per model, bounded in bytes, least recently used first out.

An answer is found again for the same inputs (names, shapes, bytes), while the variant that computed it is in force. It is
for models whose answer depends on nothing but their inputs; so it is off unless a model's settings give it room.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from deployments.api import Answer, Duration
from server import tensors
from variants.catalog import Model
from variants.engines.base import Array, Tensors

#: What an entry costs beside its arrays, roughly: its key, the dictionaries, the array objects.
ENTRY_BYTES = 1024


@dataclass(frozen=True)
class Counts:
    """Lookups that found an answer, and those that did not, with the time they took; `samples` were in what was found."""

    hit: Duration = field(default_factory=Duration)
    miss: Duration = field(default_factory=Duration)
    samples: int = 0


class ModelCache:
    """One model's answers, `limit` bytes at most. Belongs to the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = self.misses = self.evictions = 0
        self._hit_seconds = self._miss_seconds = 0.0
        self._samples = 0
        self._answers: OrderedDict[bytes, tuple[Answer, int, int]] = OrderedDict()  # with its bytes and samples

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: bytes, started: float) -> Answer | None:
        """The answer, or None. `started`: when the lookup began (monotonic seconds), the making of the key included."""
        found = self._answers.get(key)
        seconds = time.monotonic() - started
        if found is None:
            self.misses += 1
            self._miss_seconds += seconds
            return None
        self._answers.move_to_end(key)
        self.hits += 1
        self._hit_seconds += seconds
        self._samples += found[2]
        return found[0]

    def keep(self, key: bytes, answer: Answer, samples: int = 1) -> None:
        """Remember an answer; one that is larger than the whole cache is not kept. What is kept is a copy."""
        size = ENTRY_BYTES + sum([_size(array) for array in answer.outputs.values()])
        if size > self.limit or key in self._answers:
            return
        outputs = {name: np.array(array, copy=True) for name, array in answer.outputs.items()}
        for array in outputs.values():
            array.setflags(write=False)
        kept = answer._replace(outputs=outputs, queue_seconds=0.0, compute_seconds=0.0)
        self._answers[key] = (kept, size, samples)
        self.bytes += size
        while self.bytes > self.limit:
            _, (_, freed, _) = self._answers.popitem(last=False)
            self.bytes -= freed
            self.evictions += 1

    def clear(self) -> None:
        """Forget every answer; the counts stay."""
        self._answers.clear()
        self.bytes = 0

    def counts(self) -> Counts:
        """For the statistics extension."""
        hit = Duration(self.hits, int(self._hit_seconds * 1e9))
        return Counts(hit, Duration(self.misses, int(self._miss_seconds * 1e9)), self._samples)


class ResponseCache:
    """The caches of a host: `limits` says how many bytes for which model. A Prometheus collector."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._models = {name: ModelCache(limit) for name, limit in limits.items() if limit > 0}

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def of(self, model: str) -> ModelCache | None:
        """The model's cache; None where it has none."""
        return self._models.get(model)

    def collect(self) -> Iterator[Any]:
        """`trimtab_response_cache_*`. Called in a scrape's thread."""
        if not self._models:
            return
        counters = {"hits": "answers found", "misses": "lookups without", "evictions": "answers dropped for room"}
        for counter, what in counters.items():
            family = CounterMetricFamily(
                f"trimtab_response_cache_{counter}", f"Response cache: {what}", labels=["model"]
            )
            for name, cache in self._models.items():
                family.add_metric([name], getattr(cache, counter))
            yield family
        size = GaugeMetricFamily("trimtab_response_cache_bytes", "Response cache: what it holds", labels=["model"])
        for name, cache in self._models.items():
            size.add_metric([name], cache.bytes)
        yield size


def key_of(model: Model, inputs: Tensors, variant: str) -> bytes:
    """What tells one question to a variant from another. Outputs are no part of it: all of them are kept."""
    made = hashlib.blake2b(digest_size=32)
    made.update(variant.encode())
    for spec in model.inputs:
        array = inputs[spec.name]
        made.update(repr((spec.name, array.shape)).encode())
        made.update(tensors.to_raw(array, spec.datatype))
    return made.digest()


def _size(array: Array) -> int:
    if array.dtype == np.object_:
        return array.nbytes + sum([64 + len(value) for value in array.reshape(-1).tolist()])
    return array.nbytes
