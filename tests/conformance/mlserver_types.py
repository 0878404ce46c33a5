"""MLServer's client types and codecs against a server with the models of `tests/server/protocol_server.py`.

Usage: mlserver_types.py HTTP_PORT GRPC_PORT, in an environment with `mlserver`. Prints one JSON object: check -> "" or what
went wrong.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable

import grpc
import httpx
import numpy as np
from mlserver import types
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import converters, dataplane_pb2, dataplane_pb2_grpc

HTTP, GRPC = f"http://127.0.0.1:{sys.argv[1]}", f"127.0.0.1:{sys.argv[2]}"
X = np.array([[1.5, -2.5], [3.0, 4.0]], np.float32)


def request() -> types.InferenceRequest:
    return types.InferenceRequest(id="m-1", inputs=[NumpyCodec.encode_input("x", X)])


def rest() -> None:
    with httpx.Client(base_url=HTTP, trust_env=False) as client:
        body = request().model_dump_json(exclude_none=True)
        answer = types.InferenceResponse.model_validate_json(
            client.post("/v2/models/echo_FP32/infer", content=body).content
        )
        assert (answer.id, answer.model_name, answer.model_version) == ("m-1", "echo_FP32", "1")
        assert np.array_equal(NumpyCodec.decode_output(answer.outputs[0]), X)
        texts = types.InferenceRequest(inputs=[StringCodec.encode_input("x", ["text", "grüß"])])
        texts.inputs[0].shape = types.Shape(root=[1, 2]) if hasattr(types, "Shape") else [1, 2]
        raw = client.post("/v2/models/echo_BYTES/infer", content=texts.model_dump_json(exclude_none=True))
        answer = types.InferenceResponse.model_validate_json(raw.content)
        assert StringCodec.decode_output(answer.outputs[0]) == ["text", "grüß"]
        types.MetadataServerResponse.model_validate_json(client.get("/v2").content)
        model = types.MetadataModelResponse.model_validate_json(client.get("/v2/models/pair").content)
        assert [t.name for t in model.inputs or []] == ["a", "b"]
        index = types.RepositoryIndexResponse.model_validate_json(client.post("/v2/repository/index", json={}).content)
        assert {line.name for line in index.root} >= {"pair", "single"}
        types.InferenceErrorResponse.model_validate_json(client.get("/v2/models/nobody").content)


def rpc() -> None:
    with grpc.insecure_channel(GRPC) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        for raw in (False, True):
            message = converters.ModelInferRequestConverter.from_types(request(), "echo_FP32", use_raw=raw)
            answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=20))
            assert (answer.id, answer.model_name) == ("m-1", "echo_FP32")
            assert np.array_equal(NumpyCodec.decode_output(answer.outputs[0]), X)
        assert stub.ServerReady(dataplane_pb2.ServerReadyRequest()).ready
        metadata = stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name="pair"))
        assert [t.name for t in metadata.inputs] == ["a", "b"]


results: dict[str, str] = {}
checks: dict[str, Callable[[], None]] = {"MLServer types over REST": rest, "MLServer types over gRPC": rpc}
for name, function in checks.items():
    try:
        function()
        results[name] = ""
    except Exception:
        results[name] = traceback.format_exc()
print(json.dumps(results))
