"""Plain Ray Serve: its default proxy, one deployment per model. `python -m benchmarks.peers.ray_app HTTP GRPC`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.engine import NUMPY, Engine, decode, encode, models


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.05})
class Model:
    def __init__(self, model: dict[str, Any]) -> None:
        self._engine = Engine(model)
        self._batches = bool(model["pad"])
        self._together.set_max_batch_size(model["max_batch"])  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.0)
    async def _together(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._engine.together, requests)

    async def _answer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self._batches:
            return dict(await self._together(inputs))  # type: ignore[arg-type]  # the decorator takes one
        return self._engine(inputs)  # too short a call to be worth a thread

    async def __call__(self, request: Request) -> dict[str, Any]:
        return encode(await self._answer(decode(await request.json())))

    async def ModelInfer(self, request: Any) -> Any:
        from protos import open_inference_pb2 as pb

        inputs = {
            tensor.name: np.frombuffer(raw, NUMPY[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        for name, array in (await self._answer(inputs)).items():
            response.outputs.add(name=name, datatype="FP32", shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


def main() -> None:
    http, grpc = int(sys.argv[1]), int(sys.argv[2])
    stop = threading.Event()
    ray.init(address="local", num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": http},
        grpc_options={
            "port": grpc,
            "grpc_servicer_functions": [
                "protos.open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server",
            ],
        },
    )
    for model in models():
        name = model["name"]
        serve.run(Model.bind(model), name=name, route_prefix=f"/v2/models/{name}/infer")  # type: ignore[attr-defined]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
