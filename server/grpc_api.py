"""The Open Inference Protocol over gRPC: a servicer for grpc.aio, with health and reflection."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import orjson
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server import errors, logs
from server.dataplane import DataPlane
from server.grpc_infer import decode, encode
from server.wishes import from_metadata

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SERVICE_NAMES = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)


class GrpcApi(pb_grpc.GRPCInferenceServiceServicer):
    """See the module; method names are the service's."""

    def __init__(self, dataplane: DataPlane, *, max_tensors: int = 128) -> None:
        self._plane = dataplane
        self._max_tensors = max_tensors

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=self._plane.live())

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            return pb.ModelReadyResponse(ready=self._plane.model_ready(request.name, request.version))

        return await _guarded(context, "ModelReady", answer)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self._plane.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            return pb.ModelMetadataResponse(**self._plane.model_metadata(request.name, request.version))

        return await _guarded(context, "ModelMetadata", answer)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            return pb.ModelConfigResponse(
                config=pb.ModelConfig(**self._plane.model_config(request.name, request.version))
            )

        return await _guarded(context, "ModelConfig", answer)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            lines = self._plane.statistics(request.name, request.version)
            return pb.ModelStatisticsResponse(model_stats=[_statistics(*line) for line in lines])

        return await _guarded(context, "ModelStatistics", answer)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        lines = self._plane.index(ready_only=request.ready)
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in lines]
        )

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            await self._plane.load(request.model_name)
            return pb.RepositoryModelLoadResponse()

        return await _guarded(context, "RepositoryModelLoad", answer)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            await self._plane.unload(request.model_name)
            return pb.RepositoryModelUnloadResponse()

        return await _guarded(context, "RepositoryModelUnload", answer)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            message = decode(request, context.time_remaining(), _wishes(context), self._max_tensors)
            response = await self._plane.infer(message)
            context.set_trailing_metadata((("x-trimtab-variant", response.variant),))
            if logs.requests.isEnabledFor(logging.DEBUG):
                logs.answered("grpc", response.model, request.id, response.variant)
            return encode(response)
        except Exception as error:
            await _abort(context, f"ModelInfer {request.model_name}", error, request.id)


def _wishes(context: Any) -> dict[str, str]:
    return from_metadata(context.invocation_metadata() or ())


async def _guarded(context: Any, method: str, answer: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await answer()
    except Exception as error:
        await _abort(context, method, error)


async def _abort(context: Any, what: str, error: Exception, request_id: str = "") -> None:
    code = errors.grpc_status(error)
    metadata = dict(context.invocation_metadata() or ())
    logs.failed("grpc", what, request_id or str(metadata.get("x-request-id", "")), errors.http_status(error), error)
    trailing: tuple[tuple[str, str], ...] = ()
    if after := errors.retry_after(error):
        trailing = (("retry-after", after),)
    if details := errors.details(error):
        trailing += (("x-trimtab-available", orjson.dumps(details["available"]).decode()),)
    await context.abort(code, errors.message(error), trailing)


def _statistics(name: str, version: str, s: Any) -> Any:
    def duration(d: Any) -> Any:
        return pb.StatisticDuration(count=d.count, ns=d.ns)

    stats = pb.InferStatistics(
        success=duration(s.success), fail=duration(s.fail), queue=duration(s.queue), compute_infer=duration(s.compute)
    )
    batches = [
        pb.InferBatchStatistics(batch_size=size, compute_infer=duration(d)) for size, d in sorted(s.batches.items())
    ]
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=s.last_inference,
        inference_count=s.inference_count,
        execution_count=s.execution_count,
        inference_stats=stats,
        batch_stats=batches,
    )


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1: the server as a whole, or one model by its name as the service. Source: gRPC health checking."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._plane = dataplane

    async def Check(self, request: Any, context: Any) -> Any:
        status = health_pb2.HealthCheckResponse
        if request.service in ("", SERVICE):
            ready = self._plane.ready()
        else:
            try:
                ready = self._plane.model_ready(request.service)
            except Exception as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, errors.message(error))
        return status(status=status.SERVING if ready else status.NOT_SERVING)


class Malformed:
    """Stands for a request whose bytes are not the message they should be. grpc itself would answer UNKNOWN."""


def _parser(message: Any) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return Malformed()

    return parse


def _handler(name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        if isinstance(request, Malformed):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the request is not a valid inference.{name} message"
            )
        return await method(request, context)

    return call


def add_to_server(api: GrpcApi, server: Any) -> None:
    """Register the service, health and reflection on a grpc.aio server."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(method.input_type.name, getattr(api, method.name)),
            request_deserializer=_parser(getattr(pb, method.input_type.name)),
            response_serializer=getattr(pb, method.output_type.name).SerializeToString,
        )
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(Health(api._plane), server)
    reflection.enable_server_reflection(SERVICE_NAMES, server)
