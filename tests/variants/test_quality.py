from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from variants.quality import concatenate, distance, quality

METRICS = ("cosine", "top1", "relative_error")
arrays = hnp.arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))


@given(arrays, arrays, st.sampled_from(METRICS))
def test_bounds_and_identity(a: np.ndarray, b: np.ndarray, metric: str) -> None:
    assert distance(metric, {"y": a}, {"y": a}) == pytest.approx(0.0, abs=1e-6)
    assert 0.0 <= distance(metric, {"y": a}, {"y": b}) <= 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_never_close(metric: str) -> None:
    good = {"y": np.ones((2, 3), np.float32)}
    for bad in (
        {"y": np.array([[1, 1, np.nan], [1, 1, 1]], np.float32)},
        {"y": np.array([[1, 1, np.inf], [1, 1, 1]], np.float32)},
        {"y": np.ones((2, 4), np.float32)},
        {"z": good["y"]},
        {},
    ):
        assert distance(metric, bad, good) == 1.0


def test_known_values() -> None:
    a = {"y": np.array([[1.0, 0.0], [0.0, 1.0]])}
    b = {"y": np.array([[1.0, 0.0], [1.0, 0.0]])}
    assert distance("cosine", a, b) == pytest.approx(0.5)
    assert distance("top1", a, b) == pytest.approx(0.5)
    assert distance("relative_error", {"y": np.array([[2.2]])}, {"y": np.array([[2.0]])}) == pytest.approx(0.05)
    assert distance("cosine", {"y": np.array([[b"a"]], object)}, {"y": np.array([[b"b"]], object)}) == 1.0


def test_quality_is_accuracy_where_labels_are() -> None:
    scores = {"y": np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])}
    assert quality("top1", scores, scores, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert quality("top1", scores, scores) == 1.0
    assert quality("cosine", scores, scores, np.array([1, 0, 0])) == 1.0


def test_concatenate() -> None:
    assert concatenate([]) == {}
    assert concatenate([{"y": np.ones((1, 2))}, {"y": np.zeros((2, 2))}])["y"].shape == (3, 2)
