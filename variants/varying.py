"""The calls in which a model whose inputs vary meets other shapes than its data has: what an engine keeps grows with them.

A padded model is run at every length of `variants.lengths`. Any other is run at the shapes that are sent, of which its data
must give an idea. Samples of several lengths were filled up to be stacked, so one that ends in fill is a shorter one, and
requests share a call where they are equally long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from variants.catalog import Model
from variants.data import repeated
from variants.engines.base import Array
from variants.lengths import BOUNDS, run_at

#: Axes that vary, each an input's name and the number of its axis.
Axes = Sequence[tuple[str, int]]


def calls(model: Model, inputs: Mapping[str, Array], sizes: Sequence[int]) -> Iterator[dict[str, Array]]:
    """The inputs of one call of each such shape, smaller calls first; none where no axis but the first varies.

    `inputs`: samples by input name, axis 0 = sample; `sizes`: rows that calls have, ascending.
    """
    return _padded(model, inputs, sizes) if model.pad else _as_sent(model, inputs, sizes)


def typical(model: Model, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The inputs of one request of the lengths that most samples have which are shorter than the data; none where none is.
    An engine may keep its weights in another form, too, for calls that are smaller than those at the data's length."""
    samples = _Samples(model, inputs)
    for lengths, _ in samples.shorter[:1]:
        yield samples.first(1, lengths, [run_at(n) for n in lengths] if model.pad else lengths)


def _padded(model: Model, inputs: Mapping[str, Array], sizes: Sequence[int]) -> Iterator[dict[str, Array]]:
    axes = _axes(model)
    longest = min(inputs[name].shape[axis] for name, axis in axes)
    for rows in sizes:
        batch = repeated(inputs, rows)
        for length in BOUNDS[: bisect_right(BOUNDS, longest)]:
            yield _cut(batch, axes, length)


def _as_sent(model: Model, inputs: Mapping[str, Array], sizes: Sequence[int]) -> Iterator[dict[str, Array]]:
    samples = _Samples(model, inputs)
    for rows in sizes:
        for lengths, count in samples.shorter:
            if count >= rows:
                yield samples.first(rows, lengths, lengths)


class _Samples:
    """How long samples are along what varies. What is as long in the data is one length (tokens and their mask); each
    other length varies by itself.

    `shorter`: the lengths of samples that are shorter than the data, and how many are, the most frequent first."""

    def __init__(self, model: Model, inputs: Mapping[str, Array]) -> None:
        by_length: dict[int, list[tuple[str, int]]] = {}
        for name, axis in _axes(model):
            by_length.setdefault(inputs[name].shape[axis], []).append((name, axis))
        self._inputs = inputs
        self._together = list(by_length.values())
        self._lengths = np.array([_lengths(inputs, axes) for axes in self._together]).T
        counted = Counter(map(tuple, self._lengths.tolist())).most_common()
        self.shorter = [(lengths, count) for lengths, count in counted if lengths != tuple(by_length)]

    def first(self, rows: int, lengths: Sequence[int], cut_to: Sequence[int]) -> dict[str, Array]:
        """So many of the samples that have these lengths, cut to others."""
        chosen = np.flatnonzero((self._lengths == lengths).all(axis=1))[:rows]
        batch = {name: array[chosen] for name, array in self._inputs.items()}
        for axes, length in zip(self._together, cut_to, strict=True):
            batch = _cut(batch, axes, length)
        return batch


def _axes(model: Model) -> Axes:
    return [(spec.name, axis) for spec in model.inputs for axis, n in enumerate(spec.shape) if axis and n == -1]


def _lengths(inputs: Mapping[str, Array], axes: Axes) -> npt.NDArray[np.int64]:
    """How long each sample is along the axes, which are equally long, without the fill at its end: what is the same, on all
    of them, as what comes last. A sample that ends in no such run, or is nothing else, is as long as it looks."""
    fill: npt.NDArray[np.bool_] | None = None
    for name, axis in axes:
        along = np.moveaxis(inputs[name], axis, 1)
        same = (along == along[:, -1:]).reshape(*along.shape[:2], -1).all(axis=2)
        fill = same if fill is None else fill & same
    assert fill is not None
    run = np.argmin(fill[:, ::-1], axis=1)  # 0 where everything is the same
    return np.asarray(fill.shape[1] - np.where(run > 1, run, 0), np.int64)


def _cut(batch: Mapping[str, Array], axes: Axes, length: int) -> dict[str, Array]:
    made = dict(batch)
    for name, axis in axes:
        made[name] = made[name][(slice(None),) * axis + (slice(length),)]
    return made
