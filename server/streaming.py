"""Streams of answers: the generate extension over HTTP (server-sent events), ModelStreamInfer over gRPC.

Sources: Triton, "Generate Extension" and `ModelStreamInfer` in grpc_service.proto. An ordinary model answers once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import orjson

from server import tensors
from server.dataplane import DataPlane
from server.inference import InferRequest, InferResponse, InputTensor, check_parameters
from variants.catalog import Model, TensorSpec
from variants.errors import InvalidInput

#: Requests of one gRPC stream that are worked on at once; their answers keep the requests' order.
AHEAD = 16
#: Answers of one request that may wait for a slow reader before its model waits too.
UNREAD = 8


def generate_request(model: Model, version: str, body: Mapping[str, Any]) -> InferRequest:
    """A generate request's JSON: a key for each input, with a value or a flat list; `id`; `parameters`, and further keys
    that are parameters too. Raises InvalidInput."""
    specs = {spec.name: spec for spec in model.inputs}
    parameters: dict[str, Any] = {}
    inputs = []
    for key, value in body.items():
        if key in specs:
            inputs.append(_input(model, specs[key], value))
        elif key == "parameters":
            if not isinstance(value, dict):
                raise InvalidInput(f"parameters must be an object, not {type(value).__name__}")
            parameters.update(value)
        elif key != "id":
            parameters[key] = value
    identity = body.get("id", "")
    if not isinstance(identity, str):
        raise InvalidInput(f"id must be a string, not {type(identity).__name__}")
    check_parameters(parameters)
    return InferRequest(model.name, tuple(inputs), version, identity, parameters, protocol="http")


def _input(model: Model, spec: TensorSpec, value: Any) -> InputTensor:
    data = value if isinstance(value, list) else [value]
    if any(isinstance(element, (list, dict)) for element in data):
        raise InvalidInput(f"input {spec.name!r} must be one value or a flat list of values")
    dims = spec.shape[1:] if model.batchable else spec.shape
    fixed = math.prod(d for d in dims if d >= 0)
    free = [axis for axis, d in enumerate(dims) if d < 0]
    if (not free and len(data) != fixed) or (free and (fixed == 0 or len(data) % fixed)):
        raise InvalidInput(f"input {spec.name!r}: {len(data)} values do not fill the shape {list(dims)}")
    # Of several free axes the first takes all there is.
    shape = tuple([d if d >= 0 else len(data) // fixed if axis == free[0] else 1 for axis, d in enumerate(dims)])
    shape = (1, *shape) if model.batchable else shape
    return InputTensor(spec.name, spec.datatype, tensors.from_json(spec.name, spec.datatype, shape, data))


def generate_response(response: InferResponse) -> bytes:
    """JSON with a key for each output; one element is a value, several are a flat list. Raises InvalidInput for an output
    that has no JSON form."""
    content: dict[str, Any] = {"id": response.id} if response.id else {}
    content |= {"model_name": response.model, "model_version": response.version}
    for output in response.outputs:
        data = tensors.to_json(output.array, output.datatype)
        one = output.array.size == 1
        content[output.name] = orjson.Fragment(tensors.dumps(data)[1:-1]) if one else data
    return tensors.dumps(content)


async def generate(plane: DataPlane, request: InferRequest) -> InferResponse:
    """The one answer. Raises InvalidInput where the model gives none, or several."""
    found = None
    async with aclosing(plane.stream(request)) as answers:
        async for answer in answers:
            if found is not None:
                found = None
                break
            found = answer
    if found is None:
        raise InvalidInput(
            "generate is for exactly one answer, and the model gave none or several: use generate_stream"
        )
    return found


async def events(
    plane: DataPlane, request: InferRequest, receive: Any, send: Any, message: Callable[[Exception], bytes]
) -> None:
    """Answer with server-sent events. What goes wrong before the first answer is raised, later it is an event
    (`message`: its JSON). A client that goes away ends the computation."""
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        async with aclosing(plane.stream(request)) as answers:
            answer = await _unless(gone, anext(answers, None))
            if gone.done():
                return
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            if answer is not None:
                headers.append((b"x-trimtab-variant", answer.variant.encode()))
            event = b"" if answer is None else _event(generate_response(answer))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while answer is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                try:
                    answer = await _unless(gone, anext(answers, None))
                    event = b"" if answer is None else _event(generate_response(answer))
                except Exception as error:
                    await send({"type": "http.response.body", "body": _event(message(error)), "more_body": True})
                    break
            if not gone.done():
                await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


def _event(content: bytes) -> bytes:
    return b"data: " + content + b"\n\n"


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(gone: asyncio.Future[None], step: Any) -> Any:
    """What `step` gives; None when the client has gone before."""

    async def take() -> Any:
        return await step

    task = asyncio.ensure_future(take())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def in_order(
    requests: AsyncIterator[Any], answers: Callable[[Any], AsyncGenerator[Any, None]]
) -> AsyncGenerator[Any, None]:
    """Every request's answers, in the order of the requests, which are worked on together. `answers` must not raise."""
    order: asyncio.Queue[asyncio.Queue[Any] | None] = asyncio.Queue(AHEAD)
    tasks: set[asyncio.Task[None]] = set()

    def start(work: Any) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def work(request: Any, made: asyncio.Queue[Any]) -> None:
        async with aclosing(answers(request)) as given:
            async for answer in given:
                await made.put(answer)
        await made.put(None)

    async def read() -> None:
        with suppress(Exception):  # the stream broke: what was read from it is still answered
            async for request in requests:
                made: asyncio.Queue[Any] = asyncio.Queue(UNREAD)
                await order.put(made)
                start(work(request, made))
        await order.put(None)

    start(read())
    try:
        while (made := await order.get()) is not None:
            while (answer := await made.get()) is not None:
                yield answer
    finally:
        for task in tuple(tasks):
            task.cancel()
