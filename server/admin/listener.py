"""The admin port: uvicorn in the control deployment's own event loop, with limits and TLS that follows its files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from server import tls
from server.admin import gate
from server.admin.app import CERTIFICATE
from server.admin.requests import answer
from server.settings import ServerConfig

log = logging.getLogger("trimtab.admin")
#: The port may still be held for a moment by the process before this one.
BIND_SECONDS = 30.0
ROTATION_SECONDS = 2.0
CONNECTIONS = 128


def protocol(head_seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, which also lets go of a client that does not send its request's head in time (slowloris), and
    tells the application whose certificate a connection has."""

    class Limited(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            peer = transport.get_extra_info("ssl_object")
            name = tls.common_name(peer.getpeercert()) if peer is not None else None
            if name is not None:
                inner = self.app

                async def named(scope: Any, receive: Any, send: Any) -> None:
                    await inner({**scope, CERTIFICATE: name}, receive, send)

                self.app = named
            self._deadline = self.loop.call_later(head_seconds, self._late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] != b""
            if not waiting and self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            elif waiting and self._deadline is None:
                self._deadline = self.loop.call_later(head_seconds, self._late)

        def _late(self) -> None:
            if self.transport is not None and not self.transport.is_closing():
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

    return Limited


def bounded(app: Any, header_bytes: int) -> Any:
    """Refuses a request whose head is larger: h11 itself only bounds one that has not arrived in whole."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + len(scope["raw_path"])
        if size + len(scope["query_string"]) > header_bytes:
            error = {"error": f"the request's head has more than {header_bytes} bytes"}
            await answer(gate.guarded(send, tls=False), 431, error, [(b"connection", b"close")])
        else:
            await app(scope, receive, send)

    return checked


class AdminListener:
    """Serves an application on the admin port from `start` to `close`."""

    def __init__(self, app: Any, config: ServerConfig) -> None:
        self._config = config
        self._server = uvicorn.Server(
            uvicorn.Config(
                bounded(app, config.limits.header_bytes),
                http=protocol(config.limits.head_seconds),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                h11_max_incomplete_event_size=config.limits.header_bytes,
                timeout_graceful_shutdown=2,
            )
        )
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The port that is bound. Raises RuntimeError before `start`."""
        if self._socket is None:
            raise RuntimeError("not listening")
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Bind and serve in the background. Raises OSError when the port stays taken for 30 s, ConfigError for a
        certificate that cannot be used."""
        secure = None if self._config.tls is None else tls.context(self._config.tls)
        self._socket = await bind(self._config.admin_address, self._config.admin_port)
        if secure is not None:
            self._server.config.ssl_context_factory = lambda config, default: secure
        self._server.config.load()
        self._tasks = [asyncio.create_task(self._server._serve(sockets=[self._socket]), name="trimtab-admin")]
        while not self._server.started and not self._tasks[0].done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if self._config.tls is not None:
            self._tasks.append(asyncio.create_task(self._rotate(tls.Rotation(self._config.tls)), name="trimtab-tls"))

    async def _rotate(self, rotation: tls.Rotation) -> None:
        while True:
            await asyncio.sleep(ROTATION_SECONDS)
            try:
                if (made := await asyncio.to_thread(rotation.look)) is not None:
                    await self._listen_with(made)
            except Exception:
                log.exception("the admin port keeps the certificate it has")

    async def _listen_with(self, secure: ssl.SSLContext) -> None:
        """Accept new connections with another context on the same socket; those that are open go on."""
        assert self._socket is not None
        config, state = self._server.config, self._server.server_state
        loop = asyncio.get_running_loop()

        def made() -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            return kind(config=config, server_state=state, app_state={}, _loop=loop)  # type: ignore[no-any-return]

        fresh = self._socket.dup()
        old, self._server.servers = self._server.servers, []
        self._server.servers.append(await loop.create_server(made, sock=fresh, ssl=secure, backlog=config.backlog))
        for server in old:
            server.close()
        self._socket = fresh

    async def close(self) -> None:
        """Stop listening, let clients go."""
        self._server.should_exit = True
        for task in self._tasks[1:]:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks[:1], timeout=5.0)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()


async def bind(host: str, port: int) -> socket.socket:
    """A listening address. Raises OSError when it is taken for 30 s."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = asyncio.get_running_loop().time() + BIND_SECONDS
    while True:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host.strip("[]"), port))
        except OSError as error:
            made.close()
            if asyncio.get_running_loop().time() >= deadline:
                raise OSError(error.errno, f"the admin port {host}:{port}: {error.strerror}") from error
            await asyncio.sleep(0.2)
        else:
            made.setblocking(False)
            return made
