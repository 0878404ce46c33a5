"""OpenTelemetry traces of inference: request → queue, batch → engine, as wrappers around what they observe.

Off (no `tracing.endpoint`), none of this is imported and nothing is wrapped. On, the front ends take the caller's W3C
trace context from HTTP headers or gRPC metadata (`traceparent`, `tracestate`). Sources: W3C Trace Context; OpenTelemetry's
semantic conventions for HTTP and RPC spans; attributes of our own begin with `trimtab.`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from budgets.snapshot import HostState
from budgets.wishes import Candidate
from deployments.api import Answer, Assignment, Deliver, Host, ModelStatus, Statistics, Submitted
from server.dataplane import DataPlane
from server.grpc_api import SERVICE, GrpcApi
from server.http_api import Asgi
from server.models import product_version
from server.settings import TracingConfig
from variants.catalog import Catalog
from variants.engines.base import Tensors
from variants.errors import ConfigError, TrimtabError

CONTEXT = ("traceparent", "tracestate")
NANOSECONDS = 1_000_000_000


def trace_id() -> str | None:
    """The current request's trace as 32 hex digits; None when it is not sampled."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else None


def exporter(endpoint: str) -> SpanExporter:
    """OTLP over HTTP (`http`, `https`) or gRPC (`grpc`, `grpcs`); headers come from OTEL_EXPORTER_OTLP_HEADERS.

    Raises ConfigError when the exporter is not installed.
    """
    scheme, _, address = endpoint.partition("://")
    try:
        if scheme in ("grpc", "grpcs"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

            return OverGrpc(endpoint=address, insecure=scheme == "grpc")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        return OverHttp(endpoint=endpoint if "/" in address else f"{endpoint}/v1/traces")
    except ImportError as error:
        raise ConfigError(
            f"tracing.endpoint needs the exporter: pip install 'trimtab[tracing]' ({error.name})"
        ) from error


class Tracing:
    """Spans of one process, sent in the background by a thread of the SDK's."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("trimtab", product_version())

    @classmethod
    def to(cls, config: TracingConfig, host_id: str) -> Tracing:
        """Traces to the configured endpoint. Raises ConfigError when the exporter is not installed."""
        assert config.endpoint is not None
        resource = Resource.create({"service.name": "trimtab", "service.instance.id": host_id})
        sampler = ParentBased(TraceIdRatioBased(config.sample_ratio))
        provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter(config.endpoint)))
        return cls(provider)

    def host(self, host: Host) -> Host:
        """A host whose requests leave their stages as spans."""
        return _TracedHost(host, self._tracer)

    def http(self, app: Asgi) -> Asgi:
        """An HTTP front end whose inference requests are spans."""
        return _TracedHttp(app, self._tracer)

    def grpc(self, dataplane: DataPlane, *, max_tensors: int = 128) -> GrpcApi:
        """A gRPC servicer whose inference requests are spans."""
        return _TracedGrpc(dataplane, self._tracer, max_tensors)

    def close(self) -> None:
        """Send what is left and stop. Blocks for as long as that takes, some seconds where the endpoint is away."""
        self._provider.shutdown()


def _parent(headers: Iterable[tuple[str, str]]) -> Any:
    return TraceContextTextMapPropagator().extract({key: value for key, value in headers if key in CONTEXT})


class _TracedHttp:
    def __init__(self, app: Asgi, tracer: trace.Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/infer"):
            await self._app(scope, receive, send)
            return
        headers = ((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"])
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} infer",
            _parent(headers),
            SpanKind.SERVER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, sending)


class _TracedGrpc(GrpcApi):
    def __init__(self, dataplane: DataPlane, tracer: trace.Tracer, max_tensors: int = 128) -> None:
        super().__init__(dataplane, max_tensors=max_tensors)
        self._tracer = tracer

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": "ModelInfer"}
        parent = _parent((key, value) for key, value in context.invocation_metadata() or () if key in CONTEXT)
        # What ends a call is grpc's own exception: its status says more.
        with self._tracer.start_as_current_span(
            f"{SERVICE}/ModelInfer",
            parent,
            SpanKind.SERVER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                answer = await super().ModelInfer(request, context)
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise
            span.set_attribute("rpc.grpc.status_code", 0)
            return answer


class _TracedHost:
    """See `deployments.api.Host`. The stages' spans are made when the answer is there, from the times that it carries."""

    def __init__(self, host: Host, tracer: trace.Tracer) -> None:
        self._host = host
        self._tracer = tracer

    @property
    def catalog(self) -> Catalog:
        return self._host.catalog

    async def infer(self, model: str, inputs: Tensors, **options: Any) -> Answer:
        span = trace.get_current_span()
        if not span.is_recording():
            return await self._host.infer(model, inputs, **options)
        span.set_attribute("trimtab.model", model)
        arrival = time.time_ns()
        try:
            answer = await self._host.infer(model, inputs, **options)
        except TrimtabError as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        span.set_attribute("trimtab.variant", answer.variant)
        self._stages(model, answer, arrival, time.time_ns())
        return answer

    def _stages(self, model: str, answer: Answer, arrival: int, now: int) -> None:
        """queue: until the engine call began. batch: from there to the answer's being handed out. engine: the call."""
        attributes: Mapping[str, Any] = {
            "trimtab.model": model,
            "trimtab.variant": answer.variant,
            "trimtab.batch.samples": answer.batch,
        }
        called = min(now, arrival + int(answer.queue_seconds * NANOSECONDS))
        computed = min(now, called + int(answer.compute_seconds * NANOSECONDS))
        self._tracer.start_span("queue", attributes={"trimtab.model": model}, start_time=arrival).end(called)
        batch = self._tracer.start_span("batch", attributes=attributes, start_time=called)
        engine = self._tracer.start_span(
            "engine", trace.set_span_in_context(batch), attributes=attributes, start_time=called
        )
        engine.end(computed)
        batch.end(now)

    def stream(
        self, model: str, inputs: Tensors, *, timeout_seconds: float | None = None, protocol: str = "direct"
    ) -> AsyncGenerator[Answer, None]:
        return self._host.stream(model, inputs, timeout_seconds=timeout_seconds, protocol=protocol)

    def submit(self, model: str, inputs: Tensors, deliver: Deliver, **options: Any) -> Submitted:
        """Without spans: traced requests are answered by `infer`."""
        return self._host.submit(model, inputs, deliver, **options)

    def pressed(self, model: str) -> bool:
        return self._host.pressed(model)

    def turn_away(self, model: str, protocol: str, timeout_seconds: float | None) -> None:
        self._host.turn_away(model, protocol, timeout_seconds)

    def watch(self, model: str, changed: Callable[[], None]) -> None:
        self._host.watch(model, changed)

    def candidate(self, model: str, rows: int = 1, priority: int = 0) -> Candidate:
        return self._host.candidate(model, rows, priority)

    def status(self, model: str) -> ModelStatus:
        return self._host.status(model)

    def statistics(self, model: str) -> Statistics:
        return self._host.statistics(model)

    async def load(self, model: str) -> None:
        await self._host.load(model)

    async def unload(self, model: str) -> None:
        await self._host.unload(model)

    def apply(self, assignment: Assignment) -> None:
        self._host.apply(assignment)

    def observe(self) -> HostState:
        return self._host.observe()
