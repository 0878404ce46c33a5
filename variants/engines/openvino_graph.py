"""Quantised embeddings stay quantised in OpenVINO's memory: rows are looked up in int8 and scaled after.

A dequantised table is a constant expression: compiling computes it and holds the whole table in floating point. Artefacts
keep it that way round, because TensorRT takes no int8 constant without a DequantizeLinear right behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Tables below this many bytes are left as they are.
SMALLEST = 64 << 10


def look_up_first(graph: Any) -> int:
    """Move dequantisation behind the lookup of rows, in place; returns how many lookups were changed. The results are
    the same to the last bit."""
    import openvino
    from openvino import opset13 as op

    changed = 0
    for node in graph.get_ordered_ops():
        found = _quantised_lookup(node)
        if found is None:
            continue
        table, scales = found
        ids, axis = node.input_value(1), op.constant(np.int64(0))
        rows = op.convert(op.gather(table, ids, axis), "f32")
        by_row = op.gather(op.constant(scales), ids, axis)
        openvino.utils.replace_node(node, op.multiply(rows, by_row))
        changed += 1
    return changed


def _quantised_lookup(node: Any) -> tuple[Any, Any] | None:
    """The int8 table and the scale of each row ([rows, 1]) of a Gather along axis 0, if that is what a node is."""
    if node.get_type_name() != "Gather" or _scalar(node.input_value(2)) != 0:
        return None
    multiply = node.input_value(0).get_node()
    if multiply.get_type_name() != "Multiply":
        return None
    inner, scale = multiply.input_value(0).get_node(), _constant(multiply.input_value(1).get_node())
    if inner.get_type_name() == "Subtract":
        zero = _constant(inner.input_value(1).get_node())
        if zero is None or np.any(zero):
            return None
        inner = inner.input_value(0).get_node()
    if inner.get_type_name() != "Convert" or scale is None:
        return None
    table = inner.input_value(0).get_node()
    if table.get_type_name() != "Constant" or table.get_element_type().get_type_name() != "i8":
        return None
    shape, scales = tuple(table.get_output_shape(0)), np.asarray(scale, np.float32).reshape(-1)
    if len(shape) != 2 or np.prod(shape) < SMALLEST or scales.size not in (1, shape[0]):
        return None
    return table, np.resize(scales, (shape[0], 1))


def _constant(node: Any) -> Any:
    """A constant's values, seen through conversions and reshapes; None for what is not constant."""
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None


def _scalar(value: Any) -> int | None:
    node = value.get_node()
    return int(node.get_data().reshape(-1)[0]) if node.get_type_name() == "Constant" else None
