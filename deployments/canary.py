"""Warm-up and verification of a freshly loaded engine on a model's stored canary inputs. Blocks: for worker threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from variants.catalog import Model, Variant
from variants.datatypes import NUMPY
from variants.engines.base import Array, Engine, Tensors
from variants.errors import EngineFailed


class Refuted(EngineFailed):
    """An engine that runs and computes something else than it should."""


Canary = tuple[Tensors, Tensors]
#: distance(metric, outputs, reference): 0 where they agree (`variants.quality.distance`).
Distance = Callable[[str, Tensors, Tensors], float]


def infer_in_parts(engine: Engine, model: Model, inputs: Tensors) -> dict[str, Array]:
    """Run inputs of any batch size in calls of at most `model.max_batch`. Raises EngineFailed."""
    if not model.batchable:
        return engine.infer(inputs)
    rows = len(next(iter(inputs.values())))
    parts = [
        engine.infer({name: array[start : start + model.max_batch] for name, array in inputs.items()})
        for start in range(0, rows, model.max_batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blank(model: Model) -> dict[str, Array] | None:
    """One sample of zeros; None where an axis other than the batch's varies, so that no size is known to be right."""
    inputs: dict[str, Array] = {}
    for spec in model.inputs:
        shape = tuple(1 if axis == 0 and size == -1 else size for axis, size in enumerate(spec.shape))
        if -1 in shape:
            return None
        blank = b"" if spec.datatype == "BYTES" else 0
        inputs[spec.name] = np.full(shape, blank, dtype=NUMPY[spec.datatype])
    return inputs


def warm(engine: Engine, model: Model, canary: Canary | None) -> None:
    """Make the engine do its first, slower calls before it is in force: one sample, and the largest batch that the
    canary inputs allow. Raises EngineFailed."""
    if canary is None:
        blank = _blank(model)
        if blank is not None:
            engine.infer(blank)
        return
    inputs = canary[0]
    sizes = (1, model.max_batch) if model.batchable else (0,)
    for size in sizes:
        engine.infer({name: array[:size] for name, array in inputs.items()} if size else inputs)


def verify(engine: Engine, model: Model, variant: Variant, canary: Canary | None, distance: Distance) -> None:
    """Compare the engine's outputs on the canary inputs with the stored reference outputs. Nothing to compare where the
    model has no canary. Raises EngineFailed with the distance and what is tolerated, or naming an output that is
    missing or holds NaN (Refuted where the engine ran)."""
    if canary is None:
        return
    inputs, reference = canary
    outputs = infer_in_parts(engine, model, inputs)
    for name, expected in reference.items():
        if name not in outputs:
            raise Refuted(f"canary: output {name!r} is missing; there are: {', '.join(outputs)}")
        if outputs[name].shape != expected.shape:
            raise Refuted(f"canary: output {name!r} has shape {outputs[name].shape}, not {expected.shape}")
        # Some metrics compare positions only and would let NaN pass.
        if expected.dtype.kind not in "OSU" and np.isnan(outputs[name].astype(np.float64)).any():
            raise Refuted(f"canary: output {name!r} holds NaN")
    far = distance(model.metric, {name: outputs[name] for name in reference}, reference)
    if not far <= variant.tolerance:
        raise Refuted(f"canary: {model.metric} distance {far:.4g} is above the tolerated {variant.tolerance:g}")
