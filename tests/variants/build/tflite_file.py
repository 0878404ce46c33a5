"""A LiteRT file written by hand: one fully connected layer. Source: TensorFlow's schema.fbs, version 3."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np

FULLY_CONNECTED, OPTIONS = 9, 8


def fully_connected(weights: np.ndarray, bias: np.ndarray) -> bytes:
    """x [n, in] -> y [n, out] = x @ weights.T + bias, as the bytes of a `.tflite` file."""
    b = flatbuffers.Builder(1024)
    out, inside = weights.shape
    buffers = [table(b, (0, "vector", None)), table(b, (0, "bytes", weights)), table(b, (0, "bytes", bias))]
    tensors = [
        tensor(b, "serving_default_x:0", [1, inside], 0, [-1, inside]),
        tensor(b, "w", [out, inside], 1, None),
        tensor(b, "b", [out], 2, None),
        tensor(b, "StatefulPartitionedCall:0", [1, out], 0, [-1, out]),
    ]
    options = table(b)
    operator = table(
        b,
        (0, "uint", 0),
        (1, "vector", ints(b, [0, 1, 2])),
        (2, "vector", ints(b, [3])),
        (3, "ubyte", OPTIONS),
        (4, "vector", options),
    )
    graph = table(
        b,
        (0, "vector", offsets(b, tensors)),
        (1, "vector", ints(b, [0])),
        (2, "vector", ints(b, [3])),
        (3, "vector", offsets(b, [operator])),
    )
    code = table(b, (0, "byte", FULLY_CONNECTED), (2, "int", 1), (3, "int", FULLY_CONNECTED))
    model = table(
        b,
        (0, "uint", 3),
        (1, "vector", offsets(b, [code])),
        (2, "vector", offsets(b, [graph])),
        (4, "vector", offsets(b, buffers)),
    )
    b.Finish(model, b"TFL3")
    return bytes(b.Output())


def tensor(b: Any, name: str, shape: list[int], buffer: int, signature: list[int] | None) -> int:
    fields = [(0, "vector", ints(b, shape)), (1, "byte", 0), (2, "uint", buffer), (3, "vector", b.CreateString(name))]
    if signature:
        fields.append((7, "vector", ints(b, signature)))
    return table(b, *fields)


def table(b: Any, *fields: tuple[int, str, Any]) -> int:
    made = [
        (slot, kind, b.CreateByteVector(value.tobytes()) if kind == "bytes" else value) for slot, kind, value in fields
    ]
    b.StartObject(9)
    for slot, kind, value in made:
        if value is None:
            continue
        match kind:
            case "vector" | "bytes":
                b.PrependUOffsetTRelativeSlot(slot, value, 0)
            case "uint":
                b.PrependUint32Slot(slot, value, 0)
            case "int":
                b.PrependInt32Slot(slot, value, 0)
            case "byte":
                b.PrependInt8Slot(slot, value, 0)
            case "ubyte":
                b.PrependUint8Slot(slot, value, 0)
    return int(b.EndObject())


def ints(b: Any, values: list[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependInt32(value)
    return int(b.EndVector())


def offsets(b: Any, values: list[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return int(b.EndVector())
