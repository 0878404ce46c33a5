"""trimtab and its peers as processes: started in environments of their own, ready once they answer right, stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks import accounting, configure
from benchmarks.models import CACHE, ROOT, Served, describe
from benchmarks.peers.engine import MODELS
from server.cluster import free_ports
from tests.conformance.environments import python

READY_SECONDS = 240.0
STOP_SECONDS = 60.0


def stop_on_sigterm() -> None:
    """Let SIGTERM end this process by way of what stops the servers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class ServerFailed(Exception):
    """A server cannot be installed or does not answer right; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A kind of server. `prepare` writes what it needs into a folder and returns its command."""

    title: str
    prepare: Callable[[configure.Plan], list[str]]
    grpc: bool = True


PEERS: Mapping[str, Peer] = {
    "trimtab": Peer("trimtab", configure.trimtab),
    "triton": Peer("Triton (Python backend)", configure.triton),
    "mlserver": Peer("MLServer", configure.mlserver),
    "litserve": Peer("LitServe", configure.litserve, grpc=False),
    "bentoml": Peer("BentoML", configure.bentoml, grpc=False),
    "ray": Peer("Ray Serve", configure.ray),
}


def interpreter(name: str) -> str:
    """The Python that a peer runs in, installed when it is not yet. Raises ServerFailed with the installer's reason."""
    if name == "trimtab":
        return sys.executable
    requirements = (ROOT / "benchmarks" / "peers" / f"{name}.txt").read_text(encoding="utf-8").split()
    try:
        return python(CACHE / name, requirements)
    except subprocess.CalledProcessError as error:
        raise ServerFailed(f"cannot be installed: {(error.stderr or str(error)).strip()[-400:]}") from error


class Server:
    """One that runs. `pid` is of the process that was started, `mark` of all (see `accounting`)."""

    def __init__(self, name: str, models: Sequence[Served], ports: configure.Ports, pid: int, mark: str) -> None:
        self.name = name
        self.peer = PEERS[name]
        self.models = models
        self.ports = ports
        self.pid = pid
        self.mark = mark

    def url(self, model: Served) -> str:
        """Where a model answers over HTTP: all take the same JSON at the same path."""
        return f"http://127.0.0.1:{self.ports.http}/v2/models/{model.name}/infer"

    @property
    def grpc_url(self) -> str:
        """The method that infers, as an HTTP/2 client names it."""
        return f"http://127.0.0.1:{self.ports.grpc}/inference.GRPCInferenceService/ModelInfer"

    def usage(self) -> accounting.Usage:
        """What its processes have used and hold."""
        return accounting.usage(self.mark, self.pid)

    def ask(self, model: Served, index: int = 0, seconds: float = 10.0) -> str:
        """One answer over HTTP, as text. Raises ServerFailed unless it is right."""
        try:
            answer = httpx.post(
                self.url(model), content=model.bodies[index], headers=JSON, timeout=seconds, trust_env=False
            )
        except httpx.HTTPError as error:
            raise ServerFailed(f"{self.name}, {model.name}: {type(error).__name__}: {error}") from error
        if not model.right(index, answer.status_code, answer.content):
            raise ServerFailed(f"{self.name}, {model.name}: a wrong answer, {answer.status_code}: {answer.text[:300]}")
        return answer.text


JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def running(
    name: str, models: Sequence[Served], scratch: Path, *, threads: int, instances: int = 1
) -> Iterator[Server]:
    """A server of that kind with these models, from its first right answer of each on. Raises ServerFailed."""
    folder = scratch / name
    folder.mkdir()
    mark = secrets.token_hex(8)
    ports = configure.Ports(*free_ports(4))
    plan = configure.Plan(interpreter(name), folder, models, ports, threads, instances)
    environment = {
        **os.environ,
        MODELS: str(describe(models, folder / "models.json")),
        "PYTHONPATH": str(ROOT),
        "RAY_worker_niceness": "0",  # Ray's workers give way to everything by default, the load generator too
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        accounting.MARK: mark,
    }
    command = PEERS[name].prepare(plan)
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    server = Server(name, models, ports, process.pid, mark)
    try:
        _wait(server, process, log)
        yield server
    finally:
        _stop(server, process)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    for model in server.models:
        while True:
            try:
                server.ask(model)
                break
            except ServerFailed as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    told = log.read_text(errors="replace").strip()[-1500:]
                    raise ServerFailed(f"not ready ({error}); the end of its log:\n{told}") from None
                time.sleep(0.3)


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    family = accounting.processes(server.mark, process.pid)
    assert process.stdin is not None
    process.stdin.close()  # the launcher of Triton ends with it
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=5)
    for left in alive:
        with contextlib.suppress(psutil.Error):
            left.kill()
    process.wait()
