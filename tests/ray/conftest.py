"""One real server for all tests of this folder: `trimtab serve` as a user starts it, on free ports, two replicas."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

HERE = Path(__file__).parent


@dataclass
class Server:
    """A running server: its process, its ports, and its repository."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    admin_port: int
    repository: Path
    config: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self._base(path) + path, timeout=10, trust_env=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self._base(path) + path, json=body, timeout=30, trust_env=False)

    def _base(self, path: str) -> str:
        return self.admin_url if path.startswith("/admin/") else self.url

    def status(self) -> dict[str, Any]:
        return dict(self.get("/admin/v1/status").raise_for_status().json())

    def hosts(self) -> list[dict[str, Any]]:
        return list(self.status()["hosts"])

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 40) -> None:
        """Poll until the condition holds; an answer that fails meanwhile counts as not yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError, KeyError, TypeError):
                if condition():
                    return
            time.sleep(0.2)
        pytest.fail(f"{what}: not within {seconds} s; server log:\n{self.log.read_text()[-2000:]}")

    def settled_on(self, model: str, variant: str) -> Callable[[], bool]:
        """True when every replica runs that variant and none is swapping."""

        def condition() -> bool:
            hosts = self.hosts()
            return len(hosts) == 2 and all(h["variants"][model] == variant and not h["swapping"] for h in hosts)

        return condition

    def load(self, seconds: float, model: str, seed: int) -> subprocess.Popen[str]:
        """Start Triton clients against a model; `finish` reads their report."""
        arguments = [str(self.http_port), str(self.grpc_port), str(seconds), model, str(seed)]
        command = [sys.executable, str(HERE / "load.py"), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @staticmethod
    def report(load: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for `load` to end and return what it counted."""
        text, _ = load.communicate(timeout=120)
        assert load.returncode == 0, text
        return dict(json.loads(text.splitlines()[-1]))

    def resubmit(self) -> None:
        """See `resubmit.py`."""
        command = [sys.executable, str(HERE / "resubmit.py"), str(self.config)]
        subprocess.run(command, env=psutil.Process(self.process.pid).environ(), timeout=60, check=True)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `trimtab` command against this server."""
        command = [sys.executable, "-m", "server.cli", *arguments, "--url", self.admin_url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def start(config: Path, repository: Path) -> Server:
    """`trimtab serve` in a session of its own, as a shell would start it; its log is beside the configuration."""
    command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config)]
    log = config.with_suffix(".log")
    ports = yaml.safe_load(config.read_text())["server"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    return Server(process, ports["http_port"], ports["grpc_port"], ports["admin_port"], repository, config, log)


def stop(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ctrl-C; returns whatever of its processes is still alive afterwards."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=5)
        return list(alive)
    return []


@pytest.fixture(scope="session")
def server(
    affine_repository: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    document = {
        "repository": str(affine_repository),
        "replicas": 2,
        "resources": {"num_cpus": 0.5},
        "server": {
            "http_port": free_port(),
            "grpc_port": free_port(),
            "admin_port": free_port(),
            "max_body_bytes": "4MiB",
        },
        "host": {"threads": 1},
        "controller": {"tick_seconds": 0.5, "cooldown_seconds": 0.5, "stage_seconds": 1, "peak_seconds": 1},
        "budgets": [{"name": "ram", "resource": "ram", "scope": "node", "enter": 0.99, "exit": 0.98}],
    }
    config = folder / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document))
    running = start(config, affine_repository)
    try:
        running.wait("ready", lambda: "ready in" in running.log.read_text(), seconds=90)
        running.wait("both replicas", lambda: len(running.hosts()) == 2)
        yield running
    finally:
        for survivor in stop(running.process):
            survivor.kill()


@pytest.fixture(scope="session")
def ray_tools() -> Any:
    """`start` and `stop` for a test that wants a server of its own."""

    class Tools:
        start = staticmethod(start)
        stop = staticmethod(stop)

    return Tools
