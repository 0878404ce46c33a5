"""The Open Inference Protocol over HTTP: a raw ASGI application.

Sources: Open Inference Protocol V2 (REST); Triton's binary tensor data, model configuration, model repository and
statistics extensions.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from server import compression, errors, http_extensions, logs, openapi, streaming
from server.auth import Forbidden
from server.dataplane import DataPlane
from server.errors import TooSlow
from server.http_infer import HEADER_LENGTH, decode, encode, mapping
from server.models import product_version
from server.statistics_json import statistics_json
from server.tensors import read_json
from server.wishes import from_headers
from variants import tasks
from variants.errors import InvalidInput, RequestError, TooLarge

Headers = list[tuple[bytes, bytes]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
JSON = (b"content-type", b"application/json")
#: What the head of a request for inference starts with, where no proxy stands in between.
HTTP_INFER = b"POST /v2/models/"
#: Where the scope keeps the id that the body gave the request.
REQUEST_ID = "trimtab.request_id"


@dataclass(frozen=True)
class Limits:
    """`max_body_bytes` bounds a body as sent and, when it is compressed, as inflated. `body_seconds`: how long sending it
    may take. `max_tensors`: inputs of one request."""

    max_body_bytes: int = 64 << 20
    body_seconds: float = 60.0
    max_tensors: int = 128


class MethodNotAllowed(RequestError):
    """The path is there, but not for this method."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed here; use {allowed}")
        self.allowed = allowed


class NoSuchPath(RequestError):
    """Nothing answers at this path."""


class HttpApi:
    """See the module. `routes`: path prefix (such as `/metrics`) -> another ASGI application that answers there."""

    def __init__(self, dataplane: DataPlane, limits: Limits | None = None, *, routes: Mapping[str, Asgi] | None = None):
        self._plane = dataplane
        self._limits = limits or Limits()
        self._routes = dict(routes or {})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if not path.startswith("/v2"):
            for prefix, app in self._routes.items():
                if path == prefix or path.startswith(prefix + "/"):
                    await app(scope, receive, send)
                    return
        try:
            answered = await self._answer(scope, receive, send)
            if answered is None:  # as events, already sent
                return
            status, headers, body = answered
        except Exception as error:
            status, headers, body = failure(error, scope["method"], path, _request_id(scope))
        if len(body) >= compression.LEAST_BYTES and (encoding := compression.accepted(scope["headers"])):
            body, more = await squeezed(body, encoding)
            headers += more
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> tuple[int, Headers, bytes] | None:
        # Split before unquoting: a model's name may hold an escaped slash, which is not a separator.
        raw = scope.get("raw_path") or scope["path"].encode()
        parts = [unquote(p) for p in raw.partition(b"?")[0].decode("latin-1").strip("/").split("/")]
        if "tasks" in parts:
            parts = tasks.split(parts)
        method = scope["method"]
        match parts:
            case ["v2", "models", model, "infer"]:
                return await self._infer(scope, receive, model, "")
            case ["v2", "models", model, "versions", version, "infer"]:
                return await self._infer(scope, receive, model, version)
            case ["v2", "repository", "index"]:
                _only(method, "POST")
                query = await self._json(scope, receive)
                return _json([asdict(e) for e in self._plane.models.index(ready_only=bool(query.get("ready", False)))])
            case ["v2", "repository", "models", model, ("load" | "unload") as action]:
                _only(method, "POST")
                _not_from_another_site(scope)
                body = await self._json(scope, receive)
                parameters = mapping(body.get("parameters"), "parameters")
                await (
                    self._plane.models.load(model, parameters) if action == "load" else self._plane.models.unload(model)
                )
                return _json({})
            case ["v2", "models", model, ("generate" | "generate_stream") as action]:
                return await self._generate(scope, receive, send, model, "", action)
            case ["v2", "models", model, "versions", version, ("generate" | "generate_stream") as action]:
                return await self._generate(scope, receive, send, model, version, action)
        if (extension := http_extensions.find(parts)) is not None:
            _only(method, *extension)
            body = await self._json(scope, receive) if method == "POST" else {}
            return _json({} if (content := extension[method](self._plane, body)) is None else content)
        _only(method, "GET", "HEAD")
        return self._describe(parts, scope["path"])

    def _describe(self, parts: list[str], path: str) -> tuple[int, Headers, bytes]:
        plane = self._plane
        match parts:
            case ["openapi.json"]:
                return _json(openapi.document(product_version()))
            case ["v2"]:
                return _json(plane.models.metadata())
            case ["v2", "health", "live"]:
                return _json({"live": plane.models.live()})
            case ["v2", "health", "ready"]:
                waiting = plane.models.not_ready()
                return _json(
                    {"ready": not waiting, **({"models": waiting} if waiting else {})}, 503 if waiting else 200
                )
            case ["v2", "models", "stats"]:
                return _json(statistics_json(plane.models, "", ""))
        match parts:
            case ["v2", "models", model, "versions", version, *rest]:
                pass
            case ["v2", "models", model, *rest]:
                version = ""
            case _:
                raise NoSuchPath(f"nothing is at {path!r}; the protocol starts at /v2")
        match rest:
            case []:
                return _json(plane.models.model_metadata(model, version))
            case ["ready"]:
                ready = plane.models.model_ready(model, version)
                return _json({"name": model, "ready": ready}, 200 if ready else 503)
            case ["config"]:
                return _json(plane.models.model_config(model, version))
            case ["stats"]:
                return _json(statistics_json(plane.models, model, version))
        raise NoSuchPath(f"nothing is at {path!r}; a model has infer, ready, config, stats")

    async def _infer(self, scope: Any, receive: Any, model: str, version: str) -> tuple[int, Headers, bytes]:
        _only(scope["method"], "POST")
        headers = dict(scope["headers"])
        body = await self._body(headers, receive)
        wishes, most = from_headers(headers), self._limits.max_tensors
        request = decode(model, version, body, headers.get(HEADER_LENGTH), wishes, most, self._plane.regions)
        scope[REQUEST_ID] = request.id
        response = await self._plane.infer(request)
        content, length = encode(response, request)
        answer: Headers = [(b"x-trimtab-variant", response.variant.encode())]
        if logs.requests.isEnabledFor(logging.DEBUG):
            logs.answered("http", model, _request_id(scope), response.variant)
        if length is None:
            answer.append(JSON)
        else:
            answer += [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, str(length).encode())]
        return 200, answer, content

    async def _generate(
        self, scope: Any, receive: Any, send: Any, name: str, version: str, action: str
    ) -> tuple[int, Headers, bytes] | None:
        _only(scope["method"], "POST")
        body = await self._json(scope, receive)
        request = streaming.generate_request(self._plane.models.entry(name, version).model, version, body)
        if action == "generate_stream":
            await streaming.events(self._plane, request, receive, send, _error)
            return None
        response = await streaming.generate(self._plane, request)
        headers = [JSON, (b"x-trimtab-variant", response.variant.encode())]
        return 200, headers, streaming.generate_response(response)

    async def _json(self, scope: Any, receive: Any) -> dict[str, Any]:
        body = await self._body(dict(scope["headers"]), receive)
        if not body:
            return {}
        try:
            value = read_json(body)
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidInput(f"the body must be a JSON object, not {type(value).__name__}")
        return value

    async def _body(self, headers: Mapping[bytes, bytes], receive: Any) -> bytes:
        limit = self._limits.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is not None and not declared.isdigit():
            raise InvalidInput(f"content-length {declared!r} is not a number")
        if declared is not None and int(declared) > limit:
            raise TooLarge(f"the body has {int(declared)} bytes, at most {limit} are taken")
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    body = await _rest(body, receive, limit)
            except TimeoutError:
                raise TooSlow(f"the body did not arrive within {self._limits.body_seconds:g} s") from None
        elif len(body) > limit:
            raise TooLarge(f"the body has {len(body)} bytes, at most {limit} are taken")
        encoding = headers.get(b"content-encoding")
        if encoding in (None, b"identity"):
            return body
        large = len(body) >= compression.LARGE_BYTES
        return await asyncio.to_thread(inflate, body, encoding, limit) if large else inflate(body, encoding, limit)


def failure(error: Exception, method: str, path: str, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body for a request that could not be answered; it is logged."""
    body = _error(error)
    if isinstance(error, MethodNotAllowed):
        return 405, [JSON, (b"allow", error.allowed.encode())], body
    if isinstance(error, NoSuchPath):
        return 404, [JSON], body
    status, headers = errors.http_status(error), [JSON]
    logs.failed("http", f"{method} {path}", request_id, status, error)
    if after := errors.retry_after(error):
        headers.append((b"retry-after", after.encode()))
    if isinstance(error, (TooLarge, TooSlow)):
        headers.append((b"connection", b"close"))
    return status, headers, body


async def squeezed(body: bytes, encoding: bytes) -> tuple[bytes, Headers]:
    """A body compressed, and the headers that say so."""
    large = len(body) >= compression.LARGE_BYTES
    squeeze = compression.compress
    made = await asyncio.to_thread(squeeze, body, encoding) if large else squeeze(body, encoding)
    return made, compression.headers(encoding)


async def _rest(first: bytes, receive: Any, limit: int) -> bytes:
    """A body of which `first` has arrived. Raises InvalidInput, TooLarge."""
    chunks, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput("the client went away before the body was complete")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        more = message.get("more_body", False)
    return b"".join(chunks)


def inflate(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """A gzip or deflate body, inflated to at most `limit` bytes. Raises InvalidInput, TooLarge."""
    window = compression.WINDOWS.get(encoding or b"")
    if window is None:
        raise InvalidInput(f"content-encoding {encoding!r} is not one of gzip, deflate, identity")
    try:
        inflater = zlib.decompressobj(window)
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {encoding!r}: {error}") from error
    if len(plain) > limit:
        raise TooLarge(f"the body inflates to more than {limit} bytes")
    if inflater.unused_data:
        raise InvalidInput(f"{len(inflater.unused_data)} bytes follow the end of the {encoding!r} body")
    if not inflater.eof:
        raise InvalidInput(f"the {encoding!r} body is cut short")
    return plain


def _request_id(scope: Any) -> str:
    """The request's own id, else its header's."""
    return str(scope.get(REQUEST_ID) or dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1"))


def _not_from_another_site(scope: Any) -> None:
    """A page of another site that a browser shows must not load and unload models. Raises Forbidden."""
    headers = dict(scope["headers"])
    if headers.get(b"sec-fetch-site") not in (None, b"same-origin", b"none"):
        raise Forbidden("a page of another site may not change anything here")


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise MethodNotAllowed(method, ", ".join(allowed))


def _json(content: Any, status: int = 200) -> tuple[int, Headers, bytes]:
    return status, [JSON], orjson.dumps(content)


def _error(error: Exception) -> bytes:
    known = isinstance(error, (MethodNotAllowed, NoSuchPath))
    return orjson.dumps({"error": str(error) if known else errors.message(error), **errors.details(error)})
