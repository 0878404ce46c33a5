"""scikit-learn's bundled data sets, split once and for all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.generic]]


def split(name: str, part: str, *, image: bool = False) -> Arrays:
    """`train`, `calibration` (a part of train) or `evaluation` of `digits`, `breast_cancer`, `wine` or `diabetes`.

    Features are standardised with the training part's statistics: `x` float32 [n, features], images [n, 1, 8, 8];
    `label` int64 [n], or float32 [n, 1] for diabetes.
    """
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    x = np.asarray(data.data, np.float32)
    y = np.asarray(data.target, np.float32).reshape(-1, 1) if name == "diabetes" else np.asarray(data.target, np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    held = max(64, len(x) // 5) if len(x) > 256 else len(x) // 3
    train, evaluation = order[held:], order[:held]
    mean, std = (0.0, 16.0) if image else (x[train].mean(0), x[train].std(0) + 1e-6)
    x = ((x - mean) / std).astype(np.float32)
    if name == "diabetes":
        y = (y - y[train].mean()) / y[train].std() + 3.0  # away from 0, where relative errors mean nothing
    if image:
        x = x.reshape(-1, 1, 8, 8)
    rows = {"train": train, "calibration": train[:256], "evaluation": evaluation}[part]
    return {"x": x[rows], "label": y[rows]}
