"""`/admin/v1`: what the command line asks of the controller, forwarded to the control deployment.

GET status, GET explain?model=M, POST pin {"model", "variant"}, POST unpin {"model"}.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import orjson
from pydantic import Field, ValidationError

from server.errors import http_status
from variants.catalog import Frozen
from variants.errors import InvalidInput, RequestError, TooLarge, Unavailable, UnknownModel

MAX_BODY = 64 << 10


class Pin(Frozen):
    """Body of `pin`: `variant` null parks the model."""

    model: str = Field(min_length=1)
    variant: str | None


class Unpin(Frozen):
    """Body of `unpin`."""

    model: str = Field(min_length=1)


class AdminApi:
    """An ASGI app over a handle to the control deployment."""

    def __init__(self, control: Any) -> None:
        self._control = control

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        route = (scope["method"], scope["path"].removeprefix("/admin/v1/").rstrip("/"))
        headers: list[tuple[bytes, bytes]] = []
        try:
            match route:
                case ("GET", "status"):
                    answer = await self._call("status")
                case ("GET", "explain"):
                    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
                    answer = await self._call("explain", query.get("model", [None])[0])
                case ("POST", "pin"):
                    pin = Pin.model_validate(await _body(receive))
                    answer = await self._call("pin", pin.model, pin.variant)
                case ("POST", "unpin"):
                    answer = await self._call("unpin", Unpin.model_validate(await _body(receive)).model)
                case (_, "status" | "explain" | "pin" | "unpin"):
                    allow = "GET" if route[1] in ("status", "explain") else "POST"
                    headers.append((b"allow", allow.encode()))
                    await _send(send, 405, {"error": f"{route[0]} is not allowed here; use {allow}"}, headers)
                    return
                case _:
                    known = "status, explain, pin, unpin"
                    await _send(send, 404, {"error": f"no {scope['path']!r}; /admin/v1/ has {known}"}, headers)
                    return
        except RequestError as error:
            await _send(send, http_status(error), {"error": str(error)}, headers)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            await _send(send, 400, {"error": f"bad request body: {problems}"}, headers)
        else:
            await _send(send, 200, answer, headers)

    async def _call(self, method: str, *args: Any) -> Any:
        """The control deployment answers `{"ok": …}` or `{"error": class name, "message": …}`."""
        try:
            answer = await getattr(self._control, method).remote(*args)
        except Exception as error:
            raise Unavailable(f"the controller does not answer: {error}", retry_after_seconds=5.0) from error
        if "error" in answer:
            kinds = {"UnknownModel": UnknownModel, "InvalidInput": InvalidInput}
            raise kinds.get(answer["error"], Unavailable)(answer["message"])
        return answer["ok"]


async def _body(receive: Any) -> Any:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidInput("the request body ended early")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY:
            raise TooLarge(f"the request body exceeds {MAX_BODY} bytes")
        if not message.get("more_body", False):
            break
    try:
        return orjson.loads(b"".join(chunks))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request body is not JSON: {error}") from error


async def _send(send: Any, status: int, content: Any, headers: list[tuple[bytes, bytes]]) -> None:
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
