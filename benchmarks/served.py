"""Requests per second and latency of the served application, HTTP, and where the time goes: the model host behind a bare
uvicorn, the same behind Ray Serve and HAProxy past Serve's wrapper, and the same through Serve's wrapper.

    python -m benchmarks.served [--rounds 3] [--seconds 5] [--concurrency 16]

One tiny model, 16 floats as JSON. The three are interleaved in one run, medians over the rounds; every answer is checked.
Needs `h2load` (Debian: nghttp2-client).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import yaml

from server.cluster import free_ports

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


def repository(root: Path) -> None:
    """One model of 16 inputs and 16 outputs."""
    from onnx import TensorProto, helper, numpy_helper, save

    from variants.build import pipeline

    folder = root / "tiny"
    folder.mkdir()
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 16]) for n in ("x", "y")]
    weights = numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "tiny", value[:1], value[1:], [weights])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "tiny.onnx")
    spec = {"datatype": "FP32", "shape": [-1, 16]}
    model = {
        "name": "tiny",
        "task": "benchmark",
        "inputs": [{"name": "x", **spec}],
        "outputs": [{"name": "y", **spec}],
        "source": {"onnx": "tiny.onnx"},
        "build": ["fp32"],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    summary = pipeline.build(folder)
    if summary.failed:
        sys.exit(str(summary.failed))


@contextlib.contextmanager
def running(command: list[str], url: str) -> Iterator[None]:
    """A server process, from its first right answer on."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.post(url, content=BODY, trust_env=False)
                if answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [0.5] * 16:
                    break
            time.sleep(0.3)
        else:
            sys.exit(f"no right answer from {url}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def load(url: str, concurrency: int, seconds: float, body: Path) -> tuple[float, float]:
    """Requests per second and the p99 (milliseconds) by h2load; stops the run when an answer was not 200."""
    command = [
        "h2load",
        "--h1",
        "-c",
        str(concurrency),
        "-t",
        "1",
        "-D",
        f"{seconds:.0f}",
        "-d",
        str(body),
        "--log-file",
    ]
    with tempfile.NamedTemporaryFile() as log:
        done = subprocess.run([*command, log.name, url], capture_output=True, text=True, check=True)
        times = [line.split() for line in Path(log.name).read_text().splitlines()]
    if any(fields[1] != "200" for fields in times):
        sys.exit(f"not every answer was 200: {done.stdout}")
    found = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", done.stdout)
    assert found is not None
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        print("h2load is not installed (Debian: nghttp2-client); nothing measured")
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "models").mkdir()
        repository(root / "models")
        body = root / "body.json"
        body.write_text(BODY)
        http, grpc, admin, bare_http, bare_grpc = free_ports(5)
        config = root / "trimtab.yaml"
        ports = {"http_port": http, "grpc_port": grpc, "admin_port": admin}
        settings = {"repository": "models", "server": ports, "host": {"threads": 1}}
        config.write_text(yaml.safe_dump(settings))
        path = "/v2/models/tiny/infer"
        served = [sys.executable, "-m", "server.cli", "serve", "--config", str(config)]
        bare = [sys.executable, "-c", BARE, str(root / "models"), str(bare_http), str(bare_grpc)]
        urls = {"host behind a bare uvicorn": f"http://127.0.0.1:{bare_http}{path}"}
        with running(bare, urls["host behind a bare uvicorn"]), running(served, f"http://127.0.0.1:{http}{path}"):
            urls["served (HAProxy, past Serve's wrapper)"] = f"http://127.0.0.1:{http}{path}"
            parent = next(p for p in psutil.process_iter() if str(config) in " ".join(p.cmdline()))
            urls["through Serve's wrapper"] = f"http://127.0.0.1:{fallback_port(parent.pid)}{path}"
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
            for _ in range(options.rounds):
                for name, url in urls.items():
                    results[name].append(load(url, options.concurrency, options.seconds, body))
        reference = statistics.median(r for r, _ in results["through Serve's wrapper"])
        print(f"concurrency {options.concurrency}, {options.rounds} rounds of {options.seconds:.0f} s, medians")
        for name, rounds in results.items():
            rate, late = (statistics.median(values) for values in zip(*rounds, strict=True))
            print(f"{name:40} {rate:8.0f} requests/s  p99 {late:6.1f} ms  {rate / reference:5.1f} x")


if __name__ == "__main__":
    main()
