"""An inference request and its answer as values, and what is checked of a request before a host sees it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from server.classification import wanted as wanted_classes
from server.shared_memory import Regions
from variants.catalog import Model, TensorSpec
from variants.engines.base import Array
from variants.errors import InvalidInput

#: Asks for a last, empty response on a stream (ModelStreamInfer), which says that the answers have ended.
FINAL_RESPONSE = "triton_enable_empty_final_response"
MICROSECONDS = 1e-6
Parameters = Mapping[str, Any]
#: No parameters.
NONE: Parameters = MappingProxyType({})


class InputTensor(NamedTuple):
    """One input as the client sent it, decoded."""

    name: str
    datatype: str
    array: Array


class RequestedOutput(NamedTuple):
    """One output the client asks for, with its parameters (`binary_data`, `classification`)."""

    name: str
    parameters: Parameters = NONE


class InferRequest(NamedTuple):
    """A decoded inference request. `outputs` empty: all of them. `timeout_seconds`: what the transport knows of the
    client's deadline; the request parameter `timeout` (microseconds, as Triton has it) may shorten it."""

    model: str
    inputs: tuple[InputTensor, ...]
    version: str = ""
    id: str = ""
    parameters: Parameters = NONE
    outputs: tuple[RequestedOutput, ...] = ()
    timeout_seconds: float | None = None
    protocol: str = "direct"


class OutputTensor(NamedTuple):
    """One output: name, datatype and array as they go out, and the parameters of the request for it. `placed`: the array
    is in the client's shared memory already and is not sent."""

    name: str
    datatype: str
    array: Array
    parameters: Parameters = NONE
    placed: bool = False


class InferResponse(NamedTuple):
    """An answer; `variant` is the one that computed it."""

    model: str
    version: str
    id: str
    variant: str
    outputs: tuple[OutputTensor, ...]


def shared_memory(name: str, parameters: Parameters) -> tuple[str, int, int]:
    """Region, offset and size that a tensor's parameters give. Raises InvalidInput naming the tensor."""
    region = parameters["shared_memory_region"]
    if not isinstance(region, str):
        raise InvalidInput(f"tensor {name!r}: shared_memory_region must be a string, not {type(region).__name__}")
    numbers = {f: parameters.get(f, 0) for f in ("shared_memory_offset", "shared_memory_byte_size")}
    for field_name, value in numbers.items():
        if type(value) is not int or value < 0:
            raise InvalidInput(f"tensor {name!r}: {field_name} {value!r} must be an integer of 0 or more")
    return region, numbers["shared_memory_offset"], numbers["shared_memory_byte_size"]


def check_count(tensors: int, limit: int) -> None:
    """Raises InvalidInput when a request has more inputs than are taken: refused before any of them is decoded."""
    if tensors > limit:
        raise InvalidInput(f"the request has {tensors} inputs, at most {limit} are taken")


def check_inputs(
    model: Model, tensors: tuple[InputTensor, ...], specs: Mapping[str, TensorSpec] | None = None
) -> dict[str, Array]:
    """The inputs by name, compared with the model's (`specs`, where they have been sorted by name already). Raises
    InvalidInput naming the input and what is expected."""
    if specs is None:
        specs = {spec.name: spec for spec in model.inputs}
    inputs: dict[str, Array] = {}
    for tensor in tensors:
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(f"model {model.name!r} has no input {tensor.name!r}; it has {', '.join(specs)}")
        if tensor.name in inputs:
            raise InvalidInput(f"input {tensor.name!r} is given twice")
        if tensor.datatype != spec.datatype:
            raise InvalidInput(
                f"input {tensor.name!r}: datatype {tensor.datatype}, model {model.name!r} takes {spec.datatype}"
            )
        shape = tensor.array.shape
        if shape != spec.shape and not _fits(spec.shape, shape):
            raise InvalidInput(
                f"input {tensor.name!r}: shape {list(shape)}, model {model.name!r} takes {list(spec.shape)}"
            )
        inputs[tensor.name] = tensor.array
    if len(inputs) < len(specs):
        missing = [name for name in specs if name not in inputs]
        raise InvalidInput(f"model {model.name!r}: missing input {', '.join(missing)}; it takes {', '.join(specs)}")
    if model.batchable and len(inputs) > 1:
        sizes = {name: array.shape[0] for name, array in inputs.items()}
        if len(set(sizes.values())) > 1:
            raise InvalidInput(f"model {model.name!r}: inputs differ in their batch size: {sizes}")
    return inputs


def _fits(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(wanted) != len(shape):
        return False
    for most, size in zip(wanted, shape, strict=True):  # noqa: SIM110 - a generator costs more than the rest
        if most != size and most != -1:
            return False
    return True


def rows_of(request: InferRequest) -> int:
    """The size of the batch, as far as it can be told before the inputs are checked."""
    shape = request.inputs[0].array.shape if request.inputs else ()
    return max(1, shape[0]) if shape else 1


Wanted = tuple[TensorSpec, Parameters]


def wanted_outputs(model: Model, requested: tuple[RequestedOutput, ...], regions: Regions) -> list[Wanted]:
    """The outputs asked for, with their parameters; none asked for: all. Raises InvalidInput for what the model does not
    have, or what cannot be given as it is asked for."""
    if not requested:
        return [(spec, {}) for spec in model.outputs]
    specs = {spec.name: spec for spec in model.outputs}
    wanted: list[Wanted] = []
    for output in requested:
        if output.name not in specs:
            raise InvalidInput(f"model {model.name!r} has no output {output.name!r}; it has {', '.join(specs)}")
        if any(spec.name == output.name for spec, _ in wanted):
            raise InvalidInput(f"output {output.name!r} is requested twice")
        if output.parameters:  # refused before anything is computed
            classes = wanted_classes(output.parameters, specs[output.name])
            if "shared_memory_region" in output.parameters:
                if classes:
                    raise InvalidInput(f"output {output.name!r}: classes do not go into shared memory; ask for either")
                regions.view(*shared_memory(output.name, output.parameters))
        wanted.append((specs[output.name], output.parameters))
    return wanted


def check_parameters(parameters: Parameters) -> None:
    """Raises InvalidInput for what no request parameter may be. Those that nobody here knows are ignored, as in Triton."""
    for name, value in parameters.items():
        if not isinstance(value, (str, int, float)):
            raise InvalidInput(
                f"parameter {name!r} must be a string, a number or a boolean, not {type(value).__name__}"
            )
        if name.startswith("triton_") and name != FINAL_RESPONSE:
            raise InvalidInput(f"parameter {name!r}: names that begin with 'triton_' are reserved")


def timeout_of(request: InferRequest) -> float | None:
    """Seconds: the transport's deadline, or what the parameter `timeout` (microseconds) says where that is less. Raises
    InvalidInput."""
    asked = seconds_of(request.parameters.get("timeout"))
    if asked is None or request.timeout_seconds is None:
        return request.timeout_seconds if asked is None else asked
    return min(asked, request.timeout_seconds)


def seconds_of(value: Any) -> float | None:
    """Seconds of a parameter `timeout` (microseconds; 0 and none: no deadline). Raises InvalidInput."""
    if value is None or value == 0:
        return None
    if (
        isinstance(value, str) and value.isdigit()
    ):  # tritonclient's gRPC client sends it as a number, older ones as text
        value = int(value)
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameter 'timeout': {value!r} must be a whole number of microseconds")
    return value * MICROSECONDS
