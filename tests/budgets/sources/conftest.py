"""What a host exposes, on a loopback endpoint, and a real Prometheus server that scrapes it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from budgets import exposition as names
from budgets.snapshot import HostState

MIB = 2**20


class Exporter:
    """One host process' metrics. `up = False` answers 503; `url` is its endpoint."""

    def __init__(self, pid: int = 1) -> None:
        self.registry = CollectorRegistry()
        self.up = True
        self.extra = b""
        labels = ["model", "variant"]
        self.duration = Histogram(
            names.REQUEST_DURATION, "-", labels, buckets=names.LATENCY_BUCKETS, registry=self.registry
        )
        self.seconds = Counter(names.ENGINE_SECONDS, "-", labels, registry=self.registry)
        self.samples = Counter(names.ENGINE_SAMPLES, "-", labels, registry=self.registry)
        self.queue = Gauge(names.QUEUE_DEPTH, "-", ["model"], registry=self.registry)
        self.memory = Gauge(names.PROCESS_MEMORY, "-", ["pid", "role"], registry=self.registry)
        self.neighbour = Gauge(names.NEIGHBOUR_MEMORY, "-", ["neighbour"], registry=self.registry)
        self.used = Gauge(names.NODE_MEMORY_USED, "-", registry=self.registry)
        self.limit = Gauge(names.NODE_MEMORY_LIMIT, "-", registry=self.registry)
        self.cpu = Gauge(names.NODE_CPU, "-", registry=self.registry)
        self.pid = str(pid)
        self.memory.labels(self.pid, "host").set(300 * MIB)
        self.used.set(700 * MIB)
        self.limit.set(1000 * MIB)
        self.cpu.set(0.25)

        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if exporter.up else 503)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(generate_latest(exporter.registry) + exporter.extra)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/metrics"

    def answered(self, model: str, variant: str, times: int, seconds: float) -> None:
        """`times` requests of one sample, each `seconds` long and half of that in the engine."""
        self.queue.labels(model)
        for _ in range(times):
            self.duration.labels(model, variant).observe(seconds)
        self.seconds.labels(model, variant).inc(times * seconds / 2)
        self.samples.labels(model, variant).inc(times)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter()
    yield made
    made.close()


@pytest.fixture
def second_exporter() -> Iterator[Exporter]:
    made = Exporter(pid=2)
    yield made
    made.close()


def host(exporter: Exporter) -> HostState:
    """The host behind an exporter."""
    return HostState(
        host=f"h{exporter.pid}",
        pid=int(exporter.pid),
        at=time.time(),
        observed_generation=1,
        variants={},
        metrics_url=exporter.url,
    )


@pytest.fixture(scope="session")
def host_of() -> Callable[[Exporter], HostState]:
    return host


class PrometheusServer:
    """A real server that scrapes `targets` every second. `stop()` ends it."""

    def __init__(self, binary: str, folder: Path, port: int, targets: list[str]) -> None:
        scrape = {"job_name": "trimtab", "static_configs": [{"targets": targets, "labels": {"app": "mine"}}]}
        document = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
        self.url = f"http://127.0.0.1:{port}"
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"prometheus did not come up: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def prometheus(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., PrometheusServer]]:
    """Starts a Prometheus server on the exporters given."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus binary on PATH (Debian: apt-get install prometheus)")
    started: list[PrometheusServer] = []

    def start(*exporters: Exporter) -> PrometheusServer:
        folder = tmp_path / f"prometheus-{len(started)}"
        folder.mkdir()
        started.append(PrometheusServer(binary, folder, free_port(), [e.address for e in exporters]))
        return started[-1]

    yield start
    for server in started:
        server.stop()
