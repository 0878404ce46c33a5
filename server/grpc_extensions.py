"""The gRPC side of `server.http_extensions`: shared memory, trace and log settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from protos import open_inference_pb2 as pb
from server.dataplane import DataPlane
from server.http_extensions import CUDA, LOGGING, TRACING
from variants.errors import UnknownRegion, Unsupported

Guard = Callable[[Any, str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Extensions:
    """Methods of the servicer; `_guarded` answers a call, or the status of what it raises."""

    _plane: DataPlane
    _guarded: Guard

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            made = pb.SystemSharedMemoryStatusResponse()
            for region in self._plane.regions.status(request.name):
                status = made.regions[region.name]
                status.name, status.key = region.name, region.key
                status.offset, status.byte_size = region.offset, region.byte_size
            return made

        return await self._guarded(context, "SystemSharedMemoryStatus", answer)

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            self._plane.regions.register(request.name, request.key, request.offset, request.byte_size)
            return pb.SystemSharedMemoryRegisterResponse()

        return await self._guarded(context, "SystemSharedMemoryRegister", answer)

    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            self._plane.regions.unregister(request.name)
            return pb.SystemSharedMemoryUnregisterResponse()

        return await self._guarded(context, "SystemSharedMemoryUnregister", answer)

    async def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        async def answer() -> Any:
            if request.name:
                raise UnknownRegion(f"no CUDA shared memory region {request.name!r}: {CUDA}")
            return pb.CudaSharedMemoryStatusResponse()

        return await self._guarded(context, "CudaSharedMemoryStatus", answer)

    async def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        return await self._refuse(context, "CudaSharedMemoryRegister", CUDA)

    async def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        return pb.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(self, request: Any, context: Any) -> Any:
        return await self._refuse(context, "TraceSetting", TRACING)

    async def LogSettings(self, request: Any, context: Any) -> Any:
        return await self._refuse(context, "LogSettings", LOGGING)

    async def _refuse(self, context: Any, method: str, why: str) -> Any:
        async def answer() -> Any:
            raise Unsupported(why)

        return await self._guarded(context, method, answer)
