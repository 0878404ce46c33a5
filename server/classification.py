"""The classification extension: an output's largest values as text, `value:index` or `value:index:label`.

Source: Triton, "Classification Extension". Values are written as Triton writes them: six decimals, integers as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from variants.catalog import TensorSpec
from variants.datatypes import NUMPY
from variants.engines.base import Array
from variants.errors import InvalidInput

DATATYPES = tuple(name for name in NUMPY if name.startswith(("INT", "UINT")) or name in ("FP32", "FP64"))


def wanted(parameters: Any, spec: TensorSpec) -> int:
    """How many classes an output's parameters ask for; 0: the output as it is. Raises InvalidInput."""
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(f"output {spec.name!r}: classification {count!r} must be a number of classes, 0 or more")
    if count and spec.datatype not in DATATYPES:
        raise InvalidInput(
            f"output {spec.name!r}: {spec.datatype} values have no classes; classification takes {', '.join(DATATYPES)}"
        )
    return count


def classify(array: Array, spec: TensorSpec, count: int, *, batched: bool) -> Array:
    """The `count` largest values of each row (of the whole array unless `batched`) as BYTES, largest first, equal ones in
    their order, NaN last. Fewer where there are fewer."""
    rows = array.reshape(array.shape[0], -1) if batched and array.size else array.reshape(1, -1)
    # A stable sort from the back, turned round, keeps equal values in their order; numpy sorts NaN behind all others.
    columns = rows.shape[1]
    order = columns - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    if rows.dtype.kind == "f":
        missing = np.take_along_axis(np.isnan(rows), order, axis=1)
        order = np.take_along_axis(order, np.argsort(missing, axis=1, kind="stable"), axis=1)
    order = order[:, :count]
    made = np.empty(order.shape, dtype=np.object_)
    for row, indices in enumerate(order.tolist()):
        for position, index in enumerate(indices):
            made[row, position] = _text(rows[row, index], index, spec.labels)
    return made if batched else made.reshape(-1)


def _text(value: Any, index: int, labels: tuple[str, ...]) -> bytes:
    number = f"{value:.6f}" if isinstance(value, np.floating) else str(value)
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{number}:{index}{label}".encode()
