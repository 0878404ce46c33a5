"""Requests per second and latency of the served application, HTTP and gRPC, and where the time goes: the model host behind
its bare servers, the same behind Ray Serve and HAProxy past Serve's wrapper, and the same through Serve's wrapper.

    python -m benchmarks.served [--rounds 3] [--seconds 5] [--concurrency 16] [--triton PYTHON]

One tiny model, 16 floats as JSON or raw. All are interleaved in one run, medians over the rounds; every answer's status and
size is checked. `--triton`: the Python of an environment with nvidia-pytriton (`make conformance` makes one below
`.cache/conformance/triton`); a real Triton with the same model in its Python backend is then measured beside them.
Needs `h2load` (Debian: nghttp2-client).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import yaml

from benchmarks.models import layers
from protos import open_inference_pb2 as pb
from server.cluster import free_ports

ORACLE = Path(__file__).parent.parent / "tests" / "conformance" / "oracle.py"
HTTP_PATH, GRPC_PATH = "/v2/models/tiny/infer", "/inference.GRPCInferenceService/ModelInfer"
BODY = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,16],"data":[' + ",".join(["0.5"] * 16) + "]}]}"
BARE = """
import asyncio, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from deployments.config import HostConfig
from deployments.host import ModelHost
from server.bare import serve_bare
from variants.repository import load_catalog
async def main():
    host = ModelHost(load_catalog(Path(sys.argv[1])), HostConfig(threads=1), registry=CollectorRegistry(), host_id="bare")
    await host.start()
    async with serve_bare(host, http_port=int(sys.argv[2]), grpc_port=int(sys.argv[3])):
        await asyncio.sleep(3600)
import uvloop
uvloop.run(main())
"""


@dataclass(frozen=True)
class Target:
    """One of what is measured: `http` or `grpc` on a local port."""

    name: str
    protocol: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{HTTP_PATH if self.protocol == 'http' else GRPC_PATH}"


def message() -> bytes:
    """The request over gRPC."""
    request = pb.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(np.full(16, 0.5, np.float32).tobytes())
    return request.SerializeToString()  # type: ignore[no-any-return]


def answer_bytes(target: Target) -> int:
    """The size of the right answer's body; what it says is checked. Raises for one that is wrong or not there."""
    if target.protocol == "http":
        answer = httpx.post(target.url, content=BODY, trust_env=False)
        answer.raise_for_status()
        if answer.json()["outputs"][0]["data"] != [0.5] * 16:
            raise ValueError(answer.text)
        return len(answer.content)
    with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        raw = channel.unary_unary(GRPC_PATH)(message(), timeout=5)
    if list(np.frombuffer(pb.ModelInferResponse.FromString(raw).raw_output_contents[0], np.float32)) != [0.5] * 16:
        raise ValueError(repr(raw))
    return len(raw) + 5


@contextlib.contextmanager
def running(command: list[str], *targets: Target, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from its first right answers on."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **options
    )
    try:
        deadline = time.monotonic() + 90
        for target in targets:
            while True:
                with contextlib.suppress(httpx.HTTPError, grpc.RpcError, ValueError):
                    answer_bytes(target)
                    break
                if time.monotonic() > deadline:
                    sys.exit(f"no right answer from {target}")
                time.sleep(0.3)
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def load(target: Target, concurrency: int, seconds: float, folder: Path) -> tuple[float, float]:
    """Requests per second and the p99 (milliseconds) by h2load; stops the run when an answer was not as it should be."""
    expected = answer_bytes(target)
    command = ["h2load", "-c", str(concurrency), "-t", "1", "-m", "1", "-D", f"{seconds:.0f}", "--log-file"]
    if target.protocol == "http":
        kind = ["--h1", "-d", str(folder / "body.json")]
    else:
        kind = ["-d", str(folder / "body.grpc"), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    with tempfile.NamedTemporaryFile() as log:
        done = subprocess.run([*command, log.name, *kind, target.url], capture_output=True, text=True, check=True)
        times = [line.split() for line in Path(log.name).read_text().splitlines()]
    if any(fields[1] != "200" for fields in times):
        sys.exit(f"not every answer was 200: {done.stdout}")
    found = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", done.stdout)
    got = re.search(r"\((\d+)\) data", done.stdout)
    assert found is not None
    assert got is not None
    # Those under way at the end may have been counted with no data yet, and the other way round. A gRPC error has none.
    if abs(int(got.group(1)) / expected - len(times)) > concurrency:
        sys.exit(f"{target}: {got.group(1)} bytes in {len(times)} answers of {expected}: {done.stdout}")
    return float(found.group(1)), float(np.quantile([int(fields[2]) / 1e3 for fields in times], 0.99))


def fallback_port(pid: int) -> int:
    """The HTTP port of Serve's own proxy in that cluster: every request there goes through Serve's wrapper."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ProxyActor" in " ".join(child.cmdline()):
                ports = [
                    c.laddr.port for c in child.net_connections() if c.status == "LISTEN" and c.laddr.ip == "127.0.0.1"
                ]
                if ports:
                    return ports[0]
    sys.exit("no fallback proxy found")


@contextlib.contextmanager
def triton(python: str, root: Path) -> Iterator[list[Target]]:
    """A real Triton with the same model."""
    model = {"max_batch": 32, "inputs": {"x": ["FP32", [16]]}, "outputs": {"y": ["FP32", [16]]}}
    models = root / "oracle"
    write = [python, str(ORACLE), "--write", str(models)]
    subprocess.run(write, input=json.dumps({"tiny": model}), text=True, check=True)
    http, rpc = free_ports(2)
    targets = [Target("Triton, Python backend", "http", http), Target("Triton, Python backend", "grpc", rpc)]
    command = [python, str(ORACLE), str(models), str(http), str(rpc)]
    with running(command, *targets, stdin=subprocess.PIPE):
        yield targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16])
    parser.add_argument("--triton", metavar="PYTHON", help="a Python with nvidia-pytriton")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        print("h2load is not installed (Debian: nghttp2-client); nothing measured")
        return
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        root = Path(scratch)
        (root / "models").mkdir()
        layers(root / "models", "tiny", [np.eye(16)])
        (root / "body.json").write_text(BODY)
        sent = message()
        (root / "body.grpc").write_bytes(b"\0" + len(sent).to_bytes(4, "big") + sent)
        http, rpc, admin, bare_http, bare_rpc = free_ports(5)
        config = root / "trimtab.yaml"
        ports = {"http_port": http, "grpc_port": rpc, "admin_port": admin}
        settings = {"repository": "models", "server": ports, "host": {"threads": 1}}
        config.write_text(yaml.safe_dump(settings))
        bare = [
            Target("host behind bare servers", "http", bare_http),
            Target("host behind bare servers", "grpc", bare_rpc),
        ]
        ours = [Target("served by trimtab", "http", http), Target("served by trimtab", "grpc", rpc)]
        stack.enter_context(
            running([sys.executable, "-c", BARE, str(root / "models"), str(bare_http), str(bare_rpc)], *bare)
        )
        command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config)]
        process = stack.enter_context(running(command, *ours))
        targets = [*bare, *ours, Target("through Serve's wrapper", "http", fallback_port(process.pid))]
        if options.triton:
            targets += stack.enter_context(triton(options.triton, root))
        for concurrency in options.concurrency:
            results: dict[Target, list[tuple[float, float]]] = {target: [] for target in targets}
            for _ in range(options.rounds):
                for target in targets:
                    results[target].append(load(target, concurrency, options.seconds, root))
            print(f"concurrency {concurrency}, {options.rounds} rounds of {options.seconds:.0f} s, medians")
            for target, rounds in results.items():
                rate, late = (statistics.median(values) for values in zip(*rounds, strict=True))
                print(f"{target.name:28} {target.protocol} {rate:8.0f} requests/s  p99 {late:7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
