from __future__ import annotations

import numpy as np
import pytest

from server.classification import classify, wanted
from variants.catalog import TensorSpec
from variants.errors import InvalidInput

SPEC = TensorSpec(name="y", datatype="FP32", shape=(-1, 4), labels=("ant", "bee", "cat"))


def test_largest_first_with_labels_where_there_are_some() -> None:
    rows = np.array([[0.1, 0.9, 0.5, -1.0], [3, 2, 1, 4]], np.float32)
    made = classify(rows, SPEC, 2, batched=True)
    assert made.tolist() == [[b"0.900000:1:bee", b"0.500000:2:cat"], [b"4.000000:3", b"3.000000:0:ant"]]


def test_fewer_where_there_are_fewer_and_inner_axes_flattened() -> None:
    made = classify(np.arange(6, dtype=np.float64).reshape(1, 2, 3), SPEC, 9, batched=True)
    assert made.shape == (1, 6)
    assert made[0, 0] == b"5.000000:5"
    assert classify(np.array([1.0, 5.0, 3.0]), SPEC, 2, batched=False).tolist() == [
        b"5.000000:1:bee",
        b"3.000000:2:cat",
    ]


def test_equal_values_keep_their_order_and_nan_is_last() -> None:
    assert classify(np.array([[1, 1, 2]], np.int32), SPEC, 3, batched=True).tolist() == [
        [b"2:2:cat", b"1:0:ant", b"1:1:bee"]
    ]
    odd = np.array([[np.nan, 1, np.inf, -np.inf]], np.float32)
    assert classify(odd, SPEC, 4, batched=True).tolist() == [[b"inf:2:cat", b"1.000000:1:bee", b"-inf:3", b"nan:0:ant"]]


def test_unsigned_values_are_compared_as_such() -> None:
    made = classify(np.array([[0, 2**64 - 1, 2**63]], np.uint64), SPEC, 2, batched=True)
    assert made.tolist() == [[b"18446744073709551615:1:bee", b"9223372036854775808:2:cat"]]


@pytest.mark.parametrize("count", [-1, 1.5, "2", True, None])
def test_a_count_that_is_none(count: object) -> None:
    with pytest.raises(InvalidInput, match="must be a number of classes"):
        wanted({"classification": count}, SPEC)


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL", "FP16", "BF16"])
def test_datatypes_without_classes(datatype: str) -> None:
    with pytest.raises(InvalidInput, match=f"{datatype} values have no classes"):
        wanted({"classification": 1}, TensorSpec.model_validate({"name": "y", "datatype": datatype, "shape": [-1]}))
    assert wanted({}, SPEC) == 0
