"""Overload, live: an open-loop load on the served application at up to five times what it sustains.

    python -m benchmarks.overload [--model heavy] [--seconds 8] [--factors 0.5 0.9 1.5 2 5]

Every request has a deadline. `heavy` is a model whose engine is the bottleneck, `tiny` one whose calls take some microseconds,
so that what carries requests is. First the most that is answered in time is found by raising the rate; then each factor of it
is offered. Arrivals are Poisson and never wait for answers, and times count from when a request was due (`load.c`).
Reported: goodput (answers in time, a second), refusals and how soon they came, deadlines missed, whether every refusal had
`Retry-After`, the replica's memory, how many cores each process took; and, beside the load, single gRPC calls and what they
got. Needs a C compiler (Debian: gcc).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import uvloop
import yaml

from benchmarks.clients import command, plan_bytes, poisson, read
from benchmarks.models import layers
from benchmarks.served import Target, running
from protos import open_inference_pb2 as pb
from server.cluster import free_ports

WIDTH, LAYERS = 1024, 20
DEADLINE_SECONDS = 0.5
CONNECTIONS = 3000
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
#: Where the search for the sustainable rate begins, requests a second.
FIRST = {"heavy": 50.0, "tiny": 1000.0}


def heavy(root: Path) -> None:
    """A model whose calls take some milliseconds: layers of WIDTH by WIDTH."""
    random_ = np.random.default_rng(0)
    shapes = [(16, WIDTH), *[(WIDTH, WIDTH)] * LAYERS, (WIDTH, 16)]
    layers(root, "heavy", [random_.standard_normal(s) / s[0] ** 0.5 for s in shapes], max_batch=4)


@dataclass(frozen=True)
class Outcome:
    """What became of one load: of each arrival the status (0: it found no connection, or lost it), the seconds from when it
    was due, and whether the answer said when to come again."""

    seconds: float
    status: np.ndarray
    took: np.ndarray
    retry_after: np.ndarray

    @classmethod
    def read(cls, seconds: float, told: bytes) -> Outcome:
        """What `load.c` wrote."""
        rows = [
            (status, ended - due, b"\nretry-after:" in answer.lower()) for _, status, due, ended, answer in read(told)
        ]
        status, took, retry_after = (np.array(column) for column in zip(*rows, strict=True))
        return cls(seconds, status, took, retry_after)

    @property
    def sent(self) -> int:
        return len(self.status)

    @property
    def good(self) -> np.ndarray:
        """Answers in time."""
        return self.took[(self.status == 200) & (self.took <= DEADLINE_SECONDS)]

    @property
    def goodput(self) -> float:
        return len(self.good) / self.seconds

    @property
    def refused(self) -> np.ndarray:
        return self.took[self.status == 503]

    @property
    def without_retry_after(self) -> int:
        return int(((self.status == 503) & ~self.retry_after).sum())

    @property
    def late(self) -> int:
        """Answers that came too late, or that the server gave up."""
        return int(((self.status == 200) & (self.took > DEADLINE_SECONDS)).sum() + (self.status == 504).sum())

    @property
    def other(self) -> dict[str, int]:
        """Everything else."""
        words = {0: "without a connection"}
        found = collections.Counter(self.status[~np.isin(self.status, (200, 503, 504))].tolist())
        return {words.get(status, str(status)): count for status, count in found.items()}


class Load:
    """Requests for one model, sent by a program of its own."""

    def __init__(self, port: int, model: str) -> None:
        content = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
        body = json.dumps(content | {"parameters": {"timeout": int(DEADLINE_SECONDS * 1e6)}}).encode()
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._port = port
        self._offered = 0

    async def offer(self, rate: float, seconds: float) -> Outcome:
        """Poisson arrivals at that rate, until the last one's answer."""
        self._offered += 1
        plan = plan_bytes([self._request], poisson(rate, seconds, [1.0], self._offered))
        pipe = asyncio.subprocess.PIPE
        words = command("open", self._port, CONNECTIONS, seconds)
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
        told, _ = await process.communicate(plan)
        if process.returncode:
            sys.exit(f"load.c ended with {process.returncode}")
        return Outcome.read(seconds, told)


async def probe(port: int, model: str, found: collections.Counter[str], times: list[float]) -> None:
    """A gRPC call now and then, until cancelled."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(np.full(16, 0.5, np.float32).tobytes())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(GRPC_PATH)
        while True:
            started = time.monotonic()
            try:
                await infer(request.SerializeToString(), timeout=DEADLINE_SECONDS)
                found["OK"] += 1
            except grpc.aio.AioRpcError as error:
                keys = [key for key, _ in error.trailing_metadata() or ()]
                found[error.code().name + (" with retry-after" if "retry-after" in keys else "")] += 1
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    times.append(time.monotonic() - started)
            await asyncio.sleep(0.05)


def cores(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds used so far, by name; the load generators' together."""
    own = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own | {"generator": children.ru_utime + children.ru_stime}


def quantile(values: np.ndarray | list[float], share: float) -> str:
    return f"{1e3 * float(np.quantile(values, share)):6.1f}" if len(values) else "     -"


async def sustainable(load: Load, rate: float) -> float:
    """The last rate, each a quarter above the one before, at which 99 of 100 are answered in time; each has two tries."""
    best, failed = rate, 0
    await load.offer(rate, 2.0)  # warm
    while failed < 2:
        outcome = await load.offer(rate, 3.0)
        if len(outcome.good) < 0.99 * outcome.sent:
            failed += 1
        else:
            best, rate, failed = outcome.goodput, rate * 1.25, 0
    return best


async def measure(
    load: Load, rpc: int, model: str, processes: Mapping[str, psutil.Process], seconds: float, factors: list[float]
) -> bool:
    best = await sustainable(load, FIRST[model])
    print(f"sustainable: {best:.0f} requests/s; deadline {DEADLINE_SECONDS * 1e3:.0f} ms", flush=True)
    print(
        " offered       goodput  p99 ms | refused/s  p50, p99 ms | late/s | RSS MiB | cores | gRPC beside it",
        flush=True,
    )
    lines = []
    for factor in factors:
        codes: collections.Counter[str] = collections.Counter()
        times: list[float] = []
        probing = asyncio.ensure_future(probe(rpc, model, codes, times))
        before, began = cores(processes), time.monotonic()
        o = await load.offer(factor * best, seconds)
        took = time.monotonic() - began
        used = ", ".join(f"{name} {(now - before[name]) / took:.2f}" for name, now in cores(processes).items())
        probing.cancel()
        rss = processes["replica"].memory_info().rss >> 20
        said = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        print(
            f"{factor:4.1f} x {factor * best:6.0f} {o.goodput:6.0f}/s {quantile(o.good, 0.99)} | "
            f"{len(o.refused) / seconds:7.0f} {quantile(o.refused, 0.5)} {quantile(o.refused, 0.99)} | "
            f"{o.late / seconds:6.1f} | {rss:5} | {used} | {said}; refused p99 {quantile(times, 0.99)} ms"
            + (f"; {o.without_retry_after} refusals without Retry-After" if o.without_retry_after else "")
            + (f"; {o.other}" if o.other else ""),
            flush=True,
        )
        lines.append(o)
    peak, last = max(o.goodput for o in lines), lines[-1]
    soon = not len(last.refused) or float(np.quantile(last.refused, 0.99)) <= 0.05
    kept = last.goodput >= 0.9 * peak and not last.without_retry_after
    print(f"goodput at {factors[-1]:g} x: {last.goodput / peak:.2f} of its peak; refusals within 50 ms: {soon}")
    return soon and kept


def parts(server: int) -> dict[str, psutil.Process]:
    """The processes that a request passes through."""
    children = psutil.Process(server).children(recursive=True)
    replica = next(p for p in children if "ServeReplica:trimtab:host" in " ".join(p.cmdline()))
    proxies = [p for p in psutil.process_iter() if p.name() == "haproxy" and p.uids() == replica.uids()]
    return {"replica": replica, "proxy": max(proxies, key=lambda p: p.create_time())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(FIRST), default="heavy")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 0.9, 1.5, 2.0, 5.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "models").mkdir()
        layers(root / "models", "tiny", [np.eye(16)])
        heavy(root / "models")
        http, rpc, admin = free_ports(3)
        ports = {"http_port": http, "grpc_port": rpc, "admin_port": admin}
        settings = {"repository": "models", "server": ports, "host": {"threads": 1}}
        (root / "trimtab.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "server.cli", "serve", "--config", str(root / "trimtab.yaml")]
        targets = [Target("served by trimtab", protocol, port) for protocol, port in (("http", http), ("grpc", rpc))]
        with running(command, *targets) as process:
            time.sleep(3)  # Serve replaces its first HAProxy once the ports are known
            load = Load(http, options.model)
            work = measure(load, rpc, options.model, parts(process.pid), options.seconds, options.factors)
            return not uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main())
