"""KServe's own clients, REST and gRPC, against a server with the models of `tests/server/protocol_server.py`.

Usage: kserve_client.py HTTP_PORT GRPC_PORT, in an environment with `kserve`. Prints one JSON object: check -> "" or what
went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

HTTP, GRPC = f"http://127.0.0.1:{sys.argv[1]}", f"127.0.0.1:{sys.argv[2]}"
SAMPLES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT64": np.array([[0, 2**63]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[1.5, -0.25]], np.float16),
    "FP32": np.array([[1.5, -2.25]], np.float32),
    "FP64": np.array([[1.1, -2.2]], np.float64),
    "BYTES": np.array([[b"text", b""]], np.object_),
}


def request(datatype: str, binary: bool) -> Any:
    sample = SAMPLES[datatype]
    tensor = InferInput("x", list(sample.shape), datatype)
    tensor.set_data_from_numpy(sample, binary_data=binary)
    parameters = {"binary_data_output": True} if binary else {}
    return InferRequest(f"echo_{datatype}", [tensor], request_id="k-1", parameters=parameters)


def check(answer: Any, datatype: str) -> None:
    assert answer.id == "k-1", answer.id
    assert answer.model_name == f"echo_{datatype}"
    got = answer.outputs[0].as_numpy()
    want = SAMPLES[datatype]
    if datatype == "BYTES":
        got = np.array([v if isinstance(v, bytes) else str(v).encode() for v in got.reshape(-1)], np.object_)
        want = want.reshape(-1)
    assert np.array_equal(got, want), (datatype, got)


async def rest() -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(HTTP)
    assert await client.is_server_ready(HTTP)
    assert await client.is_model_ready(HTTP, "pair")
    for datatype in SAMPLES:
        for binary in (False, True):
            if datatype == "FP16" and not binary:
                continue
            answer = await client.infer(HTTP, request(datatype, binary), model_name=f"echo_{datatype}")
            check(answer, datatype)
    status = 200
    try:
        await client.infer(HTTP, InferRequest("nobody", request("FP32", False).inputs), model_name="nobody")
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
    assert status == 404, status


async def rpc() -> None:
    client = InferenceGRPCClient(GRPC)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("pair")
    for datatype in SAMPLES:
        check(await client.infer(request(datatype, True)), datatype)
    check(await client.infer(request("FP32", False)), "FP32")
    await client.close()


async def main() -> None:
    results: dict[str, str] = {}
    checks: dict[str, Callable[[], Awaitable[None]]] = {"kserve REST": rest, "kserve gRPC": rpc}
    for name, function in checks.items():
        try:
            await function()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


asyncio.run(main())
