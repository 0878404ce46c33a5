"""One process's metrics endpoint: a small HTTP server on a thread of its own, apart from the request path."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server

PORTS_TRIED = 32


@dataclass(frozen=True)
class Endpoint:
    """Where the metrics are, and how to stop serving them."""

    url: str
    close: Callable[[], None]


def serve_metrics(registry: CollectorRegistry, *, host: str, port: int, advertise: str | None = None) -> Endpoint:
    """Expose a registry at `http://host:port/metrics`; if the port is taken, on the next free one of the 32 after it.

    `port` 0 lets the system choose. `advertise` is the host put into the url (default: `host`). Raises OSError when
    none of the ports can be bound.
    """
    for candidate in range(port, port + PORTS_TRIED):
        try:
            server, thread = start_http_server(candidate, addr=host, registry=registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == port + PORTS_TRIED - 1:
                raise
            continue

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)

        return Endpoint(f"http://{advertise or host}:{server.server_port}/metrics", close)
    raise OSError(errno.EADDRINUSE, f"no free port from {port} to {port + PORTS_TRIED - 1} on {host}")
