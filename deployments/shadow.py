"""A sample of live requests with the answers they got, kept to try the next variant on before it answers anything.

Taking one is a comparison of two numbers per batch, and a copy a few times a second at most. A new variant runs the sample
in the swap's thread, where the canary check runs too: no request waits for it. What differs too much from the answers of
the variant in force is rolled back before it has answered a request.

How much may differ follows from profiles and canaries. Two variants whose outputs are a and b away from the reference's are at
most a + b apart (top-1: two that are right agree), for cosine distances (sqrt(a) + sqrt(b))^2. Live requests are not the
evaluation's samples, and few: the slacks and `FLOOR` allow for that, and for top-1 what chance may bring in so few rows.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budgets.snapshot import Shadow
from deployments.canary import Distance
from deployments.config import ShadowConfig
from deployments.padding import Padding
from deployments.yielding import Yielding
from variants.catalog import Entry, Variant
from variants.engines.base import Array, Tensors

#: No request is kept that would leave room for less than so many.
LEAST_REQUESTS = 4
SLACK = 3.0
TOP1_SLACK = 1.5
FLOOR = 0.05
CHANCE = 1e-4
#: No outputs are tolerated that are further apart: distances end at 1.
MOST = 0.9


@dataclass(frozen=True)
class Sample:
    """One request's inputs, its outputs, and the variant that had computed them."""

    inputs: Tensors
    outputs: Tensors
    variant: str
    size: int


class Sampler:
    """One model's sample. `due` (monotonic seconds): when the next request may be taken; infinite when none ever is."""

    def __init__(self, config: ShadowConfig) -> None:
        self._config = config
        self._kept: deque[Sample] = deque()
        self._bytes = 0
        self.due = -math.inf if config.samples else math.inf

    def take(self, inputs: Tensors, outputs: Tensors, variant: str, now: float) -> None:
        """Keep a request. Arrays are copied: they are views of what the request came in and of a whole batch."""
        self.due = now + 1.0 / self._config.per_second
        size = sum(_size(array) for tensors in (inputs, outputs) for array in tensors.values())
        if size > self._config.bytes // LEAST_REQUESTS:
            return
        copies = [{name: np.array(array) for name, array in tensors.items()} for tensors in (inputs, outputs)]
        self._kept.append(Sample(copies[0], copies[1], variant, size))
        self._bytes += size
        while len(self._kept) > self._config.samples or self._bytes > self._config.bytes:
            self._bytes -= self._kept.popleft().size

    def of(self, variant: str) -> tuple[Sample, ...]:
        """What this variant answered, newest first."""
        return tuple(sample for sample in reversed(self._kept) if sample.variant == variant)


def _size(array: Array) -> int:
    return sum(len(item) for item in array.ravel().tolist()) if array.dtype == object else int(array.nbytes)


def compare(
    engine: Yielding,
    entry: Entry,
    variant: str,
    samples: Sequence[Sample],
    *,
    fingerprint: str,
    distance: Distance,
    canary_passed: bool,
    seconds: float,
) -> Shadow | None:
    """Run the sample on an engine of `variant`; None without a sample. All samples were answered by the same variant.
    Blocks, for `seconds` and one call at most. Raises what the engine raises.

    The variant is the suspect where the answers differ too much, unless it is the model's reference and has just
    reproduced the stored reference outputs: then what ran before is."""
    if not samples:
        return None
    model, padding = entry.model, Padding.of(entry.model)
    end = time.monotonic() + seconds
    far, rows, requests = 0.0, 0, 0
    for sample in samples:
        if requests and time.monotonic() >= end:
            break
        outputs = engine.infer(sample.inputs) if padding is None else padding.alone(engine.infer, sample.inputs)
        count = len(next(iter(sample.inputs.values()))) if model.batchable else 1
        far += count * distance(model.metric, {name: outputs[name] for name in outputs}, sample.outputs)
        rows += count
        requests += 1
    before, after = entry.variants[samples[0].variant], entry.variants[variant]
    allowed = tolerance(model.metric, before, after, fingerprint, rows)
    suspect = ""
    if not far / rows <= allowed:
        reference = after.lineage.parent is None and canary_passed
        suspect = before.name if reference else variant
    return Shadow(
        variant=variant,
        reference=before.name,
        requests=requests,
        rows=rows,
        distance=far / rows,
        tolerance=allowed,
        suspect=suspect,
    )


def tolerance(metric: str, a: Variant, b: Variant, fingerprint: str, rows: int) -> float:
    """How far the outputs of two variants may be apart on `rows` live samples, in [0, 1]."""
    one, other = _error(a, fingerprint), _error(b, fingerprint)
    if metric == "top1":
        return _share(min(0.5, max(FLOOR, TOP1_SLACK * (one + other))), rows)
    apart = (math.sqrt(one) + math.sqrt(other)) ** 2 if metric == "cosine" else one + other
    return min(MOST, SLACK * apart * (1.0 + 1.0 / math.sqrt(rows)) + FLOOR)


def _share(expected: float, rows: int) -> float:
    """The largest share of `rows` that may differ where each does with probability `expected`: more would be seen by chance
    less than once in `1 / CHANCE` swaps (the binomial distribution's tail)."""
    tail = 0.0
    for differing in range(rows, -1, -1):
        tail += math.comb(rows, differing) * expected**differing * (1.0 - expected) ** (rows - differing)
        if tail >= CHANCE:
            return differing / rows
    return 0.0


def _error(variant: Variant, fingerprint: str) -> float:
    """How far a variant's outputs are from the reference's: what its canary allows, or less by its profile. (An accuracy
    against labels says less than the canary: two variants may be wrong on different samples, and hardly ever are.)"""
    profile = variant.profile(fingerprint)
    return min(variant.tolerance, max(0.0, 1.0 - profile.quality)) if profile else variant.tolerance
