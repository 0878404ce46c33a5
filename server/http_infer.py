"""An inference request's HTTP body -> `InferRequest`, and `InferResponse` -> body: JSON, with the binary extension."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import orjson

from server import tensors
from server.inference import (
    InferRequest,
    InferResponse,
    InputTensor,
    RequestedOutput,
    check_count,
    seconds_of,
    shared_memory,
)
from server.shared_memory import Regions
from variants.errors import InvalidInput

#: JSON that is larger is not parsed to see a deadline: that takes as long as refusing it.
GLANCE_BYTES = 1 << 14
HEADER_LENGTH = b"inference-header-content-length"


def decode(
    model: str,
    version: str,
    body: bytes,
    header_length: bytes | None,
    wishes: Mapping[str, Any] | None = None,
    max_tensors: int = 128,
    regions: Regions | None = None,
) -> InferRequest:
    """A request from its body. With `Inference-Header-Content-Length` the JSON is that many bytes long and raw tensors
    follow. `wishes`: parameters that came as headers; the body's own count more. `regions`: where inputs in shared memory
    are found. Raises InvalidInput naming the field.
    """
    view = memoryview(body)
    head = view
    rest = view[len(view) :]
    if header_length is not None:
        if not header_length.isdigit() or int(header_length) > len(view):
            raise InvalidInput(
                f"Inference-Header-Content-Length {header_length!r} does not fit a body of {len(view)} bytes"
            )
        head, rest = view[: int(header_length)], view[int(header_length) :]
    try:
        content = tensors.read_json(head)
    except ValueError as error:
        raise InvalidInput(f"the request is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"the request must be a JSON object, not {type(content).__name__}")
    parameters = mapping(content.get("parameters"), "parameters")
    if wishes:
        parameters = {**wishes, **parameters}
    items = content.get("inputs")
    if not isinstance(items, list) or not items:
        raise InvalidInput("inputs must be a list of at least one tensor")
    check_count(len(items), max_tensors)
    inputs = []
    used = 0
    for item in items:
        tensor, size = _input(item, rest[used:], regions)
        inputs.append(tensor)
        used += size
    if used != len(rest):
        raise InvalidInput(f"{len(rest) - used} bytes follow the JSON that no input's binary_data_size accounts for")
    identity = content.get("id", "")
    if not isinstance(identity, str):
        raise InvalidInput(f"id must be a string, not {type(identity).__name__}")
    outputs = _outputs(content.get("outputs"))
    return InferRequest(model, tuple(inputs), version, identity, parameters, outputs, protocol="http")


def stated_timeout(body: bytes, header_length: bytes | None) -> float | None:
    """The deadline in seconds that a request states, read without its tensors; None: it states none. Infinite where that cannot be
    told without decoding the whole: what is wrong with it is found then."""
    if b"timeout" not in body:
        return None
    head = body if header_length is None else body[: int(header_length)] if header_length.isdigit() else b""
    if len(head) > GLANCE_BYTES:
        return inf
    try:
        return seconds_of(orjson.loads(head)["parameters"]["timeout"])
    except KeyError:
        return None
    except (ValueError, TypeError, InvalidInput):
        return inf


def _input(item: Any, rest: memoryview, regions: Regions | None) -> tuple[InputTensor, int]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise InvalidInput("each of inputs must be an object with a name")
    name = item["name"]
    datatype, shape = tensors.check_header(name, item.get("datatype"), item.get("shape"))
    parameters = mapping(item.get("parameters"), f"input {name!r}: parameters")
    if regions is not None and "shared_memory_region" in parameters:
        if "data" in item or "binary_data_size" in parameters:
            raise InvalidInput(f"input {name!r} has data in the message and in shared memory")
        view = regions.view(*shared_memory(name, parameters))
        return InputTensor(name, datatype, tensors.from_raw(name, datatype, shape, view)), 0
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise InvalidInput(f"input {name!r} has neither data nor binary_data_size")
        return InputTensor(name, datatype, tensors.from_json(name, datatype, shape, item["data"])), 0
    if type(size) is not int or size < 0 or size > len(rest):
        raise InvalidInput(f"input {name!r}: binary_data_size {size!r}, {len(rest)} bytes are there")
    if "data" in item:
        raise InvalidInput(f"input {name!r} has both data and binary_data_size")
    return InputTensor(name, datatype, tensors.from_raw(name, datatype, shape, rest[:size])), size


def _outputs(items: Any) -> tuple[RequestedOutput, ...]:
    if items is None:
        return ()
    if not isinstance(items, list):
        raise InvalidInput(f"outputs must be a list, not {type(items).__name__}")
    outputs = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InvalidInput("each of outputs must be an object with a name")
        outputs.append(
            RequestedOutput(item["name"], mapping(item.get("parameters"), f"output {item['name']!r}: parameters"))
        )
    return tuple(outputs)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A JSON object that may be left out. Raises InvalidInput."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be an object, not {type(value).__name__}")
    return value


def encode(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part when binary tensors follow it (else None).

    An output is binary when its `binary_data` says so, else when the request's `binary_data_output` does. Raises
    InvalidInput for an output that has no JSON form and was not asked for as binary.
    """
    default = bool(request.parameters.get("binary_data_output", False))
    outputs: list[dict[str, Any]] = []
    raw: list[tensors.Buffer] = []
    for output in response.outputs:
        line: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.array.shape)}
        if output.placed:
            pass
        elif output.parameters.get("binary_data", default):
            data = tensors.to_raw(output.array, output.datatype)
            line["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            line["data"] = tensors.to_json(output.array, output.datatype)
        outputs.append(line)
    content: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        content["id"] = response.id
    content["parameters"] = {"variant": response.variant}
    content["outputs"] = outputs
    head = tensors.dumps(content)
    return (b"".join([head, *raw]), len(head)) if raw else (head, None)
