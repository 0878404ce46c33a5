"""Checks with unmodified Triton clients, in a process of their own (their protobuf stubs clash with ours).

Usage: triton_checks.py HTTP_PORT GRPC_PORT. Prints one JSON object: check -> "" or what went wrong.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.grpc import service_pb2

HTTP, GRPC = (f"127.0.0.1:{port}" for port in sys.argv[1:3])
SAMPLES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-32768, 32767]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[1.5, -0.25]], np.float16),
    "FP32": np.array([[1.1, -2.2], [3.3, 4.4]], np.float32),
    "FP64": np.array([[1.1, -2.2]], np.float64),
    "BYTES": np.array([[b"a\x00b", b"\xff\xfe"], [b"", b"text"]], np.object_),
    "BF16": np.array([[1.0, -2.0]], ml_dtypes.bfloat16),
}
checks: dict[str, Callable[[Any, Any], None]] = {}


def check(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    checks[function.__name__] = function
    return function


def tensor(module: Any, name: str, array: np.ndarray, datatype: str, **options: Any) -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **options)
    return made


def refused(call: Callable[[], Any], *words: str) -> str:
    try:
        call()
    except Exception as error:
        text = str(error)
        assert all(word in text for word in words), f"{words} not in {text}"
        return str(getattr(error, "status", lambda: "")())
    raise AssertionError("nothing was raised")


@check
def health_and_metadata(client: Any, module: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pair")
    assert client.is_model_ready("pair", "1")
    options = {"as_json": True} if module is tgrpc else {}
    server = client.get_server_metadata(**options)
    assert server["name"] == "trimtab"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("image", **options)
    assert model["versions"] == ["1"]
    assert [int(d) for d in model["inputs"][0]["shape"]] == [-1, 2, 3]
    config = client.get_model_config("image", **options)
    config = config.get("config", config)
    assert config["max_batch_size"] == 8
    assert [int(d) for d in config["input"][0]["dims"]] == [2, 3]
    assert config["input"][0]["data_type"] == "TYPE_FP32"


@check
def every_datatype(client: Any, module: Any) -> None:
    for datatype, sample in SAMPLES.items():
        answer = client.infer(f"echo_{datatype}", [tensor(module, "x", sample, datatype)])
        got = answer.as_numpy("y")
        assert got.dtype == sample.dtype, (datatype, got.dtype)
        assert np.array_equal(got, sample), (datatype, got)


@check
def every_datatype_as_json(client: Any, module: Any) -> None:
    if module is tgrpc:
        return
    for datatype, sample in SAMPLES.items():
        if datatype in ("FP16", "BF16"):
            continue
        if datatype == "BYTES":
            sample = np.array([[b"text", "gr\u00fc\u00df".encode()]], np.object_)
        wanted = [module.InferRequestedOutput("y", binary_data=False)]
        sent = tensor(module, "x", sample, datatype, binary_data=False)
        got = client.infer(f"echo_{datatype}", [sent], outputs=wanted).as_numpy("y")
        if datatype == "BYTES":
            got = np.array([[v if isinstance(v, bytes) else v.encode() for v in row] for row in got], np.object_)
        assert np.array_equal(got, sample), (datatype, got)


@check
def ids_parameters_versions_and_requested_outputs(client: Any, module: Any) -> None:
    a, b = np.array([[5, 6]], np.int32), np.array([[1, 2]], np.int32)
    inputs = [tensor(module, "a", a, "INT32"), tensor(module, "b", b, "INT32")]
    wanted = [module.InferRequestedOutput("difference")]
    answer = client.infer("pair", inputs, "1", wanted, request_id="r-7", timeout=5_000_000)
    assert np.array_equal(answer.as_numpy("difference"), a - b)
    assert answer.as_numpy("sum") is None
    response = answer.get_response()
    if module is tgrpc:
        assert response.id == "r-7"
        assert response.parameters["variant"].string_param == "only"
    else:
        assert response["id"] == "r-7"
        assert response["parameters"]["variant"] == "only"


@check
def empty_and_zero_batch(client: Any, module: Any) -> None:
    empty = np.zeros((2, 0), np.float32)
    assert client.infer("echo_FP32", [tensor(module, "x", empty, "FP32")]).as_numpy("y").shape == (2, 0)
    none = tensor(module, "x", np.zeros((0, 3), np.float32), "FP32")
    refused(lambda: client.infer("echo_FP32", [none]), "0", "1 to 8")


@check
def wrong_requests(client: Any, module: Any) -> None:
    x = np.zeros((1, 2), np.float32)
    good = tensor(module, "x", x, "FP32")
    refused(lambda: client.infer("nothing", [good]), "no model 'nothing'")
    refused(lambda: client.infer("echo_FP32", [good], "7"), "no version '7'")
    refused(lambda: client.infer("echo_FP32", [tensor(module, "z", x, "FP32")]), "no input 'z'", "x")
    wrong = tensor(module, "x", np.zeros((1, 2), np.int32), "INT32")
    refused(lambda: client.infer("echo_FP32", [wrong]), "INT32", "FP32")
    refused(lambda: client.infer("image", [good]), "[1, 2]", "[-1, 2, 3]")
    refused(lambda: client.infer("pair", [tensor(module, "a", np.zeros((1, 2), np.int32), "INT32")]), "missing input b")
    nine = tensor(module, "x", np.zeros((9, 2), np.float32), "FP32")
    refused(lambda: client.infer("echo_FP32", [nine]), "9", "8")
    outputs = [module.InferRequestedOutput("nope")]
    refused(lambda: client.infer("echo_FP32", [good], outputs=outputs), "no output 'nope'", "y")
    error = refused(lambda: client.infer("broken", [good]), "broken")
    assert "INTERNAL" in error or "500" in error
    refused(lambda: client.infer("slow", [good], timeout=1000))


@check
def repository_and_statistics(client: Any, module: Any) -> None:
    options = {"as_json": True} if module is tgrpc else {}
    index = client.get_model_repository_index(**options)
    lines = {m["name"]: m for m in (index["models"] if module is tgrpc else index)}
    assert lines["single"]["state"] == "READY"
    client.unload_model("single")
    assert not client.is_model_ready("single")
    x = tensor(module, "x", np.zeros(3, np.float32), "FP32")
    refused(lambda: client.infer("single", [x]), "single")
    client.load_model("single")
    assert client.is_model_ready("single")
    before = client.get_inference_statistics("single", **options)["model_stats"][0]
    client.infer("single", [x])
    after = client.get_inference_statistics("single", **options)["model_stats"][0]
    assert int(after["inference_count"]) == int(before.get("inference_count", 0)) + 1
    refused(lambda: client.load_model("nothing"), "no model 'nothing'")


@check
def published_field_numbers(client: Any, module: Any) -> None:
    """Prints nothing of its own: dumps the published messages for the test to compare ours with."""
    if module is tgrpc:
        from tritonclient.grpc import model_config_pb2

        dump = {}
        for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR):
            for message in file.message_types_by_name.values():
                pending = [message]
                while pending:
                    current = pending.pop()
                    pending += current.nested_types
                    fields = {f.name: [f.number, f.type, f.is_repeated] for f in current.fields}
                    dump[current.full_name] = fields
        results["descriptors"] = dump


results: dict[str, Any] = {}
for module, address in ((thttp, HTTP), (tgrpc, GRPC)):
    with module.InferenceServerClient(address) as client:
        for name, function in checks.items():
            try:
                function(client, module)
                problem = ""
            except Exception:
                problem = traceback.format_exc()
            results[f"{module.__name__.rpartition('.')[2]}:{name}"] = problem
print(json.dumps(results))
