"""Asks a server every case and writes down what it answers, in a form that can be compared.

Usage: driver.py HTTP_PORT GRPC_PORT. Reads `cases/*.yaml`; prints one JSON object: case -> what was observed. It runs in a
process of its own, with unmodified tritonclient (sync and asyncio, HTTP and gRPC) and with raw bodies (httpx, grpc).
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import math
import os
import queue
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import grpc
import httpx
import ml_dtypes
import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as tgrpc_aio
import tritonclient.http as thttp
import tritonclient.http.aio as thttp_aio
import tritonclient.utils.shared_memory as tshm
import yaml
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

HERE = Path(__file__).parent
HTTP, GRPC = (f"127.0.0.1:{port}" for port in sys.argv[1:3])
KEY = f"trimtab-conformance-{os.getpid()}"
NUMPY = {"BYTES": np.object_, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_} | {
    name: np.dtype(name.lower().replace("fp", "float")).type
    for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64")
}
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


# What was observed, made comparable


def plain(value: Any) -> Any:
    """JSON without what differs from run to run, and without what JSON cannot say."""
    if isinstance(value, dict):
        return {k: ("<time>" if k in ("ns", "last_inference") else plain(v)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"<{value}>"
    if isinstance(value, bytes):
        return "base64:" + base64.b64encode(value).decode()
    if isinstance(value, str):
        return value.replace(KEY, "<key>")
    return value


def substituted(value: Any) -> Any:
    """A case's data with `$KEY` replaced by the shared-memory object's name."""
    return json.loads(json.dumps(value).replace("$KEY", KEY))


def array_of(tensor: dict[str, Any]) -> np.ndarray:
    """A case's tensor; BYTES as text, or as `base64:` text."""
    data = tensor["data"]
    if tensor["datatype"] == "BYTES":
        flat = np.empty(len(data), np.object_)
        flat[:] = [base64.b64decode(v[7:]) if v.startswith("base64:") else v.encode() for v in data]
        return flat.reshape(tensor["shape"])
    return np.array(data, NUMPY[tensor["datatype"]]).reshape(tensor["shape"])


def raw_of(tensor: dict[str, Any]) -> bytes:
    array = array_of(tensor)
    if tensor["datatype"] == "BYTES":
        return b"".join(len(v).to_bytes(4, "little") + v for v in array.reshape(-1))
    return array.tobytes()


# Raw HTTP


def http_body(case: dict[str, Any]) -> tuple[bytes | None, dict[str, str]]:
    headers = dict(case.get("headers", {}))
    if "json" in case:
        body = json.dumps(case["json"]).encode()
    elif "text" in case:
        body = case["text"].encode()
    elif "base64" in case:
        body = base64.b64decode(case["base64"])
    else:
        return None, headers
    if "binary" in case:  # tensors after the JSON
        headers["Inference-Header-Content-Length"] = str(len(body))
        body += b"".join(raw_of(t) for t in case["binary"])
    if encoding := case.get("compress"):
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
        headers["Content-Encoding"] = encoding
    return body, headers


def http_case(client: httpx.Client, case: dict[str, Any]) -> dict[str, Any]:
    body, headers = http_body(case)
    headers = {"Accept-Encoding": "identity"} | headers
    method = case.get("method", "GET" if body is None else "POST")
    answer = client.request(method, case["path"], content=body, headers=headers)
    seen: dict[str, Any] = {"status": answer.status_code}
    content = answer.content
    if length := answer.headers.get("inference-header-content-length"):
        seen["binary"] = content[int(length) :]
        content = content[: int(length)]
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = [e.removeprefix("data: ") for e in content.decode().split("\n\n") if e]
        seen["events"] = [body_of(json.loads(e)) for e in events]
    elif content:
        try:
            seen["json"] = body_of(json.loads(content))
        except ValueError:
            seen["text"] = content
    if case.get("type"):
        seen["content_type"] = answer.headers["content-type"].partition(";")[0]
    return seen


def body_of(value: Any) -> Any:
    """Of an error that it is one; its words are each server's own."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "state" in v for v in value):
        return {line["name"]: line for line in value}  # the index, in whatever order
    return {"error": "<words>"} if isinstance(value, dict) and isinstance(value.get("error"), str) else value


# Raw gRPC


def message_of(name: str, content: dict[str, Any]) -> Any:
    return json_format.ParseDict(content, getattr(service_pb2, name)())


def dict_of(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=False
    )


def grpc_case(channel: grpc.Channel, case: dict[str, Any]) -> dict[str, Any]:
    method = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[case["rpc"]]
    path = f"/inference.GRPCInferenceService/{method.name}"
    options = {
        "request_serializer": lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        "response_deserializer": getattr(service_pb2, method.output_type.name).FromString,
    }
    contents = case["messages"] if "messages" in case else [case.get("message", {})]
    messages = [message_of(method.input_type.name, content) for content in contents]
    if "base64" in case:
        messages = [base64.b64decode(case["base64"])]
    try:
        if not method.client_streaming:
            return {"answer": dict_of(channel.unary_unary(path, **options)(messages[0], timeout=30))}
        answers = [dict_of(a) for a in channel.stream_stream(path, **options)(iter(messages), timeout=30)]
    except grpc.RpcError as error:
        return {"code": error.code().name}
    for answer in answers:
        if "error_message" in answer:
            answer["error_message"] = "<words>"
    return {"answers": answers}


# tritonclient


def triton_inputs(module: Any, case: dict[str, Any], binary: bool) -> list[Any]:
    made = []
    for tensor in case["inputs"]:
        array = array_of(tensor)
        one = module.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
        if module is thttp:
            one.set_data_from_numpy(array, binary_data=binary)
        else:
            one.set_data_from_numpy(array)
        made.append(one)
    return made


def triton_outputs(module: Any, case: dict[str, Any], binary: bool) -> list[Any] | None:
    names = case.get("outputs") or ([{"name": n} for n in case["expect"]] if module is thttp else None)
    if names is None:
        return None
    extra = {"binary_data": binary} if module is thttp else {}
    return [module.InferRequestedOutput(o["name"], class_count=o.get("class_count", 0), **extra) for o in names]


def triton_arguments(module: Any, case: dict[str, Any], binary: bool) -> dict[str, Any]:
    made = {
        "model_name": case["model"],
        "inputs": triton_inputs(module, case, binary),
        "outputs": triton_outputs(module, case, binary),
        "model_version": case.get("version", ""),
        "request_id": case.get("id", ""),
    }
    for name in ("parameters", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"):
        if name in case:
            made[name] = case[name]
    if module is thttp and case.get("compress"):
        made |= {"request_compression_algorithm": case["compress"], "response_compression_algorithm": case["compress"]}
    return made


def result_of(result: Any, names: list[str]) -> dict[str, Any]:
    response = result.get_response()
    if not isinstance(response, dict):
        response = dict_of(response)
    outputs = {}
    for name in names:
        array = result.as_numpy(name)
        if array is None:
            outputs[name] = None
            continue
        flat = array.reshape(-1)
        values = [v.encode() if isinstance(v, str) else v for v in flat] if array.dtype == object else flat.tolist()
        outputs[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "values": values}
    return {"outputs": outputs, "id": response.get("id"), "version": response.get("model_version")}


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        status = getattr(error, "status", lambda: None)()
        return {"raised": type(error).__name__, "status": status}


def triton_case(case: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same request through every client."""
    for module, address in ((thttp, HTTP), (tgrpc, GRPC)):
        kind = "http" if module is thttp else "grpc"
        forms = [("binary", True), ("json", False)] if module is thttp else [("raw", True)]
        for form, binary in forms:
            if form == "json" and case.get("binary_only"):
                continue
            with module.InferenceServerClient(address) as client:

                def ask(client: Any = client, module: Any = module, binary: bool = binary) -> Any:
                    return result_of(client.infer(**triton_arguments(module, case, binary)), case["expect"])

                yield f"tritonclient {kind} {form}: {case['name']}", attempt(ask)
        yield f"tritonclient {kind} asyncio: {case['name']}", attempt(lambda m=module: asyncio.run(triton_aio(m, case)))


async def triton_aio(module: Any, case: dict[str, Any]) -> Any:
    aio, address = (thttp_aio, HTTP) if module is thttp else (tgrpc_aio, GRPC)
    async with aio.InferenceServerClient(address) as client:
        return result_of(await client.infer(**triton_arguments(module, case, True)), case["expect"])


# Scenarios of several calls


def scenario_shared_memory(module: Any) -> Any:
    """Inputs from and outputs into regions, as in Triton's own examples (`simple_*_shm_client.py`)."""
    address = HTTP if module is thttp else GRPC
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    seen: dict[str, Any] = {}
    with module.InferenceServerClient(address) as client:
        client.unregister_system_shared_memory()
        source = tshm.create_shared_memory_region("source", f"/{KEY}-in", 2 * a.nbytes)
        sink = tshm.create_shared_memory_region("sink", f"/{KEY}-out", 2 * a.nbytes)
        try:
            tshm.set_shared_memory_region(source, [a, b])
            client.register_system_shared_memory("source", f"/{KEY}-in", 2 * a.nbytes)
            client.register_system_shared_memory("sink", f"/{KEY}-out", 2 * a.nbytes)
            seen["again"] = attempt(lambda: client.register_system_shared_memory("sink", f"/{KEY}-out", 8))
            inputs = [module.InferInput(name, [1, 16], "INT32") for name in "ab"]
            outputs = [module.InferRequestedOutput(name) for name in ("sum", "difference")]
            for index, tensor in enumerate(inputs):
                tensor.set_shared_memory("source", a.nbytes, offset=index * a.nbytes)
            for index, tensor in enumerate(outputs):
                tensor.set_shared_memory("sink", a.nbytes, offset=index * a.nbytes)
            answer = client.infer("pair", inputs, outputs=outputs)
            response = answer.get_response()
            seen["response"] = response if isinstance(response, dict) else dict_of(response)
            for index, name in enumerate(("sum", "difference")):
                seen[name] = tshm.get_contents_as_numpy(sink, np.int32, [1, 16], index * a.nbytes).tolist()
            inputs[1].set_data_from_numpy(b)  # one from the region, one in the message
            mixed = client.infer("pair", inputs)
            seen["mixed"] = mixed.as_numpy("sum").tolist()
            status = client.get_system_shared_memory_status()
            listed = status if isinstance(status, list) else list(dict_of(status)["regions"].values())
            seen["status"] = sorted(({k: str(v) for k, v in r.items() if v} for r in listed), key=lambda r: r["name"])
            outputs[0].set_shared_memory("sink", 4)
            seen["too small"] = attempt(lambda: client.infer("pair", inputs, outputs=outputs[:1]))["raised"]
            inputs[0].set_shared_memory("source", a.nbytes, offset=2 * a.nbytes - 4)
            seen["out of bounds"] = attempt(lambda: client.infer("pair", inputs))
            client.unregister_system_shared_memory("source")
            inputs[0].set_shared_memory("source", a.nbytes)
            seen["unregistered"] = attempt(lambda: client.infer("pair", inputs))
            seen["again unregistered"] = attempt(lambda: client.unregister_system_shared_memory("source"))
        finally:
            client.unregister_system_shared_memory()
            tshm.destroy_shared_memory_region(source)
            tshm.destroy_shared_memory_region(sink)
    return seen


def scenario_stream(module: Any) -> Any:
    """Callbacks of a stream: many answers, one answer, none, errors; in order."""
    answers: queue.Queue[Any] = queue.Queue()
    seen = []

    def tensor(value: Any, datatype: str, shape: list[int]) -> Any:
        made = tgrpc.InferInput("x", shape, datatype)
        made.set_data_from_numpy(np.full(shape, value, NUMPY[datatype]))
        return made

    with tgrpc.InferenceServerClient(GRPC) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(
            "repeat", [tensor(3, "INT32", [1])], request_id="many", enable_empty_final_response=True
        )
        client.async_stream_infer("echo_FP32", [tensor(1.5, "FP32", [1, 2])], request_id="one")
        client.async_stream_infer("nobody", [tensor(1.5, "FP32", [1, 2])], request_id="unknown")
        client.async_stream_infer("repeat_batch", [tensor(2, "INT32", [1, 1])], request_id="batch")
        client.async_stream_infer("echo_FP32", [tensor(2.5, "FP32", [1, 1])], request_id="last")
        for _ in range(9):
            result, error = answers.get(timeout=20)
            if error is not None:
                seen.append({"error": "<words>"})
                continue
            response = result.get_response()
            value = result.as_numpy("y")
            final = response.parameters["triton_final_response"].bool_param
            seen.append({"id": response.id, "y": None if value is None else value.tolist(), "final": final})
        client.stop_stream()
    return {"answers": sorted(seen, key=lambda a: a.get("id", ""))}


def scenario_unload_and_load(module: Any) -> Any:
    address = HTTP if module is thttp else GRPC
    seen: dict[str, Any] = {}
    with module.InferenceServerClient(address) as client:
        client.unload_model("single", unload_dependents=True)
        for _ in range(100):  # Triton answers before it has unloaded
            index = client.get_model_repository_index()
            lines = index if isinstance(index, list) else dict_of(index)["models"]
            seen["state"] = next(m["state"] for m in lines if m["name"] == "single")
            if seen["state"] == "UNAVAILABLE":
                break
            time.sleep(0.05)
        seen["ready after unload"] = client.is_model_ready("single")
        x = module.InferInput("x", [3], "FP32")
        x.set_data_from_numpy(np.ones(3, np.float32))
        seen["infer"] = attempt(lambda: client.infer("single", [x]))
        client.load_model("single")
        seen["ready after load"] = client.is_model_ready("single")
        seen["answer"] = client.infer("single", [x]).as_numpy("y").tolist()
    return seen


def scenario_statistics(module: Any) -> Any:
    """What four requests, one of them failing, add to a model's counts."""
    address = HTTP if module is thttp else GRPC
    with module.InferenceServerClient(address) as client:

        def counts() -> dict[str, int]:
            stats = client.get_inference_statistics("picky")
            line = (stats if isinstance(stats, dict) else dict_of(stats))["model_stats"][0]
            made = {k: int(line.get(k, 0)) for k in ("inference_count", "execution_count")}
            for stage, duration in line["inference_stats"].items():
                made[stage] = int(duration.get("count", 0))
            for batch in line.get("batch_stats", []):
                for stage, duration in batch.items():
                    if isinstance(duration, dict):
                        made[f"batch {batch['batch_size']} {stage}"] = int(duration.get("count", 0))
            return made

        before = counts()
        for rows in (1, 1, 3):
            x = module.InferInput("x", [rows, 2], "FP32")
            x.set_data_from_numpy(np.ones((rows, 2), np.float32))
            client.infer("picky", [x])
        x = module.InferInput("x", [1, 1], "FP32")
        x.set_data_from_numpy(np.full((1, 1), np.nan, np.float32))
        attempt(lambda: client.infer("picky", [x]))
        after = counts()
    return {name: value - before.get(name, 0) for name, value in sorted(after.items())}


SCENARIOS = {
    "shared memory": (scenario_shared_memory, (thttp, tgrpc)),
    "stream": (scenario_stream, (tgrpc,)),
    "unload and load": (scenario_unload_and_load, (thttp, tgrpc)),
    "statistics": (scenario_statistics, (thttp, tgrpc)),
}


# All of it


def cases(kind: str) -> Iterator[dict[str, Any]]:
    """A file's cases; one with `each` stands for several, with `$name` replaced in all of its data."""
    for case in yaml.safe_load((HERE / "cases" / f"{kind}.yaml").read_text(encoding="utf-8")):
        for values in case.pop("each", [{}]):
            text = json.dumps(case)
            for name, value in values.items():
                whole = json.dumps(value)
                inside = whole if isinstance(value, str) else json.dumps(whole)
                text = text.replace(f'"${name}"', whole).replace(f"${name}", inside.strip('"'))
            yield substituted(json.loads(text))


def observe() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    block = shared_memory.SharedMemory(KEY, create=True, size=64)
    block.buf[:16] = np.arange(1, 5, dtype=np.float32).tobytes()
    try:
        with httpx.Client(base_url=f"http://{HTTP}", timeout=30, trust_env=False) as client:
            for case in cases("http"):
                seen[f"http: {case['name']}".replace(KEY, "<key>")] = http_case(client, case)
        with grpc.insecure_channel(GRPC) as channel:
            for case in cases("grpc"):
                seen[f"grpc: {case['name']}"] = grpc_case(channel, case)
        for case in cases("tritonclient"):
            for name, observed in triton_case(case):
                seen[name] = observed
        for name, (scenario, modules) in SCENARIOS.items():
            for module in modules:
                kind = "http" if module is thttp else "grpc"
                seen[f"tritonclient {kind} scenario: {name}"] = attempt(lambda s=scenario, m=module: s(m))
    finally:
        block.close()
        block.unlink()
    return {name: plain(value) for name, value in seen.items()}


if __name__ == "__main__":
    print(json.dumps(observe(), sort_keys=True))
