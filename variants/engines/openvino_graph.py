"""What OpenVINO executes better in another form, in its own copy of a quantised graph.

Quantised embeddings stay quantised in memory: rows are looked up in int8 and scaled after. A dequantised table is a constant
expression: compiling computes it and holds the whole table in floating point. Artefacts keep it that way round, because
TensorRT takes no int8 constant without a DequantizeLinear right behind it.

A layer normalisation whose result is smoothed before it is quantised is scaled once for both: a pass over the activations
less (docs/decisions/int8-passes.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Tables below this many bytes are left as they are.
SMALLEST = 64 << 10


def rearrange(graph: Any) -> None:
    """All that is said above, in place, to a graph as it was read from a quantised artefact."""
    look_up_first(graph)
    smooth_once(graph)


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


def smooth_once(graph: Any) -> int:
    """Fold the factors that smooth a normalised tensor before it is quantised into the normalisation's own scale and shift, in
    place; returns how many were folded. The results are the same but for rounding.

    The unsmoothed tensor has another reader, a residual sum: with the factors gone it is the only one, and the engine
    scales and shifts as part of that sum.
    """
    import openvino
    from openvino import opset13 as op

    changed = 0
    for node in graph.get_ordered_ops():
        found = _scaled_and_shifted(node)
        if found is None:
            continue
        scale, shift, result = found
        readers = [target.get_node() for target in result.output(0).get_target_inputs()]
        factors = [(reader, _factor(reader, result)) for reader in readers]
        smoothed = [(reader, factor) for reader, factor in factors if factor is not None]
        if len(readers) - len(smoothed) > 1:
            continue
        for reader, factor in smoothed:
            scaled = op.multiply(node.output(0), op.constant(np.asarray(scale * factor, np.float32)))
            folded = op.add(scaled, op.constant(np.asarray(shift * factor, np.float32)))
            openvino.utils.replace_node(reader, folded)
            changed += 1
    return changed


def _scaled_and_shifted(node: Any) -> tuple[Any, Any, Any] | None:
    """Scale, shift, and the node with the result, if a node is the inner part of a layer normalisation."""
    if node.get_type_name() != "MVN":
        return None
    values = []
    for kind in ("Multiply", "Add"):
        targets = list(node.output(0).get_target_inputs())
        if len(targets) != 1 or targets[0].get_node().get_type_name() != kind:
            return None
        below, node = node, targets[0].get_node()
        values.append(_other(node, below))
    if any(value is None for value in values):
        return None
    return values[0], values[1], node


def _factor(reader: Any, source: Any) -> Any:
    """The constant by which a node multiplies what it reads; None for other nodes."""
    return _other(reader, source) if reader.get_type_name() == "Multiply" else None


def _other(node: Any, one: Any) -> Any:
    """The values of the input of a binary node that is not `one`, if they are constant."""
    inner = [v.get_node() for v in node.input_values()]
    rest = [n for n in inner if n.get_name() != one.get_name()]
    return _constant(rest[0]) if len(rest) == 1 else None


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
