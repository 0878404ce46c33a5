"""`ModelInferRequest` -> `InferRequest`, and `InferResponse` -> `ModelInferResponse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protos import open_inference_pb2 as pb
from server import tensors
from server.inference import (
    InferRequest,
    InferResponse,
    InputTensor,
    RequestedOutput,
    check_count,
    shared_memory,
)
from server.shared_memory import Regions
from variants.errors import InvalidInput

#: Which field of InferTensorContents holds a datatype's elements (Open Inference Protocol, gRPC).
CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode(
    request: Any,
    remaining: float | None,
    wishes: Mapping[str, Any] | None = None,
    max_tensors: int = 128,
    regions: Regions | None = None,
) -> InferRequest:
    """A request from its message; `remaining`: seconds the client will still wait (None: for ever). `wishes`: parameters
    that came as metadata; the message's own count more. `regions`: where inputs in shared memory are found; those have no
    entry in `raw_input_contents`.

    Raises InvalidInput naming the input.
    """
    check_count(len(request.inputs), max_tensors)
    raw = request.raw_input_contents
    inputs = []
    if not request.inputs:
        raise InvalidInput("inputs must hold at least one tensor")
    used = 0
    for tensor in request.inputs:
        name = tensor.name
        datatype, shape = tensors.check_header(name, tensor.datatype, list(tensor.shape))
        if regions is not None and tensor.parameters and "shared_memory_region" in tensor.parameters:
            if tensor.HasField("contents"):
                raise InvalidInput(f"input {name!r} has both contents and shared memory")
            view = regions.view(*shared_memory(name, parameters(tensor.parameters)))
            array = tensors.from_raw(name, datatype, shape, view)
        elif raw:
            if tensor.HasField("contents") and tensor.contents.ByteSize():  # MLServer's client sends an empty message
                raise InvalidInput(f"input {name!r} has both contents and raw_input_contents")
            if used == len(raw):
                raise InvalidInput(
                    f"input {name!r} has no raw_input_contents: {used} are there for the inputs before it"
                )
            array = tensors.from_raw(name, datatype, shape, raw[used])
            used += 1
        else:
            array = tensors.from_contents(name, datatype, shape, _contents(name, datatype, tensor.contents))
        inputs.append(InputTensor(name, datatype, array))
    if used != len(raw):
        raise InvalidInput(f"{len(raw)} raw_input_contents, but {used} inputs take one")
    outputs = tuple(RequestedOutput(o.name, parameters(o.parameters)) for o in request.outputs)
    return InferRequest(
        request.model_name,
        tuple(inputs),
        request.model_version,
        request.id,
        {**(wishes or {}), **parameters(request.parameters)},
        outputs,
        timeout_seconds=remaining,
        protocol="grpc",
    )


def _contents(name: str, datatype: str, contents: Any) -> Any:
    expected = CONTENTS.get(datatype)
    if expected is None:
        return ()  # FP16 and BF16: `from_contents` says why
    filled = [field.name for field, _ in contents.ListFields()]
    wrong = [field for field in filled if field != expected]
    if wrong:
        raise InvalidInput(f"input {name!r}: {datatype} elements belong in {expected}, not in {', '.join(wrong)}")
    return getattr(contents, expected)


def parameters(source: Any) -> dict[str, Any]:
    """A map of InferParameter as plain values; one without a value is None."""
    made: dict[str, Any] = {}
    for key, value in source.items():
        choice = value.WhichOneof("parameter_choice")
        made[key] = getattr(value, choice) if choice else None
    return made


def encode(response: InferResponse) -> Any:
    """The message of an answer; tensors are always raw, as Triton sends them."""
    answer = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    answer.parameters["variant"].string_param = response.variant
    for output in response.outputs:
        answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        raw = b"" if output.placed else bytes(tensors.to_raw(output.array, output.datatype))
        answer.raw_output_contents.append(raw)
    return answer
