"""Shared memory and streams with unmodified Triton clients, in a process of its own.

Usage: extensions.py HTTP_PORT GRPC_PORT MODEL WIDTH [STREAM_ONLY]. Prints one JSON object: what was seen.
"""

from __future__ import annotations

import json
import os
import queue
import sys
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
import tritonclient.utils.shared_memory as shm

HTTP, GRPC = (f"127.0.0.1:{port}" for port in sys.argv[1:3])
MODEL, WIDTH = sys.argv[3], int(sys.argv[4])
ROUNDS = 20


def shared_memory() -> int:
    """Register once, over HTTP; then ask over connections of their own, so that every host gets some. Returns how many
    answers were in the region, and right."""
    x = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    key, right = f"/trimtab-test-{os.getpid()}", 0
    region = shm.create_shared_memory_region("both", key, 2 * x.nbytes)
    try:
        with thttp.InferenceServerClient(HTTP) as client:
            client.register_system_shared_memory("both", key, 2 * x.nbytes)
            plain = thttp.InferInput("x", [1, WIDTH], "FP32")
            plain.set_data_from_numpy(x)
            expected = client.infer(MODEL, [plain]).as_numpy("y")
        for number in range(ROUNDS):
            for module, address in ((thttp, HTTP), (tgrpc, GRPC)):
                shm.set_shared_memory_region(region, [x, np.full_like(x, number)])
                tensor = module.InferInput("x", [1, WIDTH], "FP32")
                tensor.set_shared_memory("both", x.nbytes)
                output = module.InferRequestedOutput("y")
                output.set_shared_memory("both", x.nbytes, offset=x.nbytes)
                with module.InferenceServerClient(address) as client:
                    client.infer(MODEL, [tensor], outputs=[output])
                got = shm.get_contents_as_numpy(region, np.float32, [1, WIDTH], x.nbytes)
                right += int(np.allclose(got, expected, rtol=1e-3, atol=1e-2))
                del got
        with tgrpc.InferenceServerClient(GRPC) as client:
            client.unregister_system_shared_memory("both")
    finally:
        shm.destroy_shared_memory_region(region)
    return right


def stream() -> dict[str, Any]:
    """Five requests of one gRPC stream, one of them wrong."""
    answers: queue.Queue[Any] = queue.Queue()
    seen: dict[str, Any] = {"ids": [], "errors": 0}
    with tgrpc.InferenceServerClient(GRPC) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(5):
            width = WIDTH if number != 3 else WIDTH + 1
            tensor = tgrpc.InferInput("x", [1, width], "FP32")
            tensor.set_data_from_numpy(np.zeros((1, width), np.float32))
            client.async_stream_infer(MODEL, [tensor], request_id=str(number))
        for _ in range(5):
            result, error = answers.get(timeout=60)
            if error is not None:
                seen["errors"] += 1
            else:
                seen["ids"].append(result.get_response().id)
        client.stop_stream()
    return seen


def events() -> Any:
    body = {"x": [0.0] * WIDTH, "id": "e"}
    with httpx.stream("POST", f"http://{HTTP}/v2/models/{MODEL}/generate_stream", json=body, timeout=60) as answer:
        lines = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    return [answer.status_code, answer.headers["content-type"], [(line["id"], len(line["y"])) for line in lines]]


print(json.dumps({"stream": stream(), "events": events(), "shared": 0 if sys.argv[5:] else shared_memory()}))
