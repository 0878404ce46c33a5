"""Where a graph's weights are: in embeddings, matrices, convolutions or elsewhere, and how many of them int4 can group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from variants.build.weights import SMALLEST_GROUP

KINDS = {"Gather": "embeddings", "MatMul": "matrices", "Gemm": "matrices", "Conv": "convolutions"}


@dataclass
class Weights:
    """Weights by what uses them, and how many lie in matrices that can be stored in int4."""

    kinds: dict[str, int] = field(
        default_factory=lambda: {"embeddings": 0, "matrices": 0, "convolutions": 0, "other": 0}
    )
    groupable: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.kinds.values())

    def share(self, *kinds: str) -> float:
        """How much of all weights those of some kinds are."""
        return sum(self.kinds[k] for k in kinds) / max(1, self.total)


def weigh(path: Path) -> Weights:
    """Count the weights of an ONNX file; what is no ONNX file has none that are known."""
    import onnx

    found = Weights()
    if path.suffix != ".onnx":
        return found
    graph = onnx.load(path).graph
    shapes = dict(_constants(graph))
    for node in graph.node:
        for place, name in enumerate(node.input):
            shape = shapes.pop(name, None)
            if shape is None:
                continue
            size = int(np.prod(shape))
            found.kinds[KINDS.get(node.op_type, "other")] += size
            inner = _inner(node, place, shape)
            found.groupable += size if inner and inner % SMALLEST_GROUP == 0 else 0
    return found


def _constants(graph: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Floating-point constants, as initialisers or as nodes."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    tensors = [(t.name, t) for t in graph.initializer]
    tensors += [
        (n.output[0], a.t) for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    ]
    return ((name, tuple(t.dims)) for name, t in tensors if t.data_type in floats)


def _inner(node: Any, place: int, shape: tuple[int, ...]) -> int:
    """The length of the axis along which a matrix is summed over (an embedding: of a row); 0 for what is no matrix."""
    if len(shape) != 2 or node.op_type not in KINDS:
        return 0
    if node.op_type == "Gather":
        return shape[1] if place == 0 else 0
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return shape[1 if transposed else 0] if place == 1 else 0
    return shape[0] if place == 1 else 0
