"""Unmodified Triton clients in a process of their own: steady requests over HTTP and gRPC, every answer checked.

Usage: load.py HTTP_PORT GRPC_PORT SECONDS MODEL SEED. Prints one JSON object: sent, errors, variants (name -> answers).
"""

from __future__ import annotations

import collections
import json
import sys
import threading
import time

import numpy as np
import tritonclient.grpc
import tritonclient.http

WIDTH = 256


def main() -> None:
    http_port, grpc_port, seconds, model, seed = sys.argv[1:6]
    rng = np.random.default_rng(int(seed))
    weights = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    bias = rng.normal(size=WIDTH).astype(np.float32)
    end = time.monotonic() + float(seconds)
    errors: list[str] = []
    variants: collections.Counter[str] = collections.Counter()
    sent = collections.Counter[str]()

    def drive(kind: str) -> None:
        module = tritonclient.http if kind == "http" else tritonclient.grpc
        port = http_port if kind == "http" else grpc_port
        with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            generator = np.random.default_rng(1)
            while time.monotonic() < end:
                x = generator.normal(size=(1, WIDTH)).astype(np.float32)
                tensor = module.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x)
                sent[kind] += 1
                try:
                    answer = client.infer(model, [tensor])
                    y = answer.as_numpy("y")
                    expected = x @ weights + bias
                    cosine = float((y * expected).sum() / np.linalg.norm(y) / np.linalg.norm(expected))
                    if cosine < 0.99:
                        errors.append(f"{kind}: wrong answer, cosine {cosine:.3f}")
                    response = answer.get_response()
                    if kind == "http":
                        variants[response["parameters"]["variant"]] += 1
                    else:
                        variants[response.parameters["variant"].string_param] += 1
                except Exception as error:
                    errors.append(f"{kind}: {type(error).__name__}: {error}")
                time.sleep(0.005)

    threads = [threading.Thread(target=drive, args=(kind,)) for kind in ("http", "grpc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"sent": dict(sent), "errors": errors[:10], "failed": len(errors), "variants": dict(variants)}))


main()
