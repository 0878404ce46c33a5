"""Tensors through the wire forms and back, and everything that does not fit."""

from __future__ import annotations

import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.tensors import check_header, dumps, from_contents, from_json, from_raw, to_json, to_raw
from variants.datatypes import NUMPY
from variants.errors import InvalidInput

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMERIC = sorted(set(NUMPY) - {"BYTES", "BF16"})


@st.composite
def numbers(draw: st.DrawFn, names: list[str]) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(names))
    return name, draw(hnp.arrays(NUMPY[name], draw(SHAPES)))


@st.composite
def strings(draw: st.DrawFn, element: st.SearchStrategy[bytes]) -> np.ndarray:
    shape = draw(SHAPES)
    array = np.empty(math.prod(shape), dtype=np.object_)
    array[:] = [draw(element) for _ in range(array.size)]
    return array.reshape(shape)


@given(numbers(NUMERIC))
def test_numbers_through_raw(case: tuple[str, np.ndarray]) -> None:
    name, array = case
    raw = bytes(to_raw(array, name))
    assert len(raw) == array.nbytes
    back = from_raw("x", name, array.shape, raw)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()  # NaN payloads too


@given(hnp.arrays(np.uint16, SHAPES))
def test_bfloat16_through_raw(bits: np.ndarray) -> None:
    array = bits.view(ml_dtypes.bfloat16)
    back = from_raw("x", "BF16", array.shape, bytes(to_raw(array, "BF16")))
    assert back.dtype == ml_dtypes.bfloat16
    assert back.tobytes() == bits.tobytes()


@given(strings(st.binary(max_size=20)))
def test_bytes_through_raw(array: np.ndarray) -> None:
    back = from_raw("x", "BYTES", array.shape, to_raw(array, "BYTES"))
    assert back.shape == array.shape
    assert back.reshape(-1).tolist() == array.reshape(-1).tolist()


@given(numbers(sorted(set(NUMERIC) - {"FP16"})), st.booleans())
def test_numbers_through_json_flat_or_nested(case: tuple[str, np.ndarray], nested: bool) -> None:
    name, array = case
    if nested and (array.ndim == 0 or 0 in array.shape):
        nested = False  # nothing to nest
    sent = json.loads(json.dumps(array.tolist()) if nested else dumps(to_json(array, name)))
    back = from_json("x", name, array.shape, sent)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(strings(st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(str.encode)))
def test_text_through_json(array: np.ndarray) -> None:
    back = from_json("x", "BYTES", array.shape, json.loads(dumps(to_json(array, "BYTES"))))
    assert back.reshape(-1).tolist() == array.reshape(-1).tolist()


def test_a_float_has_the_digits_that_say_which_it_is() -> None:
    values = np.array([0.1, np.nan, np.inf, 1e20, -np.inf, 16777216], np.float32)
    assert dumps(to_json(values, "FP32")) == b"[0.1,NaN,Infinity,1e+20,-Infinity,16777216.0]"
    assert dumps(to_json(values[:1].astype(np.float64), "FP64")) == b"[0.10000000149011612]"
    assert dumps(to_json(np.full(2, 3e38, np.float32), "FP32")) == b"[3e+38,3e+38]"  # their sum is not finite


def test_elements_are_row_major_and_strided_arrays_are_taken_as_they_look() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert dumps(to_json(array.T, "INT32")) == b"[0,3,1,4,2,5]"
    assert bytes(to_raw(array.T, "INT32")) == struct.pack("<6i", 0, 3, 1, 4, 2, 5)


def test_raw_is_not_copied() -> None:
    raw = bytearray(struct.pack("<2f", 1, 2))
    array = from_raw("x", "FP32", (2,), raw)
    raw[:] = struct.pack("<2f", 3, 4)
    assert array.tolist() == [3, 4]
    data = np.ones(4, np.float32)
    assert np.shares_memory(np.frombuffer(to_raw(data, "FP32"), np.uint8), data)


@pytest.mark.parametrize(
    ("datatype", "shape", "message"),
    [
        ("FLOAT", [1], "datatype 'FLOAT' is not one of BOOL"),
        (None, [1], "datatype None"),
        ("FP32", "1", "shape '1'"),
        ("FP32", [1, -1], "integers of 0 or more"),
        ("FP32", [True], "integers of 0 or more"),
        ("FP32", [1.0], "integers of 0 or more"),
    ],
)
def test_headers_that_are_none(datatype: object, shape: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        check_header("pixels", datatype, shape)
    assert "'pixels'" in str(raised.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("FP32", (2, 2), b"\0" * 15, r"15 bytes, but FP32 of shape \[2, 2\] takes 16"),
        ("INT64", (0,), b"\0", "takes 0"),
        ("BYTES", (2,), b"\1\0\0\0a", "end before element 1 of 2"),
        ("BYTES", (1,), b"\5\0\0\0a", "element 0 claims 5 bytes, 1 are left"),
        ("BYTES", (1,), b"\xff\xff\xff\xffa", "claims 4294967295 bytes"),
        ("BYTES", (1,), b"\1\0\0\0ab", "1 bytes are left after 1 elements"),
        ("BYTES", (1,), b"\1\0", "end before element 0"),
    ],
)
def test_raw_that_does_not_fit(datatype: str, shape: tuple[int, ...], raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_raw("x", datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (1,), 1.0, "data must be a list, not float"),
        ("FP32", (1,), ["1"], "element 0 is '1', expected a number"),
        ("FP32", (1,), [True], "element 0 is True, expected a number"),
        ("FP32", (1,), [None], "element 0 is None"),
        ("INT8", (1,), [1.5], "expected an integer"),
        ("INT8", (2,), [0, 128], r"128 is out of range for INT8 \(-128 to 127\)"),
        ("UINT8", (1,), [-1], "-1 is out of range for UINT8"),
        ("UINT64", (1,), [2**64], "out of range"),
        ("BOOL", (1,), [1], "expected true or false"),
        ("BYTES", (1,), [7], "expected a string"),
        ("FP32", (3,), [1, 2], r"2 elements, but shape \[3\] takes 3"),
        ("FP32", (2, 1), [[1], 2], "nested unevenly"),
        ("FP32", (2,), [[[1]], [[2]]], "nested deeper"),
        ("FP16", (1,), [1.0], "no JSON form; send it as binary"),
        ("BF16", (1,), [1.0], "no JSON form"),
    ],
)
def test_json_that_does_not_fit(datatype: str, shape: tuple[int, ...], data: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_json("x", datatype, shape, data)


def test_the_largest_integers_survive_json() -> None:
    for name, value in (("INT64", -(2**63)), ("INT64", 2**63 - 1), ("UINT64", 2**64 - 1)):
        assert from_json("x", name, (1,), [value]).tolist() == [value]


def test_contents_that_do_not_fit() -> None:
    with pytest.raises(InvalidInput, match="raw_input_contents"):
        from_contents("x", "FP16", (1,), [])
    with pytest.raises(InvalidInput, match="1 elements in contents"):
        from_contents("x", "INT32", (2,), [1])
    with pytest.raises(InvalidInput, match="300 is out of range for UINT8"):  # uint_contents hold 32 bits
        from_contents("x", "UINT8", (1,), [300])
    assert from_contents("x", "BYTES", (1, 2), [b"a", b"\xff"]).tolist() == [[b"a", b"\xff"]]


def test_outputs_without_a_json_form_say_how_to_get_them() -> None:
    with pytest.raises(InvalidInput, match="binary_data: true"):
        to_json(np.array([b"\xff"], dtype=np.object_), "BYTES")
    with pytest.raises(InvalidInput, match="binary_data: true"):
        to_json(np.ones(1, np.float16), "FP16")
