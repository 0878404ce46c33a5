"""gRPC's unary inference in HTTP/1.1: how HAProxy, which speaks HTTP/2 with the clients, hands it to a host.

A gRPC call is a POST whose body is one message behind a prefix of five bytes and whose answer ends with trailers. HAProxy
translates between HTTP/2 frames and chunks with trailers far faster than a gRPC server in Python could, so `ModelInfer`
reaches the host's HTTP port (`server.haproxy`); streams and everything else go to the gRPC port.
Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md).

`Unary` is the ASGI application for it, and calls the servicer that the gRPC port has, too; `message`, `decoded` and
`answer` are the parts that `server.fast_http` puts together itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from protos import open_inference_pb2 as pb
from server import logs
from server.grpc_api import failure, malformed
from server.grpc_infer import decode, encode
from server.guard import REFUSALS, refused_call
from server.heads import GRPC_PATH, GRPC_TYPES, UNITS, Head
from server.http_api import Asgi, Limits
from server.inference import InferRequest, InferResponse
from server.serve_context import Aborted
from server.shared_memory import Regions
from variants.errors import InvalidInput, TooLarge, Unsupported

INFER = b"POST " + GRPC_PATH + b" "
TYPE = (b"content-type", b"application/grpc")
TRAILERS = "http.response.trailers"
_START = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
#: What grpc-message may hold as it is: printable ASCII but for the per cent sign.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)

Metadata = Iterable[tuple[str, str]]


def message(body: bytes) -> Any:
    """The request in a body of exactly one message that is not compressed. Raises InvalidInput, Unsupported."""
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise InvalidInput(f"a body of {len(body)} bytes is not one gRPC message")
    if body[0]:
        raise Unsupported("the message is compressed, and the metadata grpc-encoding does not say how")
    try:
        return pb.ModelInferRequest.FromString(body[5:])
    except DecodeError:
        raise InvalidInput(malformed("ModelInferRequest")) from None


def decoded(request: Any, head: Head, most: int, regions: Regions) -> InferRequest:
    """What `server.grpc_api.GrpcApi.ModelInfer` makes of it."""
    return decode(request, head.timeout, head.wishes, most, regions)


def answer(result: InferResponse | Exception, request: Any, head: Head) -> bytes:
    """A whole answer. `request` None: it could not be read."""
    identity = ("" if request is None else request.id) or head.request_id
    if isinstance(result, Exception):
        if isinstance(result, REFUSALS):
            return failed(*refused_call(result))
        what = "ModelInfer" if request is None else f"ModelInfer {request.model_name}"
        return failed(*failure(result, what, identity))
    if logs.requests.isEnabledFor(logging.DEBUG):
        logs.answered("grpc", result.model, identity, result.variant)
    data = encode(result).SerializeToString()
    size = len(data)
    return b"%b%x\r\n\0%b%b\r\n0\r\ngrpc-status: 0\r\nx-trimtab-variant: %b\r\n\r\n" % (
        _START,
        size + 5,
        size.to_bytes(4, "big"),
        data,
        result.variant.encode(),
    )


def failed(code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> bytes:
    """A whole answer that says what went wrong."""
    return _START + b"0\r\n" + lines(trailers(code, details, metadata)) + b"\r\n"


def trailers(code: grpc.StatusCode, details: str = "", metadata: Metadata = ()) -> list[tuple[bytes, bytes]]:
    """What ends an answer."""
    made = [(b"grpc-status", str(code.value[0]).encode())]
    if details:
        made.append((b"grpc-message", quote(details, safe=_PLAIN).encode()))
    return made + [(key.encode(), value.encode()) for key, value in metadata]


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class Context:
    """The part of `grpc.aio.ServicerContext` that `server.grpc_api` uses."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._metadata = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in headers)
        self._end: float | None = None
        for key, value in headers:
            if key == b"grpc-timeout" and value[-1:] in UNITS and value[:-1].isdigit():
                self._end = time.monotonic() + int(value[:-1]) * UNITS[value[-1:]]
        self.trailing: list[tuple[str, str]] = []
        self.status: tuple[grpc.StatusCode, str] = (grpc.StatusCode.OK, "")

    def time_remaining(self) -> float | None:
        """Seconds that the client will still wait."""
        return None if self._end is None else self._end - time.monotonic()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """What the client sent beside the request."""
        return self._metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """What is sent after the answer."""
        self.trailing = list(metadata)

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call."""
        self.status, self.trailing = (code, details), list(trailing_metadata)
        raise Aborted(details)


class Unary:
    """The ASGI application. `api`: the servicer, behind its guard where there is one. `otherwise`: answers everything else,
    and all where the server does not know the ASGI extension `http.response.trailers`."""

    def __init__(self, api: Any, limits: Limits, otherwise: Asgi) -> None:
        self._api = api
        self._most = limits.max_body_bytes
        self._seconds = limits.body_seconds
        self._otherwise = otherwise

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if (
            TRAILERS not in (scope.get("extensions") or ())
            or dict(scope["headers"]).get(b"content-type") not in GRPC_TYPES
        ):
            await self._otherwise(scope, receive, send)
            return
        headers = scope["headers"]
        context, data = Context(headers), b""
        try:
            request = message(await self._body(dict(headers), receive))
            data = (await self._api.ModelInfer(request, context)).SerializeToString()
            data = b"\0" + len(data).to_bytes(4, "big") + data
        except Aborted:
            pass
        except Exception as error:
            *context.status, trailing = failure(error, "ModelInfer", "")  # type: ignore[assignment]
            context.trailing = list(trailing)
        await send({"type": "http.response.start", "status": 200, "headers": [TYPE], "trailers": True})
        await send({"type": "http.response.body", "body": data})
        await send({"type": TRAILERS, "headers": trailers(*context.status, context.trailing)})

    async def _body(self, headers: dict[bytes, bytes], receive: Any) -> bytes:
        """The body, inflated. Raises TooLarge, InvalidInput, Unsupported."""
        chunks, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._seconds):
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise InvalidInput("the client went away before the message was complete")
                    chunks.append(event.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._most + 5:
                        raise TooLarge(f"the message has more than {self._most} bytes")
                    more = event.get("more_body", False)
        except TimeoutError:
            raise InvalidInput(f"the message did not arrive within {self._seconds:g} s") from None
        body = b"".join(chunks)
        encoding = headers.get(b"grpc-encoding", b"identity")
        if encoding == b"identity" or body[:1] != b"\1":
            return body
        window = {b"gzip": 31, b"deflate": 15}.get(encoding)
        if window is None:
            raise Unsupported(f"grpc-encoding {encoding!r} is not one of gzip, deflate, identity")
        try:
            inflater = zlib.decompressobj(window)
            plain = inflater.decompress(body[5:], self._most + 1)
        except zlib.error as error:
            raise InvalidInput(f"the message is not valid {encoding!r}: {error}") from error
        if len(plain) > self._most:
            raise TooLarge(f"the message inflates to more than {self._most} bytes")
        return b"\0" + len(plain).to_bytes(4, "big") + plain


def allow_trailers(cycle: Any) -> None:
    """Teach one request of uvicorn's the ASGI extension `http.response.trailers`, where it is gRPC's."""
    scope = cycle.scope
    if scope["path"] != GRPC_PATH.decode() or scope["method"] != "POST":
        return
    scope["extensions"] = {TRAILERS: {}}
    inner = cycle.send
    wanted = False

    async def send(event: Any) -> None:
        nonlocal wanted
        if event["type"] == "http.response.start":
            wanted = event.get("trailers", False)
        elif wanted and event["type"] == "http.response.body":
            event = {**event, "more_body": True}
        elif event["type"] == TRAILERS:
            if cycle.disconnected:
                return
            cycle.transport.write(b"0\r\n" + lines(event["headers"]) + b"\r\n")
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()
            return
        await inner(event)

    cycle.send = send
