"""Tensors on the wire <-> numpy: V2 JSON, the binary tensor extension, gRPC raw and typed contents.

Sources: Open Inference Protocol V2, "Tensor Data"; Triton, "Binary Tensor Data Extension". Numbers on the wire are
little-endian; a BYTES element is preceded by its length as uint32. FP16 and BF16 have no JSON form. JSON has none for
NaN and infinities either: as in Triton they are the bare words `NaN`, `Infinity` and `-Infinity`, both ways.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from variants.datatypes import DATATYPES, NUMPY
from variants.engines.base import Array
from variants.errors import InvalidInput

Buffer = bytes | bytearray | memoryview
_INTEGERS = frozenset(d for d in DATATYPES if "INT" in d)
#: What an element in JSON may be, exactly.
_ALLOWED: dict[str, frozenset[type]] = {
    d: frozenset((bool,) if d == "BOOL" else (int,) if d in _INTEGERS else (int, float)) for d in DATATYPES
}
#: What an integer may be, from and to.
_LIMITS = {d: (int(limits.min), int(limits.max)) for d in _INTEGERS for limits in [np.iinfo(NUMPY[d].name)]}
_LENGTH = struct.Struct("<I")


def check_header(name: str, datatype: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    """A tensor's declared datatype and shape, checked. Raises InvalidInput naming the tensor."""
    if not isinstance(datatype, str) or datatype not in NUMPY:
        raise InvalidInput(f"input {name!r}: datatype {datatype!r} is not one of {', '.join(DATATYPES)}")
    if not isinstance(shape, (list, tuple)):
        raise _bad_shape(name, shape)
    for size in shape:
        if type(size) is not int or size < 0:
            raise _bad_shape(name, shape)
    return datatype, tuple(shape)


def _bad_shape(name: str, shape: Any) -> InvalidInput:
    return InvalidInput(f"input {name!r}: shape {shape!r} must be a list of integers of 0 or more")


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: Buffer) -> Array:
    """Bytes of the binary extension or of gRPC's `raw_input_contents`, without a copy except for BYTES.

    Raises InvalidInput when the bytes do not fit the shape.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _shaped(name, _bytes_elements(name, count, raw), shape)
    dtype = NUMPY[datatype]
    expected = count * dtype.itemsize
    if len(raw) != expected:
        raise InvalidInput(
            f"input {name!r}: {len(raw)} bytes, but {datatype} of shape {list(shape)} takes {expected} "
            f"({count} elements of {dtype.itemsize})"
        )
    return _shaped(name, np.frombuffer(raw, dtype=dtype), shape)


def to_raw(array: Array, datatype: str) -> Buffer:
    """An array as bytes of the binary extension; no copy for a contiguous one."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for element in array.reshape(-1):
            value = _as_bytes(element)
            parts += (_LENGTH.pack(len(value)), value)
        return b"".join(parts)
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b""


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    """JSON `data`, nested as the shape or flat. Raises InvalidInput naming what an element is and what it should be."""
    if datatype in ("FP16", "BF16"):
        raise InvalidInput(f"input {name!r}: {datatype} has no JSON form; send it as binary data (binary_data_size)")
    if not isinstance(data, list):
        raise InvalidInput(f"input {name!r}: data must be a list, not {type(data).__name__}")
    flat = _flatten(data, name, len(shape))
    count = math.prod(shape)
    if len(flat) != count:
        raise InvalidInput(f"input {name!r}: {len(flat)} elements, but shape {list(shape)} takes {count}")
    return _shaped(name, _typed(name, datatype, flat), shape)


def from_contents(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Array:
    """gRPC typed contents (already the elements of the right field). Raises InvalidInput on a wrong count or range."""
    if datatype in ("FP16", "BF16"):
        raise InvalidInput(f"input {name!r}: {datatype} has no typed contents; send it in raw_input_contents")
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidInput(f"input {name!r}: {len(values)} elements in contents, but shape {list(shape)} takes {count}")
    if datatype == "BYTES":
        array = np.empty(count, dtype=np.object_)
        array[:] = list(values)
        return _shaped(name, array, shape)
    return _shaped(name, _typed(name, datatype, list(values)), shape)


def to_json(array: Array, datatype: str) -> list[str] | Array | orjson.Fragment:
    """An array as flat JSON data for `dumps`, row-major: of each number the fewest digits that say which it is. Bytes that are
    not UTF-8, FP16 and BF16 raise InvalidInput: they need `binary_data`."""
    if datatype == "BYTES":
        try:
            return [_as_bytes(v).decode("utf-8") for v in array.reshape(-1)]
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"a BYTES output is not UTF-8 ({error.reason}); ask for it with binary_data: true"
            ) from None
    if datatype in ("FP16", "BF16"):
        raise InvalidInput(f"{datatype} outputs have no JSON form; ask for them with binary_data: true")
    values = np.ascontiguousarray(array).reshape(-1)
    # A sum is finite unless an element is not (or it overflows, and then this costs time only).
    if datatype in ("FP32", "FP64"):
        with np.errstate(over="ignore", invalid="ignore"):
            total = values.sum()
        if not math.isfinite(total):
            return _with_words(values)
    return values


def _with_words(values: Array) -> orjson.Fragment:
    """Numbers of which some are not finite."""
    numbers = dumps(values).split(b"null")
    words = [
        b"NaN" if v != v else b"Infinity" if v > 0 else b"-Infinity" for v in values[~np.isfinite(values)].tolist()
    ]
    return orjson.Fragment(
        b"".join([part for pair in zip(numbers, words, strict=False) for part in pair]) + numbers[-1]
    )


def dumps(content: Any) -> bytes:
    """JSON, with arrays in it."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def read_json(text: Buffer) -> Any:
    """Parsed JSON, NaN and infinities as bare words included. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raw = bytes(text)
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # more axes, or longer ones, than an array can have
        raise InvalidInput(f"input {name!r}: shape {list(shape)!r:.200} is not possible: {error}") from error


def _typed(name: str, datatype: str, flat: list[Any]) -> Array:
    if datatype == "BYTES":
        array = np.empty(len(flat), dtype=np.object_)
        for index, value in enumerate(flat):
            if not isinstance(value, str):
                raise _bad_element(name, index, value, "a string")
            try:
                array[index] = value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InvalidInput(f"input {name!r}: element {index} is not Unicode text: {error.reason}") from error
        return array
    dtype = NUMPY[datatype]
    allowed = _ALLOWED[datatype]
    if not allowed.issuperset(map(type, flat)):
        index, value = next((i, v) for i, v in enumerate(flat) if type(v) not in allowed)
        wanted = "true or false" if datatype == "BOOL" else "an integer" if datatype in _INTEGERS else "a number"
        raise _bad_element(name, index, value, wanted)
    if datatype in _INTEGERS and flat:
        least, most = _LIMITS[datatype]
        low, high = min(flat), max(flat)
        if low < least or high > most:
            wrong = low if low < least else high
            raise InvalidInput(f"input {name!r}: {wrong} is out of range for {datatype} ({least} to {most})")
    try:
        return np.array(flat, dtype=dtype)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"input {name!r}: {error}") from error


def _bad_element(name: str, index: int, value: Any, wanted: str) -> InvalidInput:
    return InvalidInput(f"input {name!r}: element {index} is {value!r:.40}, expected {wanted}")


def _flatten(data: list[Any], name: str, rank: int) -> list[Any]:
    depth = 0
    while data and isinstance(data[0], list):
        depth += 1
        if depth > max(rank, 1):
            raise InvalidInput(f"input {name!r}: data is nested deeper than its {rank} axes")
        if not all(isinstance(part, list) for part in data):
            raise InvalidInput(f"input {name!r}: data is nested unevenly")
        data = [value for part in data for value in part]
    return data


def _bytes_elements(name: str, count: int, raw: Buffer) -> Array:
    view = memoryview(raw)
    array = np.empty(count, dtype=np.object_)
    position = 0
    for index in range(count):
        if position + 4 > len(view):
            raise InvalidInput(f"input {name!r}: the bytes end before element {index} of {count}")
        (length,) = _LENGTH.unpack_from(view, position)
        position += 4
        if position + length > len(view):
            raise InvalidInput(
                f"input {name!r}: element {index} claims {length} bytes, {len(view) - position} are left"
            )
        array[index] = bytes(view[position : position + length])
        position += length
    if position != len(view):
        raise InvalidInput(f"input {name!r}: {len(view) - position} bytes are left after {count} elements")
    return array


def _as_bytes(value: Any) -> bytes:
    return value.encode("utf-8") if isinstance(value, str) else bytes(value)
