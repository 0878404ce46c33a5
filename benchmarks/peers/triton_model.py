"""Triton's Python backend: `model.py` of every model in the repository that `benchmarks.servers` writes."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb

from benchmarks.peers.engine import Engine, models


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        self._model = next(model for model in models() if model["name"] == args["model_name"])
        self._engine = Engine(self._model)

    def execute(self, requests: list[Any]) -> list[Any]:
        names = [spec["name"] for spec in self._model["inputs"]]
        taken = [
            {name: pb.get_input_tensor_by_name(request, name).as_numpy() for name in names} for request in requests
        ]
        return [
            pb.InferenceResponse([pb.Tensor(name, array) for name, array in outputs.items()])
            for outputs in self._engine.together(taken)
        ]
