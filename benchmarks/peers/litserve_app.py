"""LitServe: one API per model. `python -m benchmarks.peers.litserve_app HTTP`."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from benchmarks.peers.engine import Engine, decode, encode, models


class Api(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: dict[str, Any], **options: Any) -> None:
        super().__init__(api_path=f"/v2/models/{model['name']}/infer", **options)
        self._model = model

    def setup(self, device: str) -> None:
        self._engine = Engine(self._model)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # what is annotated here, FastAPI would check
        return decode(request)

    def predict(self, inputs: Any) -> Any:
        return self._engine(inputs)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return encode(output)


class Batching(Api):
    """For a model that joins requests of unequal length."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__(model, max_batch_size=model["max_batch"], batch_timeout=0.002)  # at 0 its workers never sleep

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._engine.together(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


if __name__ == "__main__":
    apis = [Batching(model) if model["pad"] else Api(model) for model in models()]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
