"""What TensorRT demands of quantised graphs: signed, symmetric, zero point 0, no quantised bias.

NNCF quantises some non-negative activations to uint8 with zero point 0. Rescaled to int8 (scale x 255/127, zero point
int8 0) they cover the same range with half the steps. Source: TensorRT documentation, "Explicit Quantization".
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTIZE = ("QuantizeLinear", "DequantizeLinear")


def legalize(model: Any) -> int:
    """Rewrite a quantised ONNX graph in place; returns how many scales were changed. Weights are not touched: NNCF's
    are signed and symmetric already."""
    from onnx import numpy_helper

    graph = model.graph
    initializers = {t.name: t for t in graph.initializer}
    changed: set[str] = set()
    for node in graph.node:
        if node.op_type not in QUANTIZE or len(node.input) < 3 or node.input[0] in initializers:
            continue
        zero = initializers.get(node.input[2])
        if zero is None:
            continue
        points = numpy_helper.to_array(zero)
        if points.dtype != np.uint8 or np.any(points != 0):
            continue
        scale_name, zero_name = f"{node.input[1]}__signed", f"{node.input[2]}__signed"
        if scale_name not in changed:
            scale = numpy_helper.to_array(initializers[node.input[1]])
            graph.initializer.append(numpy_helper.from_array((scale * (255.0 / 127.0)).astype(scale.dtype), scale_name))
            changed.add(scale_name)
        if zero_name not in changed:
            graph.initializer.append(numpy_helper.from_array(np.zeros(points.shape, np.int8), zero_name))
            changed.add(zero_name)
        node.input[1], node.input[2] = scale_name, zero_name
    _drop_unused(graph)
    _forget_types(graph)
    return sum(name.endswith("__signed") for name in changed) // 2


def check_legal(model: Any) -> list[str]:
    """What is illegal for TensorRT in a quantised graph, one line for each place; empty when all is well."""
    from onnx import TensorProto, numpy_helper

    initializers = {t.name: t for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in QUANTIZE:
            continue
        if len(node.input) > 2 and node.input[2] in initializers:
            zero = numpy_helper.to_array(initializers[node.input[2]])
            if zero.dtype != np.int8:
                found.append(f"{node.name}: zero point is {zero.dtype}, must be int8")
            elif np.any(zero != 0):
                found.append(f"{node.name}: zero point is not 0 (asymmetric)")
        source = initializers.get(node.input[0])
        if source is not None and source.data_type == TensorProto.INT32:
            found.append(f"{node.name}: quantised bias")
    return found


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _forget_types(graph: Any) -> None:
    """Drop the recorded types of quantised tensors, which were uint8."""
    quantised = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    kept = [v for v in graph.value_info if v.name not in quantised]
    del graph.value_info[:]
    graph.value_info.extend(kept)
