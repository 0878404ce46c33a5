"""Requests for a model: single samples of the data it is evaluated on, and what a good answer looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from variants.catalog import Model
from variants.data import load_data
from variants.datatypes import NUMPY
from variants.engines.base import Array
from variants.errors import ConfigError

#: Text is sent as tokenizers are set up to send it: padded to a multiple of this many tokens, not to the longest text.
PAD_MULTIPLE = 16
MASK = "attention_mask"


def samples(folder: Path, model: Model, count: int) -> list[dict[str, Array]]:
    """Up to `count` requests of one sample each (axis 0 of length 1), inputs only.

    Raises ConfigError when the model names no evaluation data.
    """
    if model.data.evaluation is None:
        raise ConfigError(f"{folder}: data.evaluation in model.yaml is what requests are made of, and there is none")
    data = load_data(folder, model.data.evaluation)
    return list(_single(model, data, count))


def _single(model: Model, data: Mapping[str, Array], count: int) -> Iterator[dict[str, Array]]:
    total = len(data[model.inputs[0].name])
    for row in range(min(count, total)):
        sample = {spec.name: data[spec.name][row : row + 1] for spec in model.inputs}
        if MASK in sample:
            tokens = int(sample[MASK].sum())
            length = -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE
            sample = {name: array[:, :length] for name, array in sample.items()}
        yield {name: np.ascontiguousarray(array) for name, array in sample.items()}


def problem(model: Model, outputs: Mapping[str, Array | None], batch: int = 1) -> str:
    """What is wrong with an answer's outputs (absent, other dtype or shape, not finite); empty when nothing is."""
    for spec in model.outputs:
        array = outputs.get(spec.name)
        if array is None:
            return f"output {spec.name!r} is absent"
        if array.dtype != NUMPY[spec.datatype]:
            return f"output {spec.name!r} is {array.dtype}, not {spec.datatype}"
        shape = (batch, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
        if array.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)):
            return f"output {spec.name!r} has shape {list(array.shape)}, not {list(shape)}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"output {spec.name!r} has NaN or infinite values"
    return ""
