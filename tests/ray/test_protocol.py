"""The protocol's extensions through Ray Serve: HAProxy in front of two replicas, and Serve's fallback proxy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

WIDTH = 256
STREAM = {"ids": ["0", "1", "2", "4"], "errors": 1}
EVENTS = [200, "text/event-stream; charset=utf-8", [["e", WIDTH]]]


def extensions(http: int, grpc: int, *options: str) -> dict[str, Any]:
    script = Path(__file__).with_name("extensions.py")
    command = [sys.executable, str(script), str(http), str(grpc), "alpha", str(WIDTH), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_streams_and_shared_memory_whichever_replica_answers(server: Any) -> None:
    seen = extensions(server.http_port, server.grpc_port)
    assert seen == {"stream": STREAM, "events": EVENTS, "shared": 40}
    assert server.get("/v2/systemsharedmemory/status").json() == []


def test_streams_through_the_fallback_proxy(server: Any) -> None:
    """Where HAProxy sends what arrives while it knows of no replica."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    environment = next(e for p in family if "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT" in (e := p.environ()))
    ports = [int(environment[f"RAY_SERVE_FALLBACK_PROXY_{kind}_PORT"]) for kind in ("HTTP", "GRPC")]
    seen = extensions(*ports, "stream only")
    assert (seen["stream"], seen["events"]) == (STREAM, EVENTS)


def test_answers_are_compressed_and_described(server: Any) -> None:
    url = f"{server.url}/v2/models/alpha/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.0] * WIDTH}]}
    answer = httpx.post(url, json=body, headers={"accept-encoding": "gzip"}, trust_env=False, timeout=20)
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.json()["outputs"][0]["data"]) == WIDTH
    assert server.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_models_are_unloaded_and_loaded_on_every_replica(server: Any) -> None:
    """Whichever is asked; a replica that starts meanwhile follows, also when the Serve configuration has been submitted anew,
    and what is unloaded on request makes no server unready."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.0] * WIDTH}]}

    def statuses() -> set[int]:
        url = f"{server.url}/v2/models/beta/infer"
        return {httpx.post(url, json=body, trust_env=False, timeout=20).status_code for _ in range(12)}

    assert statuses() == {200}
    try:
        assert server.post("/v2/repository/models/beta/unload", {}).status_code == 200
        assert statuses() == {503}
        assert server.get("/v2/health/ready").status_code == 200
        assert server.status()["models"]["beta"]["unloaded"]
        server.resubmit()
        server.wait("the hosts to be told again", lambda: "they are told the latter again" in server.log.read_text())
        server.wait("them to hear it", lambda: all(h["told"][1] == h["orders"] > 0 for h in server.hosts()))
        assert statuses() == {503}
        before = {h["pid"] for h in server.hosts()}
        psutil.Process(before.copy().pop()).kill()
        server.wait("another replica", lambda: len({h["pid"] for h in server.hosts()} - before) == 1, seconds=90)
        server.wait("two of them", lambda: len(server.hosts()) == 2, seconds=60)
        assert statuses() == {503}
    finally:
        loaded = server.post("/v2/repository/models/beta/load", {})
    assert loaded.status_code == 200, loaded.text
    assert statuses() == {200}
    assert not server.status()["models"]["beta"]["unloaded"]
    assert server.post("/v2/repository/models/nobody/load", {}).status_code == 404
