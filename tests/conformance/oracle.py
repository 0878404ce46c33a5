"""A real Triton Inference Server with models of the signatures of `tests/server/protocol_server.py`.

The `tritonserver` binary and its Python backend come from PyPI's `nvidia-pytriton`, in an environment of its own
(`make conformance` makes it). Usage, with that environment's Python:

    python oracle.py REPOSITORY HTTP_PORT GRPC_PORT

REPOSITORY: a folder that `repository()` has written. Prints `ready` once every model answers; stops with its input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What every model does, by its name; the file that Triton's Python backend loads for each.
MODEL = """
import json, time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"]

    def execute(self, requests):
        answers = []
        for request in requests:
            try:
                answers.append(self.answer(request))
            except Exception as error:
                answers.append(pb.InferenceResponse(error=pb.TritonError(str(error))))
        return None if self.name.startswith("repeat") else answers

    def answer(self, request):
        if self.name == "broken":
            raise RuntimeError("a secret of the inside")
        if self.name == "pair":
            a, b = (pb.get_input_tensor_by_name(request, n).as_numpy() for n in "ab")
            wanted = set(request.requested_output_names())
            made = {"sum": a + b, "difference": a - b}
            return pb.InferenceResponse([pb.Tensor(n, v) for n, v in made.items() if n in wanted])
        x = pb.get_input_tensor_by_name(request, "x")
        if self.name == "echo_BF16":
            return pb.InferenceResponse([pb.Tensor.from_dlpack("y", x.to_dlpack())])
        value = x.as_numpy()
        if self.name == "picky" and np.isnan(value).any():
            raise ValueError("NaN in the batch")
        if self.name == "slow":
            time.sleep(1.0)
        if self.name.startswith("repeat"):
            return self.stream(request, value)
        return pb.InferenceResponse([pb.Tensor("y", value)])

    def stream(self, request, value):
        sender = request.get_response_sender()
        if (value < 0).any():
            sender.send(pb.InferenceResponse(error=pb.TritonError("a negative number")))
        else:
            for number in range(int(value.reshape(-1)[0])):
                sender.send(pb.InferenceResponse([pb.Tensor("y", np.full_like(value, number))]))
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def repository(root: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a model repository. Of each model: `max_batch`, `inputs` and `outputs` (name -> datatype and dims without the
    batch axis), `labels` (output -> labels), `decoupled`."""
    for name, model in models.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL)
        lines = [f'name: "{name}"', 'backend: "python"', f"max_batch_size: {model['max_batch']}"]
        lines.append("instance_group [{ kind: KIND_CPU, count: 1 }]")
        for kind in ("inputs", "outputs"):
            for tensor, (datatype, dims) in model[kind].items():
                data_type = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
                labels = ""
                if tensor in model.get("labels", {}):
                    (root / name / "labels.txt").write_text("\n".join(model["labels"][tensor]) + "\n")
                    labels = ', label_filename: "labels.txt"'
                lines.append(
                    f'{kind[:-1]} [{{ name: "{tensor}", data_type: {data_type}, dims: {list(dims)}{labels} }}]'
                )
        if model.get("decoupled"):
            lines.append("model_transaction_policy { decoupled: true }")
        (root / name / "config.pbtxt").write_text("\n".join(lines) + "\n")


def installation() -> Path:
    """The server's folder, with the stub of this Python in place."""
    import pytriton

    folder = Path(pytriton.__file__).parent / "tritonserver"
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(folder / "python_backend_stubs" / version / stub.name, stub)
    return folder


def command(folder: Path, models: Path, http: int, grpc: int) -> list[str]:
    """How the server is started: loopback only, models loaded and unloaded on request."""
    return [
        str(folder / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={folder / 'backends'}",
        f"--cache-directory={folder / 'caches'}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        "--backend-config=python,shm-default-byte-size=1048576",
        f"--backend-config=python,shm-region-prefix-name=trimtab-oracle-{os.getpid()}-",
        "--log-verbose=0",
    ]


def main() -> None:
    models, http, grpc = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder = installation()
    libraries = [str(p) for p in folder.parent.parent.glob("nvidia_pytriton.libs")]
    libraries += [str(folder / "external_libs"), str(folder / "lib")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(libraries),
        # the stub takes its packages from the environment of the first `python3` it finds
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with (models.parent / "triton.log").open("w") as log:
        server = subprocess.Popen(command(folder, models, http, grpc), env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while True:
            if server.poll() is not None or time.monotonic() > deadline:
                print(f"failed: see {models.parent / 'triton.log'}", flush=True)
                return
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        repository(Path(sys.argv[2]), json.load(sys.stdin))
    else:
        main()
