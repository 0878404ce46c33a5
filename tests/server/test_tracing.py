"""Traces of requests over both transports, kept in memory; and that off means untouched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from deployments.config import HostConfig
from deployments.host import ModelHost
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server.dataplane import DataPlane
from server.grpc_api import add_to_server
from server.http_api import HttpApi
from server.metrics_api import MetricsApi
from server.settings import TracingConfig
from server.tracing import Tracing, exporter, trace_id
from variants.repository import load_catalog

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{CALLER}-{flag}" for flag in ("01", "00"))
BODY = {"id": "r1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [0.0] * 256}]}
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


class Traced:
    """A host behind both traced front ends. `spans` are those that have ended, by name."""

    def __init__(self, host: ModelHost, registry: CollectorRegistry, sample_ratio: float) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample_ratio)), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        tracing = Tracing(provider)
        plane = DataPlane(tracing.host(host))
        self.http = tracing.http(HttpApi(plane, routes={"/metrics": MetricsApi(registry)}))
        self.grpc = tracing.grpc(plane)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.http), base_url="http://test")


@pytest.fixture
async def host(affine_repository: Any) -> AsyncIterator[tuple[ModelHost, CollectorRegistry]]:
    registry = CollectorRegistry()
    config = HostConfig(threads=1)
    host = ModelHost(load_catalog(affine_repository), config, registry=registry, host_id="h", trace_id=trace_id)
    await host.start()
    yield host, registry
    await host.stop()


async def test_http_request_queue_batch_engine(host: tuple[ModelHost, CollectorRegistry]) -> None:
    traced = Traced(*host, sample_ratio=0.0)  # the caller has decided
    async with traced.client() as client:
        answer = await client.post("/v2/models/alpha/infer", json=BODY, headers={"traceparent": SAMPLED})
        assert answer.status_code == 200
        text = (await client.get("/metrics", headers=OPENMETRICS)).text
        plain = (await client.get("/metrics")).text
    request, queue, batch, engine = (traced.spans[n] for n in ("POST infer", "queue", "batch", "engine"))
    assert len(traced.spans) == 4
    assert {f"{s.context.trace_id:032x}" for s in traced.spans.values() if s.context} == {TRACE}
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER
    parents = {s.name: s.parent.span_id for s in (queue, batch, engine) if s.parent}
    assert request.context is not None
    assert batch.context is not None
    assert parents == {
        "queue": request.context.span_id,
        "batch": request.context.span_id,
        "engine": batch.context.span_id,
    }
    assert queue.end_time == batch.start_time == engine.start_time
    times = [request.start_time, queue.start_time, queue.end_time, engine.end_time, batch.end_time, request.end_time]
    assert times == sorted(t for t in times if t is not None)
    for span in (request, batch, engine):
        assert span.attributes is not None
        assert (span.attributes["trimtab.model"], span.attributes["trimtab.variant"]) == ("alpha", "full")
    assert batch.attributes is not None
    assert batch.attributes["trimtab.batch.samples"] == 1
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    exemplars = [line for line in text.splitlines() if "# {" in line]
    assert len(exemplars) == 1
    assert exemplars[0].startswith("trimtab_request_duration_seconds_bucket")
    assert f'trace_id="{TRACE}"' in exemplars[0]
    assert text.endswith("# EOF\n")
    assert TRACE not in plain


async def test_what_is_not_sampled_leaves_neither_span_nor_exemplar(host: tuple[ModelHost, CollectorRegistry]) -> None:
    traced = Traced(*host, sample_ratio=1.0)
    async with traced.client() as client:
        await client.post("/v2/models/alpha/infer", json=BODY, headers={"traceparent": UNSAMPLED})
        text = (await client.get("/metrics", headers=OPENMETRICS)).text
    assert traced.spans == {}
    assert "# {" not in text


async def test_errors_are_named_and_only_the_servers_own_mark_the_span(
    host: tuple[ModelHost, CollectorRegistry],
) -> None:
    traced = Traced(*host, sample_ratio=1.0)
    async with traced.client() as client:
        assert (await client.post("/v2/models/alpha/infer", json={"inputs": []})).status_code == 400
        assert traced.spans["POST infer"].status.status_code is StatusCode.UNSET
        await host[0].unload("alpha")
        assert (await client.post("/v2/models/alpha/infer", json=BODY)).status_code == 503
    span = traced.spans["POST infer"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "Unavailable"
    assert "queue" not in traced.spans


async def test_grpc_takes_the_context_from_metadata(host: tuple[ModelHost, CollectorRegistry], free_port: Any) -> None:
    traced = Traced(*host, sample_ratio=0.0)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_to_server(traced.grpc, server)
    port = server.add_insecure_port(f"127.0.0.1:{free_port()}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.ModelInferRequest(model_name="alpha", id="r2")
            request.inputs.add(name="x", datatype="FP32", shape=[1, 256])
            request.raw_input_contents.append(np.zeros((1, 256), np.float32).tobytes())
            answer = await stub.ModelInfer(request, metadata=(("traceparent", SAMPLED),))
            assert answer.parameters["variant"].string_param == "full"
            request.model_name = "nobody"
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(request, metadata=(("traceparent", SAMPLED.replace(TRACE, "a" * 32)),))
    finally:
        await server.stop(1.0)
    good, bad = (s for s in traced._exporter.get_finished_spans() if s.name.endswith("/ModelInfer"))
    assert good.context is not None
    assert f"{good.context.trace_id:032x}" == TRACE
    assert {"queue", "batch", "engine"} < set(traced.spans)
    assert bad.status.status_code is StatusCode.ERROR


def test_exporters_by_scheme() -> None:
    over = {e: type(exporter(e)).__module__ for e in ("http://127.0.0.1:1", "grpc://127.0.0.1:1")}
    assert ".http." in over["http://127.0.0.1:1"]
    assert ".grpc." in over["grpc://127.0.0.1:1"]
    assert exporter("http://127.0.0.1:1")._endpoint == "http://127.0.0.1:1/v1/traces"  # type: ignore[attr-defined]
    assert exporter("https://c/api/traces")._endpoint == "https://c/api/traces"  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        TracingConfig(endpoint="collector:4317")


def test_off_imports_nothing() -> None:
    """A replica without tracing is what it would be without this feature."""
    script = "import sys, server.replica, server.ingress; sys.exit('server.tracing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
