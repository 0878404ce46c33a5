"""One replica of the host deployment: a model host behind its HTTP and gRPC front ends, in one process and event loop.

Serve starts the servers and their ports; requests of the Open Inference Protocol are taken off them before Serve's own
request wrapper (which costs more than the request itself: see docs/decisions/hot-path.md), everything else is Serve's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry

from budgets.metrics import ByGroup
from deployments.actuator import from_user_config
from deployments.endpoint import Endpoint, serve_metrics
from deployments.host import ModelHost
from deployments.node import advertised, node_group, node_id
from deployments.runtime_env import PROXY_SECRET, RUN_FOLDER
from server import logs
from server.auth import Authenticator, ProxyIdentity
from server.dataplane import DataPlane
from server.fast_http import FastPath
from server.grpc_api import GrpcApi
from server.grpc_http import Unary
from server.guard import Guard, GuardedHttp, guarded_grpc
from server.http_api import Asgi, HttpApi, Limits
from server.metrics_api import MetricsApi
from server.repository import EveryHost
from server.response_cache import ResponseCache
from server.settings import Settings
from server.shared_memory import Regions
from variants.errors import TrimtabError
from variants.repository import load_catalog

#: A thread that wants the interpreter's lock from one that computes gets it after so long; Python's own 5 ms are as long as
#: twenty small requests take, and every engine call that ends wants it.
SWITCH_SECONDS = 0.0001

log = logging.getLogger("trimtab.host")

#: The replica of this process: set before Serve starts the replica's servers, which find it here.
_current: Replica | None = None


def current() -> Replica | None:
    """This process's replica, or None where there is none (Serve's fallback proxy)."""
    return _current


class Replica:
    """A model host and the front ends that share its event loop."""

    def __init__(
        self,
        host: ModelHost,
        http: Asgi,
        grpc: GrpcApi,
        endpoint: Endpoint,
        *,
        fast: FastPath | None = None,
        stop_tracing: Callable[[], None],
        host_id: str,
    ) -> None:
        self.host = host
        self._host_id = host_id
        self.http = http
        self.grpc = grpc
        self.fast = fast
        self._endpoint = endpoint
        self._node = node_id()
        self._stop_tracing = stop_tracing
        self._started = False

    @classmethod
    async def create(cls, settings: Settings, host_id: str, control: Any) -> Replica:
        """Read the repository and set everything up; models are loaded by the first `reconfigure`. `control`: the
        controller's deployment handle, for orders that all hosts follow.

        Raises ConfigError for an unusable repository.
        """
        global _current
        logs.configure(settings.logging, "host")
        sys.setswitchinterval(SWITCH_SECONDS)
        catalog = await asyncio.to_thread(
            load_catalog, Path(settings.repository), trust_code=settings.trust_repository_code
        )
        settings.check(catalog)
        group, by_group, exposed = node_group(), ByGroup(), CollectorRegistry()
        registry = by_group.registry(group)
        exposed.register(by_group)
        tracing = None
        if settings.tracing.endpoint is not None:  # off, it is not even imported
            from server.tracing import Tracing, trace_id

            tracing = Tracing.to(settings.tracing, host_id)
        host = ModelHost(
            catalog,
            settings.host_config(),
            registry=registry,
            host_id=host_id,
            group=group,
            trace_id=None if tracing is None else trace_id,
        )
        cache = ResponseCache({name: model.response_cache for name, model in settings.models.items()})
        registry.register(cache)
        regions = Regions(regions_folder(), enabled=settings.server.shares_memory)
        dataplane = DataPlane(
            host if tracing is None else tracing.host(host), regions=regions, cache=cache, repository=EveryHost(control)
        )
        bounds = settings.server.limits
        limits = Limits(settings.server.max_body_bytes, bounds.body_seconds, bounds.tensors)
        routes: dict[str, Asgi] = {"/metrics": MetricsApi(exposed)}
        where = settings.server.host
        endpoint = serve_metrics(exposed, host=where, port=settings.metrics.port, advertise=advertised(where))
        http: Asgi = HttpApi(dataplane, limits, routes=routes)
        guard = _guard(settings)
        fast = FastPath(dataplane, limits, guard) if tracing is None else None
        grpc = GrpcApi(dataplane, max_tensors=bounds.tensors)
        stop_tracing = _nothing
        if tracing is not None:
            http, grpc = tracing.http(http), tracing.grpc(dataplane, max_tensors=bounds.tensors)
            stop_tracing = tracing.close
        if guard is not None:  # outermost: who is not let in leaves no trace
            http, grpc = GuardedHttp(http, guard), guarded_grpc(grpc, guard)
        front = Unary(grpc, limits, http)
        replica = cls(host, front, grpc, endpoint, fast=fast, stop_tracing=stop_tracing, host_id=host_id)
        _current = replica
        return replica

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's call with the plan. The first one loads the models, so that a replica is on the current plan before
        it is healthy; later ones return at once and swap in the background. Never raises."""
        try:
            assignment = from_user_config(user_config)
            if self._started:
                self.host.apply(assignment)
                return
            self._started = True
            await self.host.start(assignment)
        except (TrimtabError, KeyError, ValueError, TypeError):
            log.exception("a plan that cannot be used was ignored: %r", user_config)

    def observe(self) -> dict[str, Any]:
        """The host's state for the controller."""
        update = {"metrics_url": self._endpoint.url, "pid": os.getpid(), "node": self._node}
        state = self.host.observe().model_copy(update=update)
        return state.model_dump(mode="json")

    async def order(self, action: Literal["load", "unload"], model: str, number: int) -> str:
        """Load or unload a model here, by an order to all hosts; returns what went wrong, or nothing."""
        try:
            await (self.host.load(model, number) if action == "load" else self.host.unload(model, number))
        except TrimtabError as error:
            return f"host {self._host_id}: {error}"
        return ""

    async def close(self) -> None:
        """Drain and close everything."""
        global _current
        with contextlib.suppress(Exception):
            await self.host.stop()
        self._endpoint.close()
        await asyncio.to_thread(self._stop_tracing)
        _current = None


def _nothing() -> None:
    pass


def _guard(settings: Settings) -> Guard | None:
    """None where nobody is asked who they are: requests then pay nothing for it. Each replica counts its share of a rate
    limit, since HAProxy spreads requests over all of them. Raises ConfigError for a tokens file that is wrong."""
    tokens = settings.server.auth.tokens_file
    if tokens is None:
        return None
    secret = os.environ.get(PROXY_SECRET, "")
    proxy = ProxyIdentity(secret) if secret else None
    return Guard(Authenticator(Path(tokens), share=1.0 / settings.replicas), proxy)


def regions_folder() -> Path:
    """Where all hosts of this machine and cluster keep their shared-memory regions: below the run folder of an embedded
    cluster, which goes with it, else in a folder named after the Ray node."""
    if run_folder := os.environ.get(RUN_FOLDER):
        return Path(run_folder) / "regions"
    import ray

    return Path(tempfile.gettempdir()) / f"trimtab-{os.getuid()}-{ray.get_runtime_context().get_node_id()}"
