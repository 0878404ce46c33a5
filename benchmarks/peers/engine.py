"""What every peer runs inside: the same file in the same OpenVINO with the same properties as trimtab's engine.

Only numpy and openvino are imported: this runs in each peer's environment.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NUMPY = {"FP32": np.float32, "INT64": np.int64}
V2 = {np.dtype(kind): name for name, kind in NUMPY.items()}
#: Names the file that describes the models to serve (`benchmarks.models.describe`), for peers that take no arguments.
MODELS = "TRIMTAB_BENCHMARK_MODELS"
GRAPH = Path(__file__).parents[2] / "variants" / "engines" / "openvino_graph.py"


def models(path: str | None = None) -> list[dict[str, Any]]:
    """The models to serve."""
    return list(json.loads(Path(path or os.environ[MODELS]).read_text(encoding="utf-8")))


def _look_up_first(graph: Any) -> None:
    """trimtab's change to quantised embeddings, so that all run the same graph; loaded by its file: the package around it
    needs more than a peer has."""
    spec = importlib.util.spec_from_file_location("openvino_graph", GRAPH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.look_up_first(graph)


class Engine:
    """One model. Calls may come from any thread, one runs at a time."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would fork and call home
        import openvino

        core = openvino.Core()
        graph = core.read_model(model["artefact"])
        if model["precision"] == "int8":
            _look_up_first(graph)
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": model["threads"],
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(graph, "CPU", properties)
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()
        self._inputs = {spec["name"]: NUMPY[spec["datatype"]] for spec in model["inputs"]}
        names = [port.get_names() for port in compiled.outputs]
        self._outputs = [
            (spec["name"], next(i for i, known in enumerate(names) if spec["name"] in known))
            for spec in model["outputs"]
        ]
        self.max_batch = int(model["max_batch"])
        self.pads = dict(model["pad"])

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call."""
        with self._lock:
            self._request.infer({name: inputs[name] for name in self._inputs}, share_inputs=True)
            return {name: self._request.get_output_tensor(index).data.copy() for name, index in self._outputs}

    def together(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One call for several requests, each filled up to the longest."""
        if len(requests) == 1:
            return [self(requests[0])]
        joined = {}
        for name in self._inputs:
            parts = [request[name] for request in requests]
            if name in self.pads:
                longest = max(part.shape[1] for part in parts)
                filled = np.full((len(parts), longest), self.pads[name], parts[0].dtype)
                for row, part in enumerate(parts):
                    filled[row, : part.shape[1]] = part[0]
                joined[name] = filled
            else:
                joined[name] = np.concatenate(parts)
        outputs = self(joined)
        starts = np.cumsum([0, *(len(next(iter(request.values()))) for request in requests)])
        return [
            {name: array[start:stop] for name, array in outputs.items()} for start, stop in itertools.pairwise(starts)
        ]


def decode(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a request of the Open Inference Protocol in JSON."""
    return {
        tensor["name"]: np.array(tensor["data"], NUMPY[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in body["inputs"]
    }


def encode(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to it."""
    return {
        "outputs": [
            {"name": name, "datatype": V2[array.dtype], "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in outputs.items()
        ]
    }
