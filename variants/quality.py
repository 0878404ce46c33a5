"""How far outputs are from a reference, and how good they are: one number in [0, 1] each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from variants.engines.base import Array

#: Standard errors on each side of 95 % of a normal distribution.
Z95 = 1.959964
Outputs = Mapping[str, Array]
Doubles = npt.NDArray[np.float64]


def distance(metric: str, outputs: Outputs, reference: Outputs) -> float:
    """Distance of outputs from reference outputs (arrays by output name, axis 0 = sample), in [0, 1].

    `cosine`: 1 - mean cosine over samples; `top1`: 1 - share of samples with the same arg-max over the last axis (of
    integers: the same values, which are the classes themselves);
    `relative_error`: mean of |a - b| / (|b| + mean |b|), at most 1. The worst output counts; for `top1` the first one.
    A missing output, another shape, NaN or infinity anywhere: 1.0.
    """
    if not reference or set(outputs) != set(reference):
        return 1.0
    pairs = [(np.asarray(outputs[name]), np.asarray(reference[name])) for name in reference]
    if any(a.shape != b.shape for a, b in pairs):
        return 1.0
    numeric = [(_float(a), _float(b)) for a, b in pairs if a.dtype != np.object_]
    if any(not np.isfinite(a).all() for a, _ in numeric):
        return 1.0
    others = [(a, b) for a, b in pairs if a.dtype == np.object_]
    if any(not np.array_equal(a, b) for a, b in others):
        return 1.0
    if not numeric:
        return 0.0
    if metric == "top1":
        a, b = next(pair for pair in pairs if pair[0].dtype != np.object_)
        return float(1.0 - np.mean(classes(a) == classes(b)))
    measure = _cosine_distance if metric == "cosine" else _relative_error
    return float(np.clip(max(measure(a, b) for a, b in numeric), 0.0, 1.0))


def quality(metric: str, outputs: Outputs, reference: Outputs, labels: Array | None = None) -> float:
    """Accuracy against labels for `top1` when there are labels, else fidelity to the reference (1 - distance)."""
    if metric == "top1" and labels is not None:
        scores = np.asarray(next(iter(outputs.values())))
        if not np.isfinite(_float(scores)).all():
            return 0.0
        return float(np.mean(classes(scores).reshape(-1) == np.asarray(labels).reshape(-1)))
    return 1.0 - distance(metric, outputs, reference)


def classes(output: Array) -> Array:
    """What a classifier's output decides: the best of its scores along the last axis, or integers as they are."""
    return np.argmax(_float(output), -1) if output.dtype.kind not in "biu" else output


def confidence(metric: str, outputs: Outputs, reference: Outputs, labels: Array | None = None) -> tuple[float, float]:
    """Bounds of `quality` with 95 % confidence: Wilson's interval where a sample is right or wrong (`top1`), else a normal
    one on the mean over samples of the worst output."""
    scores = sample_scores(metric, outputs, reference, labels)
    count = len(scores)
    if count == 0:
        return 0.0, 1.0
    mean = float(scores.mean())
    if metric == "top1" and set(np.unique(scores)) <= {0.0, 1.0}:
        z2 = Z95 * Z95
        centre = (mean + z2 / (2 * count)) / (1 + z2 / count)
        half = Z95 * np.sqrt(mean * (1 - mean) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    else:
        centre, half = mean, Z95 * float(scores.std(ddof=1)) / np.sqrt(count) if count > 1 else 1.0
    return float(np.clip(centre - half, 0.0, 1.0)), float(np.clip(centre + half, 0.0, 1.0))


def sample_scores(metric: str, outputs: Outputs, reference: Outputs, labels: Array | None = None) -> Doubles:
    """The quality of each sample in [0, 1]; their mean is `quality` (for the output that is worst on average)."""
    names = list(outputs)
    count = len(outputs[names[0]]) if names else 0
    if metric == "top1" and labels is not None:
        right = classes(outputs[names[0]]).reshape(count, -1) == np.asarray(labels).reshape(count, -1)
        share: Doubles = right.astype(np.float64).mean(1)
        return share
    per_output = []
    for name in names:
        if outputs[name].dtype == np.object_:
            continue
        a, b = _float(outputs[name]).reshape(count, -1), _float(reference[name]).reshape(count, -1)
        if metric == "top1":
            agree = classes(outputs[name]) == classes(reference[name])
            per_output.append(np.asarray(agree, np.float64).reshape(count, -1).mean(1))
            break
        if metric == "cosine":
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            same = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(b, axis=1) == 0)
            per_output.append(np.where(same, 1.0, (a * b).sum(1) / np.where(norms == 0, 1.0, norms)))
        else:
            scale = np.abs(b) + np.abs(b).mean()
            per_output.append(1.0 - (np.abs(a - b) / np.where(scale == 0, 1.0, scale)).mean(1))
    worst: Doubles = min(per_output, key=lambda s: float(s.mean())) if per_output else np.ones(count)
    bounded: Doubles = np.clip(np.nan_to_num(worst, nan=0.0), 0.0, 1.0)
    return bounded


def concatenate(batches: list[dict[str, Array]]) -> dict[str, Array]:
    """Batches of outputs as one, along axis 0."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} if batches else {}


def _float(array: Array) -> Doubles:
    return array.astype(np.float64)


def _cosine_distance(a: Doubles, b: Doubles) -> float:
    rows = len(a) if a.ndim > 1 else 1
    x, y = a.reshape(rows, -1), b.reshape(rows, -1)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = (np.linalg.norm(x, axis=1) == 0) & (np.linalg.norm(y, axis=1) == 0)
    cosine = np.where(both_zero, 1.0, (x * y).sum(axis=1) / np.where(norms == 0, 1.0, norms))
    return float(1.0 - cosine.mean()) if cosine.size else 0.0


def _relative_error(a: Doubles, b: Doubles) -> float:
    scale = np.abs(b) + (np.abs(b).mean() if b.size else 0.0)
    return float((np.abs(a - b) / np.where(scale == 0, 1.0, scale)).mean()) if b.size else 0.0
