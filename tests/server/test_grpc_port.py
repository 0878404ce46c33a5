"""The port that Serve gives a replica's gRPC server."""

from __future__ import annotations

import socket
from collections.abc import Callable

import grpc.aio
import pytest
from ray.serve._private import default_impl

from server.proxy import GRPC_HOST, bind_grpc_to_host


async def test_a_port_that_another_process_shares_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    monkeypatch.setattr(default_impl, "add_grpc_address", default_impl.add_grpc_address)
    monkeypatch.setenv(GRPC_HOST, "127.0.0.1")
    bind_grpc_to_host()
    port = free_port()
    # As Serve makes it: the option is text, and gRPC shares the port.
    server = grpc.aio.server(options=[("grpc.so_reuseport", "0")])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            default_impl.add_grpc_address(server, f"[::]:{port}")
    default_impl.add_grpc_address(server, f"[::]:{port}")
    await server.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    await server.stop(None)
