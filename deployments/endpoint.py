"""One process's metrics endpoint: a small HTTP server on a thread of its own, apart from the request path."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

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
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            url = f"http://{advertise or host}:{server.server_port}/metrics"
            return Endpoint(url, functools.partial(_close, server, thread))
    raise OSError(errno.EADDRINUSE, f"no free port from {port} to {port + PORTS_TRIED - 1} on {host}")


def _close(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)
