"""Overload, live: an open-loop load on the served application at up to five times what it sustains.

    python -m benchmarks.overload [--seconds 8] [--factors 0.5 0.9 1.5 2 5]

One model whose engine is the bottleneck, every request with a deadline. First the most that it answers in time is found by
raising the rate; then each factor of it is offered. Arrivals are Poisson and never wait for answers, and times count from
when a request was due. Reported: goodput (answers in time, a second), refusals and how soon they came, deadlines missed,
whether every refusal had `Retry-After`, the replica's memory; and, beside the load, single gRPC calls and what they got.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil
import uvloop
import yaml

from benchmarks.models import layers
from benchmarks.served import Target, running
from protos import open_inference_pb2 as pb
from server.cluster import free_ports

WIDTH, LAYERS = 1024, 20
DEADLINE_SECONDS = 0.5
CONNECTIONS = 4000
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


def heavy(root: Path) -> None:
    """A model whose calls take some milliseconds: layers of WIDTH by WIDTH."""
    random_ = np.random.default_rng(0)
    shapes = [(16, WIDTH), *[(WIDTH, WIDTH)] * LAYERS, (WIDTH, 16)]
    layers(root, "heavy", [random_.standard_normal(s) / s[0] ** 0.5 for s in shapes], max_batch=4)


@dataclass
class Outcome:
    """What became of one load. Seconds from when each request was due."""

    seconds: float
    sent: int = 0
    good: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    other: collections.Counter[str] = field(default_factory=collections.Counter)
    without_retry_after: int = 0

    @property
    def goodput(self) -> float:
        return len(self.good) / self.seconds


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.received = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, due: float) -> None:
        self.due = due
        self.transport.write(self.client.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        self.received = b""
        self.client.answered(self, head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.lost(self)


class Client:
    """Sends what is due on idle connections."""

    def __init__(self, port: int) -> None:
        content = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
        body = json.dumps(content | {"parameters": {"timeout": int(DEADLINE_SECONDS * 1e6)}}).encode()
        self.request = b"POST /v2/models/heavy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
        self.port = port
        self.idle: list[Connection] = []
        self.opened = 0
        self.under_way: set[Connection] = set()
        self.outcome = Outcome(1.0)

    async def open(self, due: float) -> None:
        try:
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self.port
            )
        except OSError as error:
            self.outcome.other[type(error).__name__] += 1
            return
        self.under_way.add(made)
        made.send(due)

    def answered(self, connection: Connection, head: bytes) -> None:
        self.under_way.discard(connection)
        took, status = time.monotonic() - connection.due, head[9:12]
        outcome = self.outcome
        if status == b"200":
            (outcome.good if took <= DEADLINE_SECONDS else outcome.late).append(took)
        elif status == b"503":
            outcome.refused.append(took)
            outcome.without_retry_after += b"retry-after:" not in head.lower()
        elif status == b"504":
            outcome.late.append(took)
        else:
            outcome.other[status.decode()] += 1
        self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        if connection in self.under_way:
            self.under_way.discard(connection)
            self.outcome.other["connection lost"] += 1
        if connection in self.idle:
            self.idle.remove(connection)
        self.opened -= 1

    async def offer(self, rate: float, seconds: float) -> Outcome:
        """Poisson arrivals at that rate, then wait for the last answers."""
        self.outcome = outcome = Outcome(seconds)
        due = time.monotonic()
        end, openings = due + seconds, set()
        while due < end:
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            outcome.sent += 1
            if self.idle:
                connection = self.idle.pop()
                self.under_way.add(connection)
                connection.send(due)
            elif self.opened < CONNECTIONS:
                self.opened += 1
                openings.add(task := asyncio.ensure_future(self.open(due)))
                task.add_done_callback(openings.discard)
            else:
                outcome.other["no connection left to send on"] += 1
            due += random.expovariate(rate)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while openings or self.under_way:  # noqa: ASYNC110 - the timeout bounds it
                    await asyncio.sleep(0.01)
        return outcome


async def probe(port: int, found: collections.Counter[str], times: list[float]) -> None:
    """A gRPC call now and then, until cancelled."""
    request = pb.ModelInferRequest(model_name="heavy")
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


def p99(values: list[float]) -> str:
    return f"{1e3 * float(np.quantile(values, 0.99)):6.1f}" if values else "     -"


async def measure(http: int, rpc: int, replica: psutil.Process, seconds: float, factors: list[float]) -> bool:
    client = Client(http)
    rate = best = 50.0
    failed = 0
    await client.offer(rate, 2.0)  # warm
    while failed < 2:  # the sustainable rate: the last one at which 99 of 100 are answered in time; each has two tries
        outcome = await client.offer(rate, 3.0)
        if len(outcome.good) < 0.99 * outcome.sent:
            failed += 1
        else:
            best, rate, failed = outcome.goodput, rate * 1.25, 0
    print(f"sustainable: {best:.0f} requests/s; deadline {DEADLINE_SECONDS * 1e3:.0f} ms", flush=True)
    print(" offered  goodput  p99 ms | refused/s  p50, p99 ms | late/s | RSS MiB | gRPC beside it", flush=True)
    lines = []
    for factor in factors:
        codes: collections.Counter[str] = collections.Counter()
        times: list[float] = []
        probing = asyncio.ensure_future(probe(rpc, codes, times))
        o = await client.offer(factor * best, seconds)
        probing.cancel()
        rss = replica.memory_info().rss >> 20
        half = f"{1e3 * float(np.median(o.refused)):6.1f}" if o.refused else "     -"
        said = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        print(
            f"{factor:4.1f} x {factor * best:6.0f} {o.goodput:6.0f}/s {p99(o.good)} | {len(o.refused) / seconds:7.0f} {half} "
            f"{p99(o.refused)} | {len(o.late) / seconds:6.1f} | {rss:5} | {said}; refused p99 {p99(times)} ms"
            + (f"; {o.without_retry_after} refusals without Retry-After" if o.without_retry_after else "")
            + (f"; {dict(o.other)}" if o.other else ""),
            flush=True,
        )
        lines.append(o)
    peak, last = max(o.goodput for o in lines), lines[-1]
    soon = not last.refused or float(np.quantile(last.refused, 0.99)) <= 0.05
    kept = last.goodput >= 0.9 * peak and not last.without_retry_after
    print(f"goodput at {factors[-1]:g} x: {last.goodput / peak:.2f} of its peak; refusals within 50 ms: {soon}")
    return soon and kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
            replicas = [
                p
                for p in psutil.Process(process.pid).children(recursive=True)
                if "ServeReplica:trimtab:host" in " ".join(p.cmdline())
            ]
            return not uvloop.run(measure(http, rpc, replicas[0], options.seconds, options.factors))


if __name__ == "__main__":
    sys.exit(main())
