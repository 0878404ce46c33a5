"""The Ray Serve application: the host deployment behind Serve's ports, and the control deployment beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ray import serve

from deployments.runtime_env import host_runtime_env

APPLICATION = "trimtab"
HOST = "host"
CONTROL = "control"

# Serve ships a deployment's class by value: what these two hold of their modules must be imported inside their methods,
# or the process would have two copies of it. And Serve's fallback proxy imports this module: all that it does not need is imported
# where it is used, 20 MiB.


@serve.deployment(name=CONTROL, num_replicas=1, ray_actor_options={"num_cpus": 0})
class Control:
    """The singleton around `deployments.control.ControlLoop`, and the admin port; restarted by Serve when it dies."""

    async def __init__(self, args: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        from deployments.control import ControlLoop
        from server import logs
        from server.admin.reload import at_start
        from server.admin.service import AdminService
        from server.settings import Settings

        settings = at_start(Settings.model_validate(args))
        logs.configure(settings.logging, "controller")
        self._loop = await ControlLoop.create(
            repository=settings.repository,
            trust_code=settings.trust_repository_code,
            config=settings.budgets_config(),
            application=APPLICATION,
            deployment=HOST,
            metrics_host=settings.server.host,
            metrics_port=settings.metrics.port,
            targets=settings.metrics.targets,
        )
        self._admin = AdminService(settings, self._loop)
        await self._admin.start()

    async def check_health(self) -> None:
        self._loop.check()

    async def reach(self) -> None:
        """Answers, so it is there."""

    async def repository(self, action: str, model: str) -> str:
        """Load or unload a model on every host; returns what went wrong, or nothing."""
        from variants.errors import TrimtabError

        try:
            await self._loop.order("load" if action == "load" else "unload", model)
        except TrimtabError as error:
            return str(error)
        return ""

    async def __del__(self) -> None:
        # Serve also calls this where `__init__` failed half-way.
        for part in ("_admin", "_loop"):
            if hasattr(self, part):
                await getattr(self, part).close()


def _replica() -> Any:
    """This process's replica, or None in Serve's fallback proxy, which never imports what a replica consists of: 40 MiB."""
    module = sys.modules.get("server.replica")
    return None if module is None else module.current()


def detour() -> Any:
    """The ASGI application for requests that come through Serve's own wrapper: for a moment after each plan Serve counts
    the replicas as updating, and HAProxy sends what arrives then through Serve's fallback proxy."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        from server import replica

        current = replica.current()
        assert current is not None, "Serve calls a replica only once it has been initialised"
        await current.http(scope, receive, send)

    return app


def rpc(name: str) -> Any:
    """The gRPC method of that name for requests that come through Serve's own wrapper (see `detour`)."""

    async def method(self: Any, request: Any, grpc_context: Any) -> Any:
        from server import replica
        from server.serve_context import ServeContext

        current = replica.current()
        assert current is not None, "Serve calls a replica only once it has been initialised"
        return await getattr(current.grpc, name)(request, ServeContext(grpc_context))

    return method


def streaming_rpc(name: str) -> Any:
    """As `rpc`, for a method that takes and gives a stream."""

    async def method(self: Any, requests: Any, grpc_context: Any) -> Any:
        from server import replica
        from server.serve_context import ServeContext

        current = replica.current()
        assert current is not None, "Serve calls a replica only once it has been initialised"
        async for response in getattr(current.grpc, name)(requests, ServeContext(grpc_context)):
            yield response

    return method


@serve.deployment(name=HOST, max_ongoing_requests=10_000, health_check_period_s=2, health_check_timeout_s=10)
@serve.ingress(detour)
class Host:
    """One model host per replica. Serve owns its life cycle; `server.replica.Replica` is what lives."""

    async def __init__(self, args: Mapping[str, Any], control: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        from server.admin.reload import at_start
        from server.proxy import bind_grpc_to_host
        from server.replica import Replica
        from server.settings import Settings

        bind_grpc_to_host()
        context = serve.get_replica_context()
        settings = at_start(Settings.model_validate(args))
        self._replica = await Replica.create(settings, context.replica_id.unique_id, control)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await self._replica.reconfigure(user_config)

    async def observe(self) -> dict[str, Any]:
        return self._replica.observe()

    async def load(self, model: str, order: int) -> str:
        return await self._replica.order("load", model, order)

    async def unload(self, model: str, order: int) -> str:
        return await self._replica.order("unload", model, order)

    ServerLive = rpc("ServerLive")
    ServerReady = rpc("ServerReady")
    ServerMetadata = rpc("ServerMetadata")
    ModelReady = rpc("ModelReady")
    ModelMetadata = rpc("ModelMetadata")
    ModelConfig = rpc("ModelConfig")
    ModelStatistics = rpc("ModelStatistics")
    ModelInfer = rpc("ModelInfer")
    RepositoryIndex = rpc("RepositoryIndex")
    RepositoryModelLoad = rpc("RepositoryModelLoad")
    RepositoryModelUnload = rpc("RepositoryModelUnload")
    ModelStreamInfer = streaming_rpc("ModelStreamInfer")
    SystemSharedMemoryStatus = rpc("SystemSharedMemoryStatus")
    SystemSharedMemoryRegister = rpc("SystemSharedMemoryRegister")
    SystemSharedMemoryUnregister = rpc("SystemSharedMemoryUnregister")
    CudaSharedMemoryStatus = rpc("CudaSharedMemoryStatus")
    CudaSharedMemoryRegister = rpc("CudaSharedMemoryRegister")
    CudaSharedMemoryUnregister = rpc("CudaSharedMemoryUnregister")
    TraceSetting = rpc("TraceSetting")
    LogSettings = rpc("LogSettings")

    async def __del__(self) -> None:
        if hasattr(self, "_replica"):
            await self._replica.close()


def build(args: Mapping[str, Any]) -> Any:
    """The application, from the settings as a JSON-able mapping (`Settings.model_dump(mode="json")`).

    Named as `import_path` in the declarative Serve config. Raises pydantic.ValidationError for settings that are wrong.
    """
    from server.settings import Settings

    settings = Settings.model_validate(args)
    host = Host.options(  # type: ignore[attr-defined]  # a Deployment, once decorated
        num_replicas=settings.replicas,
        ray_actor_options={
            "num_cpus": settings.resources.num_cpus,
            "num_gpus": settings.resources.num_gpus,
            "runtime_env": host_runtime_env(),
        },
    )
    return host.bind(dict(args), Control.bind(dict(args)))  # type: ignore[attr-defined]


class FrontEnd:
    """ASGI middleware around Serve's ingress: trimtab's paths are answered here, Serve's own (`/-/…`) passed on."""

    def __init__(self, app: Any) -> None:
        self._serve = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/-/"):
            replica = _replica()
            if replica is not None:
                await replica.http(scope, receive, send)
                return
        await self._serve(scope, receive, send)


def middlewares() -> list[Any]:
    """Serve's HTTP callback (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`), run in every process that serves HTTP, in a replica
    once that has been initialised."""
    from starlette.middleware import Middleware

    from server.proxy import bind_grpc_to_host

    bind_grpc_to_host()
    if _replica() is None:
        return []
    from server.fast_http import use_in_this_process

    use_in_this_process(lambda: None if (replica := _replica()) is None else replica.fast)
    return [Middleware(FrontEnd)]


def add_grpc_services(servicer: Any, server: Any) -> None:
    """Serve's gRPC registration function (`grpc_servicer_functions`), run in every process that serves gRPC.

    In a replica the Open Inference Protocol, health and reflection services go straight to the replica's own servicer,
    past Serve's request wrapper; elsewhere (Serve's fallback proxy) they are Serve's to route.
    """
    current = _replica()
    if current is None:
        from protos import open_inference_pb2_grpc

        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        return
    from server import grpc_api

    for service in grpc_api.SERVICE_NAMES:
        server.add_passthrough_service(service)
    grpc_api.add_to_server(current.grpc, server)
