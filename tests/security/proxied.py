"""HAProxy as Ray Serve runs it, without Ray: Serve's own template, our launcher, the protocol server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from server.proxy import write_launcher


def render(folder: Path, *, http: int, grpc: int, behind: tuple[int, int], stats: int, metrics: int) -> Path:
    """The configuration file that Ray Serve's HAProxyApi writes for one HTTP and one gRPC backend."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions, gRPCOptions

    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=http),
        grpc_options=gRPCOptions(port=grpc, grpc_servicer_functions=["server.ingress.add_grpc_services"]),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        stats_port=stats,
        metrics_port=metrics,
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
        is_head=True,
        nbthread=1,
    )
    patient = {
        "health_check_fall": 1000,
        "health_check_inter": "60s",
    }  # the protocol server has no Serve health service
    backends = {
        name: BackendConfig(
            name=name,
            path_prefix="/",
            app_name="trimtab",
            protocol=protocol,
            http_health_check_path="/v2/health/live",
            servers=[ServerConfig(name=f"{name}-0", host="127.0.0.1", port=port)],
            **patient,
        )
        for name, protocol, port in (
            ("http-trimtab", RequestProtocol.HTTP, behind[0]),
            ("grpc-trimtab", RequestProtocol.GRPC, behind[1]),
        )
    }

    async def write() -> None:
        api = HAProxyApi(cfg=config, backend_configs=backends, config_file_path=str(folder / "haproxy.cfg"))
        api._generate_config_file_internal()

    asyncio.run(write())
    return folder / "haproxy.cfg"


@contextlib.contextmanager
def haproxy(config: Path, environment: Mapping[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher on a configuration, as Ray Serve starts it, once it listens."""
    launcher = write_launcher(config.parent)
    log = config.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(launcher), "-db", "-f", str(config)], env={**os.environ, **environment}, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(20)
