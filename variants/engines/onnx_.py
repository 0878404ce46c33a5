"""ONNX Runtime, on CPU or CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from variants.datatypes import NUMPY
from variants.engines.base import Array, LoadRequest, Residency, Tensors
from variants.engines.casting import cast, outputs_as_declared
from variants.errors import EngineFailed, EngineUnavailable

_TYPES = {"float": "FP32", "float16": "FP16", "bfloat16": "BF16", "double": "FP64", "bool": "BOOL", "string": "BYTES"}


def load(request: LoadRequest) -> OnnxEngine:
    """Open a session with `request.threads` threads. Raises EngineUnavailable, EngineFailed."""
    return OnnxEngine(request)


class OnnxEngine:
    """One session; ONNX Runtime allows concurrent `run` calls on it."""

    def __init__(self, request: LoadRequest) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(f"the onnx engine needs the package onnxruntime: {error}") from error
        self._name = f"{request.model.name}/{request.variant.name}"
        self._model = request.model
        artefact = request.folder / request.variant.artefact
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps what the largest batch once needed
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        if request.device.startswith("cuda"):
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise EngineUnavailable(f"{self._name}: this onnxruntime has no CUDA provider; install onnxruntime-gpu")
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(artefact), options, providers=providers)
            self._inputs = [(i.name, _numpy(i.type)) for i in self._session.get_inputs()]
            undeclared = {name for name, _ in self._inputs} - {spec.name for spec in request.model.inputs}
            if undeclared:
                raise ValueError(f"inputs {sorted(undeclared)} of the artefact are not declared in model.yaml")
        except Exception as error:
            raise EngineFailed(f"{self._name}: onnxruntime cannot load {artefact.name}: {error}") from error
        self._outputs = [spec.name for spec in request.model.outputs]
        self._bytes = sum((request.folder / name).stat().st_size for name in request.variant.files)

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `Engine.infer`."""
        session = self._session
        if session is None:
            raise EngineFailed(f"{self._name}: the engine is closed")
        try:
            feeds = {name: cast(inputs[name], dtype) for name, dtype in self._inputs}
            raw = dict(zip(self._outputs, session.run(self._outputs, feeds), strict=True))
        except Exception as error:
            raise EngineFailed(f"{self._name}: onnxruntime: {error}") from error
        return outputs_as_declared(raw, self._model.outputs)

    def resident(self) -> Residency:
        """See `Engine.resident`: the artefact's weights."""
        return Residency(0 if self._session is None else self._bytes)

    def close(self) -> None:
        """See `Engine.close`. A call still running keeps the session until it returns."""
        self._session = None


def _numpy(kind: str) -> np.dtype[np.generic]:
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return NUMPY[_TYPES[inner]] if inner in _TYPES else np.dtype(inner)
