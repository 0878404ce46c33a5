"""Warm-up and verification of a freshly loaded engine on a model's stored canary inputs. Blocks: for worker threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deployments.yielding import Yielding
from variants.catalog import Model, Variant
from variants.datatypes import NUMPY
from variants.engines.base import Array, Tensors
from variants.errors import EngineFailed


class Refuted(EngineFailed):
    """An engine that runs and computes something else than it should."""


Canary = tuple[Tensors, Tensors]
#: distance(metric, outputs, reference): 0 where they agree (`variants.quality.distance`).
Distance = Callable[[str, Tensors, Tensors], float]


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


def warm(engine: Yielding, model: Model, canary: Canary | None) -> None:
    """Make each of the engine's streams do its first, slower call before it is in force. Raises EngineFailed."""
    if canary is None:
        blank = _blank(model)
        if blank is not None:
            engine.on_each_stream(blank)
        return
    engine.on_each_stream({name: array[:1] if array.ndim else array for name, array in canary[0].items()})


def verify(engine: Yielding, model: Model, variant: Variant, canary: Canary | None, distance: Distance) -> None:
    """Compare the engine's outputs on the canary inputs with the stored reference outputs. Nothing to compare where the
    model has no canary. Raises EngineFailed with the distance and what is tolerated, or naming an output that is
    missing or holds NaN (Refuted where the engine ran)."""
    if canary is None:
        return
    inputs, reference = canary
    outputs = engine.in_parts(inputs)
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
