"""Accuracy-aware quantisation: where int8 misses its tolerance, the layers that hurt most go back to floating point.

A layer is put back by giving its node the original inputs again, which removes the quantisers in front of it, and its bias
the original values: the quantiser shifted them against an error that is gone then. Every layer's harm is measured by
putting it alone back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from variants.catalog import Model
from variants.engines.base import Array
from variants.quality import concatenate, distance

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
#: Samples on which layers are compared.
PROBES = 32


def put_back(
    model: Model,
    original: Any,
    quantised: Any,
    samples: list[dict[str, Array]],
    tolerance: float,
    report: Callable[[float], None],
) -> tuple[list[str], float]:
    """Put the worst layers of a quantised graph back, in place, until its outputs are within `tolerance` of the original's
    on the samples; returns their names, worst first, and the distance reached. All layers back is the last resort."""
    names = [spec.name for spec in model.outputs]
    probes = samples[:PROBES]
    expected = outputs(original, probes, names)

    def apart(graph: Any) -> float:
        return distance(model.metric, outputs(graph, probes, names), expected)

    reached = apart(quantised)
    if reached <= tolerance:
        return [], reached
    layers = quantised_layers(quantised)
    gains = []
    for index, layer in enumerate(layers):
        gains.append((reached - apart(restored(original, quantised, [layer])), layer))
        report((index + 1) / (len(layers) + 1))
    ordered = [layer for _, layer in sorted(gains, key=lambda pair: (-pair[0], pair[1]))]
    step = max(1, len(ordered) // 12)
    best = quantised
    for count in [*range(1, 4), *range(4, len(ordered), step), len(ordered)]:
        best = restored(original, quantised, ordered[:count])
        reached = apart(best)
        if reached <= tolerance:
            break
    quantised.CopyFrom(best)
    return ordered[: min(count, len(ordered))], reached


def outputs(graph: Any, samples: list[dict[str, Array]], names: list[str]) -> dict[str, Array]:
    """A graph's outputs on samples, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return concatenate([dict(zip(names, session.run(names, s), strict=True)) for s in samples])


def quantised_layers(graph: Any) -> list[str]:
    """Names of the layers with a dequantised input."""
    dequantised = {n.output[0] for n in graph.graph.node if n.op_type == "DequantizeLinear"}
    return [n.name for n in graph.graph.node if n.op_type not in QUANTISERS and dequantised.intersection(n.input)]


def restored(original: Any, quantised: Any, layers: list[str]) -> Any:
    """A copy of the quantised graph in which these layers have the inputs that they had in the original."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(quantised)
    graph = made.graph
    before = {n.name: n for n in original.graph.node}
    constants = {t.name: t for t in original.graph.initializer}
    there = {t.name: t for t in graph.initializer}
    tensors = {name for n in graph.node for name in n.output} | {v.name for v in graph.input}
    back = {n.name for n in graph.node if n.name in layers and n.name in before}
    # A bias may be an Add of its own behind the layer: its constants are the layer's.
    behind = {name for n in graph.node if n.name in back for name in n.output}
    for node in graph.node:
        if node.name not in before:
            continue
        whole = node.name in back
        if not whole and not (node.op_type == "Add" and behind.intersection(node.input)):
            continue
        for index, name in enumerate(before[node.name].input):
            if name in constants:
                if whole or node.input[index] == name:
                    node.input[index] = _original(constants[name], graph, there)
            elif whole and name in tensors:
                node.input[index] = name
    _drop_dead(graph)
    return made


def _original(constant: Any, graph: Any, there: dict[str, Any]) -> str:
    """The name of a constant of the original graph in the quantised one, to which it is added where it is gone or has
    other values (another node may use those)."""
    import onnx

    name = str(constant.name)
    if name in there and there[name].SerializeToString() != constant.SerializeToString():
        changed = onnx.numpy_helper.to_array(there[name])
        if not np.array_equal(changed, onnx.numpy_helper.to_array(constant)):
            name = f"{name}__original"
    if name not in there:
        kept = onnx.TensorProto()
        kept.CopyFrom(constant)
        kept.name = name
        graph.initializer.append(kept)
        there[name] = kept
    return name


def _drop_dead(graph: Any) -> None:
    """Remove nodes whose outputs nobody uses, and constants left over."""
    while True:
        used = {name for n in graph.node for name in n.input} | {v.name for v in graph.output}
        dead = [n for n in graph.node if not used.intersection(n.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def layer_outputs(graph: Any, samples: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """Every floating-point tensor inside a graph on each sample, by ONNX Runtime without its optimisations."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    known = {v.name for v in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name]
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = []
    for inputs in samples:
        values = zip(names, session.run(names, inputs), strict=True)
        found.append({n: v for n, v in values if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.size})
    return found
