"""The shapes of a model's engine calls, which its next engine is made to run before it is in force.

An engine compiles something for each shape that it meets (docs/decisions/shapes.md); a call that has to wait for that takes
five times as long, and right after a swap nearly every call would.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deployments.batching import Key
from deployments.padding import Padding
from deployments.yielding import Yielding
from variants.catalog import Model
from variants.engines.base import Array, Tensors
from variants.errors import EngineFailed

#: Rows of a call, and what its requests agree in; where they are padded, the length that they were filled up to.
Shape = tuple[int, Key]
#: So many different ones are counted; of more, the rarest are forgotten.
KEPT = 128
#: Shapes are run until so large a share of the calls had one of them: what comes seldom is made ready by the call that has it, which
#: costs requests less than to have all of it made ready beside them.
COVERED = 0.9
#: A swap that frees memory must not wait for long.
WARM_SECONDS = 4.0


class Shapes:
    """How often which shape was run, of late."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Shape, int] = {}

    def ran(self, shape: Shape) -> None:
        """A call had that shape."""
        counts = self._counts
        counts[shape] = counts.get(shape, 0) + 1
        while len(counts) > KEPT:
            counts = self._counts = {kept: count // 2 for kept, count in counts.items() if count > 1}

    def __len__(self) -> int:
        """How many different ones there were."""
        return len(self._counts)

    def usual(self) -> list[Shape]:
        """Those that most calls have, the most frequent first."""
        ordered = sorted(self._counts, key=self._counts.__getitem__, reverse=True)
        before = itertools.accumulate((self._counts[shape] for shape in ordered), initial=0)
        enough = COVERED * sum(self._counts.values())
        return [shape for shape, so_far in zip(ordered, before, strict=False) if so_far < enough]


def filled(model: Model, shape: Shape, sample: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of that shape, made of a sample's first row over and over."""
    rows, key = shape
    padding = Padding.of(model)
    inputs = {}
    for number, spec in enumerate(model.inputs):
        row = sample[spec.name][:1]
        if isinstance(key, tuple):
            wanted = (rows, *key[number])
        elif padding is not None and spec.name in padding.inputs:
            axis, _ = padding.inputs[spec.name]
            wanted = (rows, *row.shape[1:axis], key, *row.shape[axis + 1 :])
        else:
            wanted = (rows, *row.shape[1:])
        inputs[spec.name] = np.resize(row, wanted)
    return inputs


def warm(engine: Yielding, model: Model, shapes: Sequence[Shape], sample: Tensors) -> int:
    """Run each shape once, in this order, for `WARM_SECONDS` and one call at most; returns how many were run. Blocks: for a
    worker thread. What the engine says of made-up inputs is not held against it."""
    end = time.monotonic() + WARM_SECONDS
    done = 0
    for inputs in _each(model, shapes, sample):
        if time.monotonic() >= end:
            break
        try:
            engine.infer(inputs)
        except EngineFailed:
            break
        done += 1
    return done


def _each(model: Model, shapes: Sequence[Shape], sample: Tensors) -> Iterator[dict[str, Array]]:
    if model.batchable:
        for shape in shapes:
            yield filled(model, shape, sample)
