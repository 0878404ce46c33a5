from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from variants.catalog import Model, Source, TensorSpec
from variants.data import batches, check_data, load_data, repeated, resolve
from variants.errors import BuildError, ConfigError

MODEL = Model(
    name="m",
    task="t",
    inputs=(
        TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="n", datatype="INT64", shape=(-1,)),
    ),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
    source=Source(onnx="m.onnx"),
)


def samples(**changes: Any) -> dict[str, Any]:
    return {"x": np.ones((4, 3), np.float32), "n": np.arange(4), **changes}


def test_good_data_and_batches() -> None:
    assert check_data(MODEL, samples(label=np.zeros(4))) == 4
    cut = batches(MODEL, samples(label=np.zeros(4)), 3)
    assert [len(b["x"]) for b in cut] == [3, 1]
    assert set(cut[0]) == {"x", "n"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": np.ones((4, 3), np.float32)}, "no array for input 'n'"),
        (samples(x=np.ones((3, 3), np.float32)), "differ in their number of samples"),
        (samples(x=np.ones((4, 3))), "float64, expected float32"),
        (samples(x=np.ones((4, 2), np.float32)), "[4, 2], expected [-1, 3]"),
        (samples(x=np.ones(4, np.float32)), "expected [-1, 3]"),
        (samples(x=np.full((4, 3), np.nan, np.float32)), "NaN"),
        ({"x": np.ones((0, 3), np.float32), "n": np.arange(0)}, "no samples"),
    ],
)
def test_bad_data_is_named(data: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError) as raised:
        check_data(MODEL, data, what="data.calibration")
    assert words in str(raised.value)
    assert "data.calibration" in str(raised.value)


def test_functions_in_files_and_modules(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f():\n    return {'x': [1.0]}\nvalue = 3\n")
    assert resolve(tmp_path, "code.py:f")() == {"x": [1.0]}
    assert resolve(tmp_path, "math:sqrt")(4) == 2
    assert load_data(tmp_path, "code.py:f")["x"].tolist() == [1.0]
    for wrong, words in (
        ("f", "not a reference"),
        ("code.py:g", "g"),
        ("code.py:value", "not callable"),
        ("nowhere.py:f", "does not exist"),
        ("no.such.module:f", "no"),
    ):
        with pytest.raises(ConfigError, match=words):
            resolve(tmp_path, wrong)


def test_files_of_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones(3))
    assert load_data(tmp_path, "d.npz")["x"].shape == (3,)
    with pytest.raises(ConfigError, match=r"other\.npz"):
        load_data(tmp_path, "other.npz")
    (tmp_path / "code.py").write_text("def f():\n    return 3\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_data(tmp_path, "code.py:f")


def test_repeated_samples_keep_nothing_else_in_memory() -> None:
    many, few = np.arange(64.0).reshape(16, 4), np.arange(3)
    found = repeated({"many": many, "few": few}, 5)
    assert np.array_equal(found["many"], many[:5])
    assert found["many"].base is None
    assert found["few"].tolist() == [0, 1, 2, 0, 1]
