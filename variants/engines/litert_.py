"""LiteRT (TensorFlow Lite) on CPU: a `.tflite` file, served as it is.

A file made by litert-torch names its tensors by position (`args_0`, `output_0`), which is taken as such.
A graph of fixed shapes is resized to each call's shapes; where it cannot be, calls with other shapes fail. Names: a
declared tensor is the graph's tensor of that name, with or without TensorFlow's `serving_default_` and `:0`, or of the
signature's; a graph with one input (output) needs no names to agree.
Source: LiteRT 2.3 `ai_edge_litert.interpreter.Interpreter`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from variants.catalog import TensorSpec
from variants.engines.base import Array, LoadRequest, Residency, Tensors
from variants.engines.casting import cast, outputs_as_declared
from variants.errors import EngineFailed, EngineUnavailable


def load(request: LoadRequest) -> LiteRtEngine:
    """Allocate an interpreter with `request.threads` threads. Raises EngineUnavailable, EngineFailed."""
    return LiteRtEngine(request)


class LiteRtEngine:
    """One interpreter, which holds its inputs and outputs itself: calls run one after another."""

    def __init__(self, request: LoadRequest) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise EngineUnavailable(f"the litert engine needs the package ai-edge-litert: {error}") from error
        self._name = f"{request.model.name}/{request.variant.name}"
        self._model = request.model
        artefact = request.folder / request.variant.artefact
        self._lock = threading.Lock()
        try:
            interpreter = Interpreter(model_path=str(artefact), num_threads=request.threads)
            interpreter.allocate_tensors()
            signatures = interpreter.get_signature_list()
            runner = interpreter.get_signature_runner(next(iter(signatures))) if signatures else None
            self._inputs = _bind(
                request.model.inputs, interpreter.get_input_details(), runner and runner.get_input_details()
            )
            self._outputs = _bind(
                request.model.outputs, interpreter.get_output_details(), runner and runner.get_output_details()
            )
        except Exception as error:
            raise EngineFailed(f"{self._name}: litert cannot load {artefact.name}: {error}") from error
        self._interpreter: Any = interpreter
        self._bytes = artefact.stat().st_size

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """See `Engine.infer`."""
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise EngineFailed(f"{self._name}: the engine is closed")
            try:
                self._resize(interpreter, inputs)
                for name, index, dtype in self._inputs:
                    interpreter.set_tensor(index, np.ascontiguousarray(cast(inputs[name], dtype)))
                interpreter.invoke()
                raw = {name: interpreter.get_tensor(index) for name, index, _ in self._outputs}
            except Exception as error:
                raise EngineFailed(f"{self._name}: litert: {error}") from error
        return outputs_as_declared(raw, self._model.outputs)

    def _resize(self, interpreter: Any, inputs: Tensors) -> None:
        shapes = {d["index"]: tuple(d["shape"]) for d in interpreter.get_input_details()}
        changed = [
            (index, inputs[name].shape) for name, index, _ in self._inputs if inputs[name].shape != shapes[index]
        ]
        try:
            for index, shape in changed:
                interpreter.resize_tensor_input(index, shape)
            if changed:
                interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            wanted = ", ".join(f"{name}: {list(inputs[name].shape)}" for name, _, _ in self._inputs)
            raise ValueError(f"the file does not take inputs of these shapes ({wanted}): {error}") from error

    def resident(self) -> Residency:
        """See `Engine.resident`: the artefact's bytes."""
        return Residency(0 if self._interpreter is None else self._bytes)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._interpreter = None


def _bind(
    specs: Sequence[TensorSpec], details: Sequence[Any], signature: Any
) -> list[tuple[str, int, np.dtype[np.generic]]]:
    """Declared name, tensor index and dtype of each declared tensor. Raises ValueError for one that is not there."""
    by_name = {_plain(d["name"]): d for d in details}
    by_name |= signature or {}
    bound = []
    for place, spec in enumerate(specs):
        found = by_name.get(spec.name) or by_name.get(f"args_{place}") or by_name.get(f"output_{place}")
        found = found or (details[0] if len(specs) == len(details) == 1 else None)
        if found is None:
            raise ValueError(f"no tensor {spec.name!r} that model.yaml declares; there are {', '.join(by_name)}")
        index = next(d["index"] for d in details if d["name"] == found["name"] or d["index"] == found["index"])
        bound.append((spec.name, int(index), np.dtype(found["dtype"])))
    return bound


def _plain(name: str) -> str:
    return name.removeprefix("serving_default_").partition(":")[0]
