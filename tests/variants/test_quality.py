from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from variants.quality import concatenate, confidence, distance, quality, sample_scores

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


def test_confidence_of_an_accuracy_is_wilsons_interval() -> None:
    scores = np.eye(2, dtype=np.float32)[[0] * 90 + [1] * 10]
    low, high = confidence("top1", {"y": scores}, {"y": scores}, np.zeros(100, np.int64))
    # Wilson's interval of 90 successes in 100 trials
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_confidence_of_a_fidelity() -> None:
    rng = np.random.default_rng(0)
    reference = {"y": rng.normal(size=(400, 16)).astype(np.float32)}
    exact = confidence("cosine", reference, reference)
    assert exact == (pytest.approx(1.0), pytest.approx(1.0))
    for metric in ("cosine", "relative_error"):
        noisy = {"y": reference["y"] + rng.normal(scale=0.2, size=(400, 16)).astype(np.float32)}
        low, high = confidence(metric, noisy, reference)
        middle = quality(metric, noisy, reference)
        assert low < middle < high
        assert high - low < 0.02
        few = {"y": noisy["y"][:25]}, {"y": reference["y"][:25]}
        assert np.subtract(*confidence(metric, *few)[::-1]) > 2 * (high - low)


@pytest.mark.parametrize("metric", ["top1", "cosine", "relative_error"])
def test_samples_scores_average_to_the_quality(metric: str) -> None:
    rng = np.random.default_rng(1)
    reference = {"a": rng.normal(size=(50, 4)).astype(np.float32), "b": rng.normal(size=(50, 6)).astype(np.float32)}
    outputs = {n: a + rng.normal(scale=0.1, size=a.shape).astype(np.float32) for n, a in reference.items()}
    assert sample_scores(metric, outputs, reference).mean() == pytest.approx(
        quality(metric, outputs, reference), abs=1e-9
    )


def test_integers_are_the_classes_themselves() -> None:
    decided = {"label": np.array([1, 0, 2]), "scores": np.eye(3)[[1, 0, 2]]}
    other = {"label": np.array([1, 2, 2]), "scores": np.eye(3)[[1, 2, 2]]}
    assert distance("top1", other, decided) == pytest.approx(1 / 3)
    assert quality("top1", decided, decided, np.array([1, 1, 2])) == pytest.approx(2 / 3)
    assert sample_scores("top1", other, decided).tolist() == [1.0, 0.0, 1.0]
