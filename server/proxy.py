"""How HAProxy, which Ray Serve runs in front of the hosts, is told of trimtab's TLS and limits: environment and a launcher.

`server/haproxy.py` is what then runs in HAProxy's place. Also: Serve's own gRPC servers kept off other interfaces.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.runtime_env import PROXY_SECRET
from server.addresses import is_everywhere

if TYPE_CHECKING:  # Serve's fallback proxy comes here, too, and has no use for settings
    from server.settings import ServerConfig

GRPC_HOST = "TRIMTAB_GRPC_HOST"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"


def proxy_environment(server: ServerConfig, folder: Path) -> dict[str, str]:
    """For every process of an embedded cluster; the launcher is written into `folder`."""
    limits = server.limits
    environment = {
        BINARY: str(write_launcher(folder)),
        "TRIMTAB_HEAD_SECONDS": str(limits.head_seconds),
        "TRIMTAB_REQUESTS": str(limits.requests),
        "RAY_SERVE_HAPROXY_MAXCONN": str(limits.connections),
        # HAProxy keeps 1 KiB of the buffer for what it rewrites.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(limits.header_bytes + 1024),
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": str(limits.streams),
        # A plan makes Serve count a lone host as being updated for a moment, in which HAProxy would be told to send its requests
        # through Serve's own proxy. Hosts that are lost it notices by itself.
        "RAY_SERVE_HAPROXY_BROADCAST_COALESCE_S": "1.0",
        PROXY_SECRET: secrets.token_hex(32),
        GRPC_HOST: server.host,
    }
    if given := os.environ.get(BINARY):
        environment["TRIMTAB_HAPROXY"] = given
    if server.tls is not None:
        environment["TRIMTAB_TLS_CERTIFICATE"] = server.tls.certificate
        environment["TRIMTAB_TLS_KEY"] = server.tls.key
        if server.tls.client_ca is not None:
            environment["TRIMTAB_TLS_CLIENT_CA"] = server.tls.client_ca
    return environment


def write_launcher(folder: Path) -> Path:
    """An executable that runs `server/haproxy.py` with this interpreter. What is already in HAProxy's place by the
    environment is not run by it: see `proxy_environment`."""
    path = folder / "haproxy"
    script = Path(__file__).with_name("haproxy.py")
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {shlex.quote(str(script))} "$@"\n')
    path.chmod(0o700)
    return path


def bind_grpc_to_host() -> None:
    """Have the gRPC servers that Serve starts in this process listen where the HTTP ones do. Serve has no option for it and
    binds all interfaces; it goes through one hook of its own, which is replaced. Without TRIMTAB_GRPC_HOST nothing is.

    Serve also lets two processes listen on one port (its `so_reuseport` is text, which gRPC takes for none), and each would
    get some of the other's calls; so a port that is taken is refused here, and Serve tries the next one."""
    host = os.environ.get(GRPC_HOST)
    if not host or is_everywhere(host):
        return
    from ray.serve._private import default_impl

    def add(server: Any, address: str) -> None:
        port = int(address.rpartition(":")[2])
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gRPC does: one that was just closed is free
            try:
                probe.bind((host, port))
            except OSError as error:
                raise RuntimeError(f"cannot listen on {host}:{port}: {error}") from error
        server.add_insecure_port(f"{host}:{port}")

    default_impl.add_grpc_address = add
