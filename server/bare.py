"""Both front ends on ports of their own, without Ray: for tests and benchmarks, and for a replica's own ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio
import uvicorn

from deployments.api import Host
from server.dataplane import DataPlane
from server.fast_http import FastPath, protocol
from server.grpc_api import GrpcApi, add_to_server
from server.grpc_http import Unary
from server.guard import Guard, GuardedHttp, guarded_grpc
from server.http_api import Asgi, HttpApi, Limits
from server.response_cache import ResponseCache


@contextlib.asynccontextmanager
async def serve_bare(
    host: Host,
    *,
    http_port: int,
    grpc_port: int,
    address: str = "127.0.0.1",
    limits: Limits | None = None,
    guard: Guard | None = None,
    cache: ResponseCache | None = None,
) -> AsyncIterator[None]:
    """Serve a host over HTTP and gRPC while the context lasts; `guard` None: to everyone. Raises OSError or RuntimeError
    when a port is taken."""
    limits = limits or Limits()
    plane = DataPlane(host, cache=cache)
    options = [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    grpc_server = grpc.aio.server(options=options)
    http: Asgi = HttpApi(plane, limits)
    grpc_api = GrpcApi(plane)
    if guard is not None:
        http, grpc_api = GuardedHttp(http, guard), guarded_grpc(grpc_api, guard)
    http = Unary(grpc_api, limits, http)
    add_to_server(grpc_api, grpc_server)
    grpc_server.add_insecure_port(f"{address}:{grpc_port}")
    config = uvicorn.Config(
        http,
        host=address,
        port=http_port,
        http=protocol(FastPath(plane, limits, guard)),
        access_log=False,
        log_level="warning",
        lifespan="off",
    )
    http_server = uvicorn.Server(config)
    http_server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    await grpc_server.start()
    task = asyncio.create_task(http_server._serve())
    try:
        # uvicorn has no event for it
        while not http_server.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield
    finally:
        http_server.should_exit = True
        await task
        await grpc_server.stop(1.0)
