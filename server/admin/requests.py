"""An admin request's body and query as values, and answers back as JSON. Nothing here knows what is asked."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError

from server import auth
from server.errors import TooSlow, UnsupportedMedia
from variants.errors import InvalidInput, TooLarge
from variants.repository import problems

MAX_BODY = 64 << 10
BODY_SECONDS = 10.0
Headers = list[tuple[bytes, bytes]]
T = TypeVar("T", bound=BaseModel)


async def read_body(scope: Any, receive: Any, kind: type[T]) -> T:
    """The request's JSON body. Raises InvalidInput, TooLarge, UnsupportedMedia, TooSlow."""
    content_type = (auth.header(scope["headers"], b"content-type") or b"").partition(b";")[0].strip().lower()
    raw = await _collect(receive)
    if content_type != b"application/json":
        raise UnsupportedMedia("the body must be sent as content-type application/json")
    try:
        # strict types as JSON has them, so a tuple may be a list and a number in quotes may not be a number
        orjson.loads(raw)
        return kind.model_validate_json(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request body is not JSON: {error}") from error
    except ValidationError as error:
        raise InvalidInput(f"bad request body: {problems(error)}") from error


async def read_nothing(receive: Any) -> None:
    """Raises InvalidInput when there is a body other than an empty object, TooLarge, TooSlow."""
    if (await _collect(receive)).strip() not in (b"", b"{}"):
        raise InvalidInput("no request body is taken here")


async def _collect(receive: Any) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise InvalidInput("the request body ended early")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > MAX_BODY:
                    raise TooLarge(f"the request body exceeds {MAX_BODY} bytes")
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise TooSlow(f"the request body did not arrive within {BODY_SECONDS:.0f} s") from None


def read_query(scope: Any, kind: type[T]) -> T:
    """The query string's fields. Raises InvalidInput for one that is unknown, repeated or out of bounds."""
    try:
        pairs = parse_qsl(
            scope.get("query_string", b"").decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16
        )
    except ValueError:
        raise InvalidInput("the query string is not valid") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInput("a query parameter is given twice")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(f"bad query: {problems(error)}") from error


async def answer(send: Any, status: int, content: Any, headers: Headers) -> None:
    """Send JSON."""
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
