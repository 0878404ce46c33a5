"""Who may call what of the Open Inference Protocol: a layer around the two adapters, there only where callers are asked.

Both transports use one rule: an action is open to everyone (is it alive?), or needs one of some roles, on one model or on
all. What is not known here needs `operate`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
import orjson

from protos import open_inference_pb2 as pb
from server import errors
from server.auth import Authenticator, Caller, Forbidden, ProxyIdentity, RateLimited, Role, Unauthenticated, header
from server.grpc_api import GrpcApi
from server.http_api import Asgi, Headers
from variants.errors import RequestError

#: What a guard raises.
REFUSALS = (Unauthenticated, Forbidden, RateLimited)
CALL: tuple[Role, ...] = ("infer",)
LOOK: tuple[Role, ...] = ("infer", "read")
CHANGE: tuple[Role, ...] = ("operate",)
ALL = None


@dataclass(frozen=True)
class Need:
    """`roles`: one of them is needed; none: open to everyone. `model`: the one it is about, None: all of them."""

    roles: tuple[Role, ...]
    model: str | None = ALL


OPEN = Need(())


def http_need(method: str, parts: list[str]) -> Need:
    """What an HTTP request needs; `parts` are its path's segments."""
    reading = method in ("GET", "HEAD")
    match parts:
        case ["v2", "health", "live" | "ready"] if reading:
            return OPEN
        case ["v2"] if reading:
            return Need(LOOK, "")
        case ["metrics", *_]:
            return Need(("read",))
        case ["v2", "repository", "models", model, *_]:
            return Need(CHANGE, model)
        case ["v2", "repository", "index"] | ["v2", "models", "stats"]:
            return Need(LOOK)
        case ["v2", "models", model, *rest]:
            return Need(LOOK if reading else CHANGE if "trace" in rest else CALL, model)
    return Need(LOOK if reading else CHANGE)


def grpc_need(method: str, request: Any) -> Need:
    """What a call of the gRPC service needs."""
    match method:
        case "ServerLive" | "ServerReady":
            return OPEN
        case "ServerMetadata":
            return Need(LOOK, "")
        case "ModelReady" | "ModelMetadata" | "ModelConfig":
            return Need(LOOK, request.name)
        case "ModelStatistics":
            return Need(LOOK, request.name or ALL)
        case "RepositoryIndex" | "SystemSharedMemoryStatus" | "CudaSharedMemoryStatus":
            return Need(LOOK)
        case "ModelInfer" | "ModelStreamInfer":
            return Need(CALL, request.model_name)
        case "RepositoryModelLoad" | "RepositoryModelUnload":
            return Need(CHANGE, request.model_name)
    return Need(CHANGE)


class Guard:
    """Lets requests pass or raises. `proxy`: how the TLS-terminating proxy tells whose certificate it saw."""

    def __init__(self, authenticator: Authenticator, proxy: ProxyIdentity | None = None) -> None:
        self._authenticator = authenticator
        self._proxy = proxy

    def caller(self, authorization: bytes | None, certificate: bytes | None) -> Caller:
        """Who calls. Raises Unauthenticated."""
        name = self._proxy.common_name(certificate) if self._proxy is not None else None
        return self._authenticator.caller(authorization, name)

    def admit(self, caller: Caller, need: Need) -> None:
        """Let one request pass. An empty model name stands for something that is about no model. Raises Forbidden,
        RateLimited."""
        caller.admit(*need.roles, now=self._authenticator.now())
        if need.model != "":
            caller.check_scope(need.model)


class GuardedHttp:
    """An ASGI application behind a guard."""

    def __init__(self, app: Asgi, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            # As the adapter splits it: before unquoting, since a model's name may hold an escaped slash.
            raw = scope.get("raw_path") or scope["path"].encode()
            parts = [unquote(p) for p in raw.partition(b"?")[0].decode("latin-1").strip("/").split("/")]
            need = http_need(scope["method"], parts)
            if need.roles:
                headers = scope["headers"]
                authorization = header(headers, b"authorization")
                caller = self._guard.caller(authorization, header(headers, ProxyIdentity.HEADER))
                self._guard.admit(caller, need)
        except RequestError as error:
            await refuse(send, error)
            return
        await self._app(scope, receive, send)


async def refuse(send: Any, error: RequestError) -> None:
    """Answer with an error, without reading the request's body."""
    status, headers, body = refusal(error)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refusal(error: RequestError) -> tuple[int, Headers, bytes]:
    """Status, headers and body for a request that is not let in. The connection ends with it."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="trimtab"'))
    if after := errors.retry_after(error):
        headers.append((b"retry-after", after.encode()))
    return errors.http_status(error), headers, orjson.dumps({"error": str(error)})


def guarded_grpc(api: GrpcApi, guard: Guard) -> GrpcApi:
    """The servicer behind a guard: every method of the service, unary or streaming, checks each request first."""
    made: Any = _Guarded(api)
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        inner = getattr(api, method.name)
        if method.client_streaming:
            wrap = _streaming_in if inspect.isasyncgenfunction(inner) else _collecting
        else:
            wrap = _streaming_out if inspect.isasyncgenfunction(inner) else _unary
        setattr(made, method.name, wrap(method.name, inner, guard))
    return made  # type: ignore[no-any-return]


class _Guarded:
    """Everything but the service's methods is the inner servicer's."""

    def __init__(self, api: GrpcApi) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


def _unary(name: str, inner: Any, guard: Guard) -> Callable[[Any, Any], Awaitable[Any]]:
    @functools.wraps(inner)
    async def call(request: Any, context: Any) -> Any:
        await _check(name, request, context, guard, _lazily(context, guard))
        return await inner(request, context)

    return call


def _streaming_out(name: str, inner: Any, guard: Guard) -> Callable[[Any, Any], AsyncIterator[Any]]:
    @functools.wraps(inner)
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        await _check(name, request, context, guard, _lazily(context, guard))
        async for answer in inner(request, context):
            yield answer

    return call


def _checked(name: str, requests: Any, context: Any, guard: Guard) -> AsyncIterator[Any]:
    async def each() -> AsyncIterator[Any]:
        who = _lazily(context, guard)
        async for request in requests:
            await _check(name, request, context, guard, who)
            yield request

    return each()


def _streaming_in(name: str, inner: Any, guard: Guard) -> Callable[[Any, Any], AsyncIterator[Any]]:
    @functools.wraps(inner)
    async def call(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for answer in inner(_checked(name, requests, context, guard), context):
            yield answer

    return call


def _collecting(name: str, inner: Any, guard: Guard) -> Callable[[Any, Any], Awaitable[Any]]:
    @functools.wraps(inner)
    async def call(requests: Any, context: Any) -> Any:
        return await inner(_checked(name, requests, context, guard), context)

    return call


def _lazily(context: Any, guard: Guard) -> Callable[[], Caller]:
    """The caller of a call, found once."""

    @functools.cache
    def caller() -> Caller:
        metadata = context.invocation_metadata() or ()
        return guard.caller(_one(metadata, "authorization"), _one(metadata, ProxyIdentity.HEADER.decode()))

    return caller


def _one(metadata: Iterable[tuple[str, str | bytes]], name: str) -> bytes | None:
    values = [value if isinstance(value, bytes) else value.encode() for key, value in metadata if key == name]
    if len(values) > 1:
        raise Unauthenticated(f"the metadata {name} is there {len(values)} times")
    return values[0] if values else None


async def _check(name: str, request: Any, context: Any, guard: Guard, caller: Callable[[], Caller]) -> None:
    need = grpc_need(name, request)
    if not need.roles:
        return
    try:
        guard.admit(caller(), need)
    except RequestError as error:
        await context.abort(*refused_call(error))


def refused_call(error: RequestError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status, message and trailing metadata of a call that is not let in."""
    after = errors.retry_after(error)
    return errors.grpc_status(error), str(error), (("retry-after", after),) if after else ()
