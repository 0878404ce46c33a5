"""Real servers around a real server: Prometheus, an OTLP collector, exporters that answer with a text."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@contextlib.contextmanager
def serving(
    *, get: Callable[[], bytes] = lambda: b"", post: Callable[[bytes], None] = lambda body: None
) -> Iterator[str]:
    """A loopback HTTP server; yields its address. `get` makes the answer, `post` takes a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(get())

        def do_POST(self) -> None:
            post(self.rfile.read(int(self.headers["content-length"])))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Collector:
    """What arrived by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


class Prometheus:
    """A real Prometheus server that scrapes every second and stores exemplars."""

    def __init__(self, binary: str, folder: Path, port: int, jobs: list[dict[str, Any]]) -> None:
        document = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def wait_up(self, targets: int, seconds: float = 60) -> None:
        """Return when every target is up."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if len(self.get("query", query="up == 1")["result"]) == targets:
                    return
            assert time.monotonic() < deadline, self.get("targets")
            time.sleep(0.5)

    def get(self, what: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{what}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def series(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """Series of a range query that have at least one number."""
        found = self.get("query_range", query=expr, start=start, end=end, step="5s")["result"]
        return [s for s in found if any(value != "NaN" for _, value in s["values"])]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._client.close()
        self._log.close()
