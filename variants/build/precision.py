"""fp16 and bf16 as typed graphs, and bf16 as a hint to OpenVINO.

A typed graph carries its precision itself (TensorRT is strongly typed), keeps the declared dtypes at its inputs and
outputs, and leaves in fp32 what would overflow: found by comparing every layer's output in both precisions on calibration
data.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from variants.build.accuracy import layer_outputs
from variants.build.context import Context, Draft
from variants.build.export import ARTEFACT
from variants.catalog import Variant
from variants.data import batches
from variants.engines.base import Array
from variants.errors import BuildError

FP16_MAX = 65504.0
#: A layer whose fp32 output goes beyond this share of fp16's range on calibration data stays in fp32.
HEADROOM = 0.5
PROBES = 8
ROUNDS = 4
#: Ops whose floating-point inputs must be fp32 by the ONNX standard, or that lose too much below it.
KEEP = frozenset({"Resize", "Upsample", "Range", "RandomNormal", "RandomUniform", "NonMaxSuppression", "CumSum"})


def bf16_hint(context: Context, parent: Variant | None) -> Draft:
    """The parent's artefact executed in bf16 by OpenVINO where the CPU has it: faster, but with the same memory. Of an int8
    parent, what is not quantised."""
    source = context.parent_file(parent)
    lineage = context.lineage(parent, "bf16-hint", 0, ("openvino",))
    record = Variant(
        name=context.name,
        engine="openvino",
        precision="bf16" if parent is None or parent.precision != "int8" else "int8",
        artefact=ARTEFACT,
        lineage=lineage,
        options={**(parent.options if parent else {}), "inference_precision": "bf16"},
        tolerance=0.05,
    )
    return Draft(record, lambda folder: _copy(source, folder / ARTEFACT))


def fp16(context: Context, parent: Variant | None) -> Draft:
    """A typed fp16 graph. Raises BuildError without an ONNX parent or calibration data."""
    return _typed(context, parent, "fp16")


def bf16(context: Context, parent: Variant | None) -> Draft:
    """A typed bf16 graph. bf16 has fp32's range, so nothing overflows."""
    return _typed(context, parent, "bf16")


def _typed(context: Context, parent: Variant | None, precision: str) -> Draft:
    import onnx

    source = context.parent_file(parent)
    graph = onnx.load(source)
    kept: list[str] = []
    samples = 0
    if precision == "fp16":
        probes = batches(context.model, context.calibration, 1)[:PROBES]
        samples = len(probes)
        kept = overflowing(graph, probes)
        graph = _until_finite(context, graph, probes, kept)
    else:
        to_precision(graph, precision, frozenset())
    onnx.checker.check_model(graph)
    lineage = context.lineage(parent, precision, samples, ("onnx",), kept_in_fp32=kept)
    # ONNX Runtime and OpenVINO both take typed graphs on CPU; OpenVINO has bf16 and fp16 kernels or converts once.
    record = Variant(
        name=context.name,
        engine="openvino",
        precision="fp16" if precision == "fp16" else "bf16",
        artefact=ARTEFACT,
        lineage=lineage,
        tolerance=0.05,
    )
    return Draft(record, lambda folder: onnx.save(graph, folder / ARTEFACT))


def overflowing(model: Any, probes: list[dict[str, Array]]) -> list[str]:
    """Names of the nodes whose floating-point outputs leave the safe fp16 range on the probes."""
    peak: dict[str, float] = {}
    for values in layer_outputs(model, probes):
        for name, value in values.items():
            finite = value[np.isfinite(value) & (np.abs(value) < np.finfo(np.float32).max / 2)]
            peak[name] = max(peak.get(name, 0.0), float(np.abs(finite).max()) if finite.size else 0.0)
    return [n.name for n in model.graph.node if any(peak.get(o, 0.0) > HEADROOM * FP16_MAX for o in n.output)]


def _until_finite(context: Context, graph: Any, probes: list[dict[str, Array]], kept: list[str]) -> Any:
    """The graph in fp16. Its layers are compared with fp32's on the probes: a node that makes a value infinite or NaN
    where fp32's is finite (a sum inside an op may overflow though its result does not) joins `kept`, and again."""
    import onnx

    expected = layer_outputs(graph, probes)
    for _ in range(ROUNDS):
        typed = onnx.ModelProto()
        typed.CopyFrom(graph)
        to_precision(typed, "fp16", frozenset(kept))
        bad: set[str] = set()
        for values, wanted in zip(layer_outputs(typed, probes), expected, strict=True):
            broken = {
                name.removesuffix("__typed")
                for name, value in values.items()
                if not np.isfinite(value).all() and np.isfinite(wanted.get(name.removesuffix("__typed"), np.nan)).all()
            }
            # Only where it starts: what follows is not to blame.
            bad |= {
                n.name for n in graph.graph.node if broken.intersection(n.output) and not broken.intersection(n.input)
            }
        new = sorted(bad - set(kept))
        if not new:
            return typed
        kept.extend(new)
    raise BuildError(
        f"{context.model.name}: {context.name}: layers {', '.join(kept[-3:])} overflow in fp16 again and again; use bf16"
    )


def to_precision(model: Any, precision: str, keep: frozenset[str]) -> None:
    """Retype a graph in place: floating-point initialisers, constants and casts to fp32 become `precision`; declared
    inputs and outputs stay fp32 behind casts; nodes named in `keep` and ops in `KEEP` compute in fp32."""
    from onnx import TensorProto, helper

    target = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    graph = model.graph
    floats = _float_values(model)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_retype(tensor, target))
    renamed: dict[str, str] = {}
    head, body, tail = [], [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f"{value.name}__typed"
            head.append(
                helper.make_node("Cast", [value.name], [renamed[value.name]], to=target, name=f"cast_{value.name}")
            )
    outputs = {v.name: f"{v.name}__typed" for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in graph.node:
        _retype_attributes(node, target)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
        node.input[:] = [outputs.get(name, name) for name in node.input]
        if node.name not in keep and node.op_type not in KEEP:
            body.append(node)
            continue
        body.extend(_in_fp32(node, floats | set(renamed.values()) | set(outputs.values()), target))
    tail = [
        helper.make_node("Cast", [inner], [name], to=TensorProto.FLOAT, name=f"cast_{name}")
        for name, inner in outputs.items()
    ]
    del graph.value_info[:]
    nodes = [*head, *body, *tail]
    del graph.node[:]
    graph.node.extend(nodes)


def _in_fp32(node: Any, floats: set[str], target: int) -> list[Any]:
    """A node that stays in fp32, between casts."""
    from onnx import NodeProto, TensorProto, helper

    copy = NodeProto()
    copy.CopyFrom(node)
    before, after = [], []
    for index, name in enumerate(node.input):
        if name in floats:
            inner = f"{node.name}__in{index}"
            before.append(helper.make_node("Cast", [name], [inner], to=TensorProto.FLOAT, name=f"{inner}_cast"))
            copy.input[index] = inner
    for index, name in enumerate(node.output):
        if name in floats:
            inner = f"{node.name}__out{index}"
            after.append(helper.make_node("Cast", [inner], [name], to=target, name=f"{inner}_cast"))
            copy.output[index] = inner
    return [*before, copy, *after]


def _float_values(model: Any) -> set[str]:
    """Names of all fp32 tensors of the graph, by ONNX shape and type inference."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    names = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return names | {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def _retype(tensor: Any, target: int) -> Any:
    import ml_dtypes
    from onnx import TensorProto, numpy_helper

    array = numpy_helper.to_array(tensor)
    if target == TensorProto.FLOAT16:
        return numpy_helper.from_array(np.clip(array, -FP16_MAX, FP16_MAX).astype(np.float16), tensor.name)
    return numpy_helper.from_array(array.astype(ml_dtypes.bfloat16), tensor.name)


def _retype_attributes(node: Any, target: int) -> None:
    from onnx import TensorProto

    for attribute in node.attribute:
        if attribute.name == "to" and node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
            attribute.i = target
        elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_retype(attribute.t, target))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
