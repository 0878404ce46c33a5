"""Requests of unequal length in one engine call: how they are padded and cut apart again.

A model opts in with `pad` in its `model.yaml`: the value that fills up each input whose second variable axis is the
length. Calls are filled up to one of the few lengths of `variants.lengths`; `deployments.company` says which requests share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from variants.catalog import Model
from variants.engines.base import Array, Tensors
from variants.lengths import LONGEST, run_at, whole

if TYPE_CHECKING:
    from deployments.batching import Pending


def together(batch: Sequence[Pending], largest: int) -> int:
    """How many of a batch's requests, from the first on, to call together so that the call has one of the few sizes of
    `variants.lengths.whole`; all, where no number of them has."""
    rows, count = 0, 0
    for number, pending in enumerate(batch, 1):
        rows += pending.rows
        if rows == whole(rows, largest):
            count = number
    return count or len(batch)


@dataclass(frozen=True)
class Padding:
    """`inputs`: name -> (axis of the length, value that fills up). `outputs`: name -> axes that may follow the length."""

    inputs: Mapping[str, tuple[int, float]]
    outputs: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: Model) -> Padding | None:
        """The model's, or None when it did not opt in."""
        if not model.pad:
            return None
        axes = {spec.name: spec.shape.index(-1, 1) for spec in model.inputs if spec.name in model.pad}
        outputs = {s.name: tuple(i for i, n in enumerate(s.shape) if i and n == -1) for s in model.outputs}
        return cls(
            {name: (axis, model.pad[name]) for name, axis in axes.items()},
            {name: found for name, found in outputs.items() if found},
        )

    def length(self, inputs: Tensors) -> int | None:
        """The length that all of a request's padded inputs have; None when they differ or it cannot be in a bucket."""
        lengths = {inputs[name].shape[axis] for name, (axis, _) in self.inputs.items()}
        length = lengths.pop()
        return length if not lengths and 1 <= length <= LONGEST else None

    def needed(self, pending: Pending) -> bool:
        """Whether the request alone is filled up."""
        return pending.length > 0 and run_at(pending.length) > pending.length

    def fill(self, inputs: Tensors, longest: int) -> dict[str, Array]:
        """One request's inputs, those that are padded filled up to that length."""
        return {
            name: self._padded(name, [array], len(array), longest) if name in self.inputs else array
            for name, array in inputs.items()
        }

    def join(self, batch: Sequence[Pending], longest: int) -> dict[str, Array]:
        """The inputs of all requests, one after the other, each filled up to that length."""
        rows = sum(pending.rows for pending in batch)
        joined: dict[str, Array] = {}
        for name in batch[0].inputs:
            parts = [pending.inputs[name] for pending in batch]
            joined[name] = self._padded(name, parts, rows, longest) if name in self.inputs else np.concatenate(parts)
        return joined

    def _padded(self, name: str, parts: Sequence[Array], rows: int, longest: int) -> Array:
        axis, value = self.inputs[name]
        shape = list(parts[0].shape)
        shape[0], shape[axis] = rows, longest
        filled = np.full(shape, value, parts[0].dtype)
        first = 0
        for part in parts:
            here = filled[first : first + len(part)]
            here[(slice(None),) * axis + (slice(part.shape[axis]),)] = part
            first += len(part)
        return filled

    def alone(self, infer: Callable[[Tensors], dict[str, Array]], inputs: Tensors) -> dict[str, Array]:
        """One request's outputs, computed at the length at which it is run among others. Raises what `infer` does."""
        length = self.length(inputs)
        if length is None or (longest := run_at(length)) == length:
            return infer(inputs)
        outputs = infer(self.fill(inputs, longest))
        return {name: self.cut(name, array, longest, length) for name, array in outputs.items()}

    def cut(self, name: str, part: Array, longest: int, length: int) -> Array:
        """One request's rows of an output, without what follows from padding `length` up to `longest`."""
        for axis in self.outputs.get(name, ()) if length < longest else ():
            if part.shape[axis] == longest:
                part = part[(slice(None),) * axis + (slice(length),)]
        return part


def longest_of(batch: Sequence[Pending]) -> int:
    """The length at which the call of these requests is run; 0 where they are not padded."""
    longest = max([p.length for p in batch])
    return run_at(longest) if longest else 0


def wasted(batch: Sequence[Pending]) -> tuple[int, int]:
    """Padded positions and all positions (rows times length) of a call."""
    longest = longest_of(batch)
    rows = sum(p.rows for p in batch)
    return longest * rows - sum(p.rows * p.length for p in batch), longest * rows
