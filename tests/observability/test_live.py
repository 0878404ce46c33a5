"""Every panel and every alert against a real Prometheus that scrapes the real server, under traffic with swaps in it;
traces and log lines of that server."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from deployments.gpu import GpuReading, Gpus
from deployments.node_metrics import NodeCollector
from tests.observability.panels import QUERIES, RECORDED, Asked
from tests.observability.stage import Collector, Prometheus, serving
from tests.ray.conftest import Server, start, stop

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400)]
NAMESPACE, JOB = "ml", "ml/demo-trimtab"  # as the rules of tests/helm are rendered
BINARY = shutil.which("prometheus")


@dataclass(frozen=True)
class Live:
    """What was measured between `start` and `end`, and what else the server left behind."""

    prometheus: Prometheus
    collector: Collector
    start: float
    end: float
    lines: list[dict[str, Any]]

    def series(self, expr: str) -> list[dict[str, Any]]:
        return self.prometheus.series(expr, self.start, self.end)


def gpu_exposition() -> bytes:
    """What a host with a GPU exposes of it, from the real collector over a made-up reading."""

    class OneGpu(Gpus):
        def read(self) -> tuple[GpuReading, ...]:
            return (GpuReading(0, 6 << 30, 80 << 30, 0.37, {os.getpid(): 5 << 30}),)

    registry = CollectorRegistry()
    registry.register(NodeCollector(OneGpu(), role="host"))
    return b"".join(
        line for line in generate_latest(registry).splitlines(keepends=True) if b"gpu" in line.split(b"{")[0]
    )


def configuration(repository: Path, free_port: Callable[[], int], collector: str) -> dict[str, Any]:
    ram = {"name": "ram", "resource": "ram", "scope": "trimtab", "neighbours": [{"name": "job", "pid": os.getpid()}]}
    return {
        "repository": str(repository),
        "server": {"http_port": free_port(), "grpc_port": free_port(), "admin_port": free_port()},
        "metrics": {"ray_port": free_port()},
        "host": {"threads": 1},
        "controller": {"tick_seconds": 0.5, "cooldown_seconds": 0.5},
        "budgets": [ram],
        "models": {"alpha": {"slo": {"latency_seconds": 0.5}}},
        "logging": {"format": "json", "level": "debug"},
        "tracing": {"endpoint": f"http://{collector}", "sample_ratio": 1.0},
    }


def jobs(server: Server, ray_port: int, dcgm: str, gpu: str) -> list[dict[str, Any]]:
    """As the operator would have them: target labels that say where a series is from."""
    urls = [h["metrics_url"] for h in server.hosts()] + [server.status()["control"]["metrics_url"]]
    mine = [re.sub(r"^http://|/metrics$", "", url) for url in urls]
    labels = {"namespace": NAMESPACE, "pod": "demo-trimtab-1"}
    return [
        {"job_name": JOB, "static_configs": [{"targets": [*mine, gpu], "labels": labels}]},
        {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{ray_port}"], "labels": labels}]},
        {"job_name": "dcgm", "static_configs": [{"targets": [dcgm], "labels": {"namespace": "gpu-operator"}}]},
    ]


def traffic(server: Server) -> None:
    """Half a minute of it: answers, clients' mistakes, deadlines that pass, swaps, one of which is rolled back."""
    row = [0.0] * 256

    def infer(rows: int, **more: Any) -> int:
        x = {"name": "x", "datatype": "FP32", "shape": [rows, 256], "data": row * rows}
        return server.post("/v2/models/alpha/infer", {"id": "mine", "inputs": [x], **more}).status_code

    def pin(model: str, variant: str) -> None:
        assert server.post("/admin/v1/pin", {"model": model, "variant": variant}).status_code == 200

    with ExitStack() as stack:
        loads = [server.load(30, "alpha", 0), server.load(30, "beta", 7)]
        for load in loads:
            stack.enter_context(load)
            stack.callback(load.kill)
        for model, variant in (("alpha", "lite"), ("beta", "broken"), ("alpha", "full"), ("alpha", "lite")):
            pin(model, variant)
            for _ in range(5):
                assert infer(9) == 400
                assert infer(1, parameters={"timeout": 1}) in (503, 504)  # refused beforehand, or too late
                time.sleep(1)
        for load in loads:
            report = server.report(load)
            assert report["failed"] == 0, report


@pytest.fixture(scope="module")
def live(
    affine_repository: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Live]:
    if BINARY is None:
        pytest.skip("no prometheus binary on PATH (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("live")
    collector = Collector()
    dcgm = (RECORDED / "dcgm.prom").read_bytes()
    with ExitStack() as stack:
        otlp = stack.enter_context(serving(post=collector.take))
        exporters = [stack.enter_context(serving(get=lambda text=text: text)) for text in (dcgm, gpu_exposition())]
        document = configuration(affine_repository, free_port, otlp)
        config = folder / "trimtab.yaml"
        config.write_text(yaml.safe_dump(document))
        server = start(config, affine_repository)
        stack.callback(lambda: [survivor.kill() for survivor in stop(server.process)])
        server.wait("ready", lambda: "ready in" in server.log.read_text(), seconds=120)
        server.wait("the controller", lambda: len(server.hosts()) == 1)
        targets = jobs(server, document["metrics"]["ray_port"], *exporters)
        prometheus = Prometheus(BINARY, folder, free_port(), targets)
        stack.callback(prometheus.stop)
        prometheus.wait_up(5)
        began = time.time()
        traffic(server)
        time.sleep(8)  # the exporter of spans sends every five seconds
        ended = time.time()
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        yield Live(prometheus, collector, began, ended, lines)


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.where)
def test_a_panel_shows_something(live: Live, query: Asked) -> None:
    assert live.series(query.filled(namespace=NAMESPACE)), query.filled(namespace=NAMESPACE)


def test_every_alert_has_what_it_looks_at(live: Live) -> None:
    """An alert is silent when all is well: what it compares must be there, whatever the comparison says of it. Subqueries
    look more often than once a minute, which is as long as this ran."""
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    from tests.helm.test_alerts import rules

    for rule in rules():
        looked_at = re.sub(r"(==|>|<)\s*(bool\s+)?[0-9.]+", "", rule["expr"]).replace(":1m]", ":5s]")
        assert live.series(looked_at), f"{rule['alert']}: {looked_at}"


def test_alerts_of_what_happened_would_fire(live: Live) -> None:
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    from tests.helm.test_alerts import rules

    firing = {rule["alert"] for rule in rules() if live.series(rule["expr"])}
    happened = {"TrimtabSwapFailed", "TrimtabVariantQuarantined"}
    assert happened <= firing
    assert firing <= happened | {"TrimtabRequestsFailing", "TrimtabSloBurningFast", "TrimtabSloBurningSlowly"}


def test_traces_arrive_at_the_collector(live: Live) -> None:
    assert live.collector.services == {"trimtab"}
    names = {span.name for span in live.collector.spans}
    assert {"POST infer", "inference.GRPCInferenceService/ModelInfer", "queue", "batch", "engine"} <= names
    by_id = {span.span_id: span for span in live.collector.spans}
    engine = next(s for s in live.collector.spans if s.name == "engine" and s.parent_span_id in by_id)
    batch = by_id[engine.parent_span_id]
    assert batch.name == "batch"
    assert by_id[batch.parent_span_id].name.endswith("nfer")
    variants = {a.value.string_value for s in live.collector.spans for a in s.attributes if a.key == "trimtab.variant"}
    assert {"full", "lite"} <= variants


def test_latency_histograms_lead_to_traces(live: Live) -> None:
    found = live.prometheus.get(
        "query_exemplars", query="trimtab_request_duration_seconds_bucket", start=live.start, end=live.end
    )
    stored = {e["labels"]["trace_id"] for series in found for e in series["exemplars"]}
    assert stored & {span.trace_id.hex() for span in live.collector.spans}


def test_lines_of_all_processes(live: Live) -> None:
    assert {line["process"] for line in live.lines} == {"server", "host", "controller"}
    decisions = [line for line in live.lines if line["logger"] == "trimtab.decisions"]
    swaps = [swap for line in decisions for swap in line["swaps"]]
    assert ("alpha", "full", "lite") in {(s["model"], s["from_variant"], s["to_variant"]) for s in swaps}
    assert "rolled_back" in {record["outcome"] for line in decisions for record in line["outcomes"]}
    late = [line for line in live.lines if line.get("status") in (503, 504)]
    assert {line["id"] for line in late} == {"mine"}
    assert {line["level"] for line in late} == {"warning"}
