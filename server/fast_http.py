"""The short way for the requests that servers are measured by: whole, plain inference requests on a kept connection.

`FastProtocol` is uvicorn's protocol with one thing added. Where a connection is idle and what arrives is one complete
`POST …/infer` that needs nothing special, it is decoded, submitted and answered right there: no ASGI, no task, no future.
Everything else is uvicorn's and the ASGI application's, which stay the only place where semantics are decided:

- what a head means is found by the same parser, once for each distinct head (`Heads`), and a head with anything unusual in
  it is never taken;
- decoding, the data plane, encoding, errors and the guard are the functions that `server.http_api` and `server.guard` use.

So an answer given here is byte for byte the one that the application would have given (tests/server/test_fast_http.py); but
where so much waits that a request could only be refused, it is refused before it is decoded, whatever else is wrong with it.
`server.grpc_http` is the same for gRPC's unary inference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.api import Submitted
from server import compression, grpc_http, logs
from server.dataplane import DataPlane
from server.guard import CALL, REFUSALS, Guard, Need, refusal
from server.heads import Head, Heads
from server.http_api import HTTP_INFER, JSON, Headers, Limits, failure, squeezed
from server.http_infer import HEADER_LENGTH, decode, encode, stated_timeout
from server.inference import InferRequest, InferResponse

log = logging.getLogger("trimtab.host")


class FastPath:
    """What the protocols of one process share. `guard`: None where nobody is asked who they are."""

    def __init__(self, plane: DataPlane, limits: Limits, guard: Guard | None = None) -> None:
        self.plane = plane
        self.limits = limits
        self.heads = Heads(limits.max_body_bytes)
        self._guard = guard
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._prefixes: dict[str, bytes] = {}

    def admit(self, head: Head, model: str) -> None:
        """Raises what `server.guard` does."""
        if self._guard is not None:
            self._guard.admit(self._guard.caller(head.authorization, head.certificate), Need(CALL, model))

    def prefix(self, variant: str, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """An answer's head up to the number of its bytes, where it is JSON. `defaults`: uvicorn's date and name, a new list
        each second."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._prefixes.clear()
        made = self._prefixes.get(variant)
        if made is None:
            made = _lines(200, [*defaults, (b"x-trimtab-variant", variant.encode()), JSON]) + b"content-length: "
            self._prefixes[variant] = made
        return made


class FastProtocol(HttpToolsProtocol):
    """See the module. `find`: the process's fast path, None where there is none."""

    find: Callable[[], FastPath | None] = staticmethod(lambda: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._path = self.find() if not self.root_path and self.scheme == "http" else None
        self._inside = False  # uvicorn's parser is within a message
        self._head: Head | None = None  # of the request that is being answered here
        self._request: Any = None
        self._submitted: Submitted | None = None
        self._held = b""  # what came meanwhile
        self._last = False  # the connection ends with this answer
        self._seen = 0.0

    def on_message_begin(self) -> None:
        self._inside = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # there is none for what is to become a WebSocket
            grpc_http.allow_trailers(self.cycle)

    def on_message_complete(self) -> None:
        self._inside = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._held += data
            self.flow.pause_reading()
            return
        path = self._path
        if path is not None and not self._inside and data.startswith((HTTP_INFER, grpc_http.INFER)):
            end = data.find(b"\r\n\r\n") + 4
            head = path.heads.get(data[:end]) if end > 4 else None
            if head is not None and self._idle() and (body := head.body(data, end)) is not None:
                self._take(path, head, body)
                return
        super().data_received(data)

    def _idle(self) -> bool:
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.pipeline and not self.flow.write_paused

    def _take(self, path: FastPath, head: Head, body: bytes) -> None:
        self._head = head
        submit = self._submit_grpc if head.grpc else self._submit
        try:
            submit(path, head, body)
        except Exception as error:
            self._deliver(error)

    def _submit(self, path: FastPath, head: Head, body: bytes) -> None:
        path.admit(head, head.model)
        plane = path.plane
        if plane.pressed(head.model) and _ordinary(head, body):
            plane.turn_away(head.model, "http", stated_timeout(body, head.header_length))
        request = decode(
            head.model, head.version, body, head.header_length, head.wishes, path.limits.max_tensors, plane.regions
        )
        self._request = request
        submitted = plane.submit(request, self._deliver)
        if self._head is head:  # else it has been answered already
            self._submitted = submitted

    def _submit_grpc(self, path: FastPath, head: Head, body: bytes) -> None:
        request = grpc_http.message(body)
        self._request = request
        path.admit(head, request.model_name)
        if path.plane.pressed(request.model_name) and _ordinary(head, body):
            timeout = inf if "timeout" in request.parameters else head.timeout
            path.plane.turn_away(request.model_name, "grpc", timeout)
        submitted = path.plane.submit(
            grpc_http.decoded(request, head, path.limits.max_tensors, path.plane.regions), self._deliver
        )
        if self._head is head:
            self._submitted = submitted

    def _deliver(self, result: InferResponse | Exception) -> None:
        """Called once for each request that was taken."""
        head, request = self._head, self._request
        assert head is not None
        try:
            if head.grpc:
                self._answered(grpc_http.answer(result, request, head))
            elif isinstance(result, Exception):
                self._fail(result, head, request)
            else:
                self._give(result, head, request)
        except Exception as error:  # an output that cannot be given as it was asked for
            try:
                self._fail(error, head, request)
            except Exception:
                log.exception("an answer could not be sent")
                self.transport.close()

    def _give(self, response: InferResponse, head: Head, request: InferRequest) -> None:
        content, length = encode(response, request)
        if logs.requests.isEnabledFor(logging.DEBUG):
            logs.answered("http", head.model, request.id or head.request_id, response.variant)
        small = len(content) < compression.LEAST_BYTES or head.accepts is None
        if length is None and small and not self._last:
            assert self._path is not None
            prefix = self._path.prefix(response.variant, self.server_state.default_headers)
            self._answered(b"%b%d\r\n\r\n%b" % (prefix, len(content), content))
            return
        headers: Headers = [(b"x-trimtab-variant", response.variant.encode())]
        if length is None:
            headers.append(JSON)
        else:
            headers += [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, str(length).encode())]
        self._send(200, headers, content, head)

    def _fail(self, error: Exception, head: Head, request: InferRequest | None) -> None:
        if head.grpc:
            self._answered(grpc_http.answer(error, request, head))
            return
        if isinstance(error, REFUSALS):
            self._write(*refusal(error))
            return
        identity = (request.id if request is not None else "") or head.request_id
        self._send(*failure(error, "POST", head.path, identity), head)

    def _send(self, status: int, headers: Headers, content: bytes, head: Head) -> None:
        if len(content) >= compression.LARGE_BYTES and head.accepts is not None:
            task = self.loop.create_task(self._squeeze(status, headers, content, head.accepts))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return
        if len(content) >= compression.LEAST_BYTES and head.accepts is not None:
            content = compression.compress(content, head.accepts)
            headers = [*headers, *compression.headers(head.accepts)]
        self._write(status, headers, content)

    async def _squeeze(self, status: int, headers: Headers, content: bytes, encoding: bytes) -> None:
        content, more = await squeezed(content, encoding)
        if not self.transport.is_closing():
            self._write(status, [*headers, *more], content)

    def _write(self, status: int, headers: Headers, content: bytes) -> None:
        if any(name == b"connection" for name, _ in headers):
            self._last = True
        elif self._last:
            headers = [*headers, (b"connection", b"close")]
        length = (b"content-length", str(len(content)).encode())
        lines = _lines(status, [*self.server_state.default_headers, *headers, length])
        self._answered(lines + b"\r\n" + content)

    def _answered(self, data: bytes) -> None:
        """Send an answer and be ready for the next request."""
        self._head = self._request = self._submitted = None
        self.transport.write(data)
        self.server_state.total_requests += 1
        if self._last:
            self.transport.close()
            return
        self._seen = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._held:
            held, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(held)

    def timeout_keep_alive_handler(self) -> None:
        # One timer serves many requests: it looks when the last one was.
        left = self.timeout_keep_alive - (self.loop.time() - self._seen)
        if self._head is not None or left > 0:
            left = max(left, 1.0)
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        submitted, self._submitted = self._submitted, None
        if submitted is not None:
            submitted.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def shutdown(self) -> None:
        if self._head is not None:
            self._last = True
        else:
            super().shutdown()


def protocol(path: FastPath) -> type[FastProtocol]:
    """The protocol class of a server that has a fast path."""
    return type("BoundFastProtocol", (FastProtocol,), {"find": staticmethod(lambda: path)})


def use_in_this_process(find: Callable[[], FastPath | None]) -> None:
    """Have the servers that Serve starts in this process use `FastProtocol`: it leaves the choice to uvicorn, which looks
    it up here. A connection asks `find` for the fast path when it is made."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = type("ServedProtocol", (FastProtocol,), {"find": staticmethod(find)})  # type: ignore[assignment]


def _ordinary(head: Head, body: bytes) -> bool:
    """A request has the default priority, as far as can be told without decoding it."""
    return not head.wishes and b"priority" not in body


def _lines(status: int, headers: Headers) -> bytes:
    return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])
