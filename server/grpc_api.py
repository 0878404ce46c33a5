"""The Open Inference Protocol over gRPC: a servicer for grpc.aio, with health and reflection."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
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
from server.grpc_extensions import Extensions
from server.grpc_infer import decode, encode
from server.inference import FINAL_RESPONSE
from server.streaming import in_order
from server.wishes import from_metadata
from variants.errors import UnknownModel

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SERVICE_NAMES = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)


class GrpcApi(Extensions, pb_grpc.GRPCInferenceServiceServicer):
    """See the module; method names are the service's."""

    def __init__(self, dataplane: DataPlane, *, max_tensors: int = 128) -> None:
        self._plane = dataplane
        self._max_tensors = max_tensors

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=self._plane.models.live())

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.models.ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            try:
                return pb.ModelReadyResponse(ready=self._plane.models.model_ready(request.name, request.version))
            except UnknownModel:  # as Triton: not an error, so that clients can ask for what may come
                return pb.ModelReadyResponse(ready=False)

        return await self._guarded(context, "ModelReady", answer)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self._plane.models.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            return pb.ModelMetadataResponse(**self._plane.models.model_metadata(request.name, request.version))

        return await self._guarded(context, "ModelMetadata", answer)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            return pb.ModelConfigResponse(
                config=pb.ModelConfig(**self._plane.models.model_config(request.name, request.version))
            )

        return await self._guarded(context, "ModelConfig", answer)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            lines = self._plane.models.statistics(request.name, request.version)
            stats = [_statistics(*line, self._plane.models.cache_counts(line[0])) for line in lines]
            return pb.ModelStatisticsResponse(model_stats=stats)

        return await self._guarded(context, "ModelStatistics", answer)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        lines = self._plane.models.index(ready_only=request.ready)
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in lines]
        )

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            await self._plane.models.load(request.model_name, request.parameters)
            return pb.RepositoryModelLoadResponse()

        return await self._guarded(context, "RepositoryModelLoad", answer)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            await self._plane.models.unload(request.model_name)
            return pb.RepositoryModelUnloadResponse()

        return await self._guarded(context, "RepositoryModelUnload", answer)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            message = decode(
                request, context.time_remaining(), _wishes(context), self._max_tensors, self._plane.regions
            )
            response = await self._plane.infer(message)
            context.set_trailing_metadata((("x-trimtab-variant", response.variant),))
            if logs.requests.isEnabledFor(logging.DEBUG):
                logs.answered("grpc", response.model, request.id, response.variant)
            return encode(response)
        except Exception as error:
            await _abort(context, f"ModelInfer {request.model_name}", error, request.id)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(in_order(requests, lambda request: self._stream(request, context))) as responses:
            async for response in responses:
                yield response

    async def _stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """One request's responses; what goes wrong is one too."""
        if isinstance(request, Malformed):
            yield pb.ModelStreamInferResponse(
                error_message="the request is not a valid inference.ModelInferRequest message"
            )
            return
        try:
            decoded = decode(
                request, context.time_remaining(), _wishes(context), self._max_tensors, self._plane.regions
            )
            many = self._plane.models.streams(decoded.model, decoded.version)
            async with aclosing(self._plane.stream(decoded)) as responses:
                async for response in responses:
                    made = pb.ModelStreamInferResponse(infer_response=encode(response))
                    made.infer_response.parameters["triton_final_response"].bool_param = not many
                    yield made
            if many and decoded.parameters.get(FINAL_RESPONSE):
                yield _last(pb.ModelStreamInferResponse(), request)
        except Exception as error:
            what = f"ModelStreamInfer {request.model_name}"
            logs.failed("grpc", what, request.id, errors.http_status(error), error)
            yield _last(pb.ModelStreamInferResponse(error_message=errors.message(error)), request)

    @staticmethod
    async def _guarded(context: Any, method: str, answer: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await answer()
        except Exception as error:
            await _abort(context, method, error)


def _wishes(context: Any) -> dict[str, str]:
    return from_metadata(context.invocation_metadata() or ())


def _last(response: Any, request: Any) -> Any:
    """A response without outputs: none follows it."""
    response.infer_response.model_name = request.model_name
    response.infer_response.id = request.id
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response


async def _abort(context: Any, what: str, error: Exception, request_id: str = "") -> None:
    metadata = dict(context.invocation_metadata() or ())
    await context.abort(*failure(error, what, request_id or str(metadata.get("x-request-id", ""))))


def failure(error: Exception, what: str, request_id: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status, message and trailing metadata of a call that could not be answered; it is logged."""
    logs.failed("grpc", what, request_id, errors.http_status(error), error)
    trailing: tuple[tuple[str, str], ...] = ()
    if after := errors.retry_after(error):
        trailing = (("retry-after", after),)
    if details := errors.details(error):
        trailing += (("x-trimtab-available", orjson.dumps(details["available"]).decode()),)
    return errors.grpc_status(error), errors.message(error), trailing


def _statistics(name: str, version: str, s: Any, cache: Any) -> Any:
    def duration(d: Any) -> Any:
        return pb.StatisticDuration(count=d.count, ns=d.ns)

    stats = pb.InferStatistics(
        success=duration(s.success),
        fail=duration(s.fail),
        queue=duration(s.queue),
        compute_input=duration(s.compute_input),
        compute_infer=duration(s.compute),
        compute_output=duration(s.compute_output),
        cache_hit=duration(cache.hit),
        cache_miss=duration(cache.miss),
    )
    batches = [
        pb.InferBatchStatistics(
            batch_size=size,
            compute_input=duration(s.batch_inputs[size]),
            compute_infer=duration(s.batches[size]),
            compute_output=duration(s.batch_outputs[size]),
        )
        for size in sorted(s.batches)
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
            ready = self._plane.models.ready()
        else:
            try:
                ready = self._plane.models.model_ready(request.service)
            except Exception as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, errors.message(error))
        return status(status=status.SERVING if ready else status.NOT_SERVING)


class Malformed:
    """Stands for a request whose bytes are not the message they should be. grpc itself would answer UNKNOWN."""


def malformed(name: str) -> str:
    """What the sender of such a request is told; `name`: of the message that it should have been."""
    return f"the request is not a valid inference.{name} message"


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
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, malformed(name))
        return await method(request, context)

    return call


def add_to_server(api: GrpcApi, server: Any) -> None:
    """Register the service, health and reflection on a grpc.aio server."""
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        call = getattr(api, method.name)
        streaming = method.client_streaming
        make = grpc.stream_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = make(
            call if streaming else _handler(method.input_type.name, call),
            request_deserializer=_parser(getattr(pb, method.input_type.name)),
            response_serializer=getattr(pb, method.output_type.name).SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(Health(api._plane), server)
    reflection.enable_server_reflection(SERVICE_NAMES, server)
