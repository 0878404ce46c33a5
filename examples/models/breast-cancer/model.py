"""A small perceptron on scikit-learn's breast cancer data (30 features, 2 classes)."""

from __future__ import annotations

from pathlib import Path

from examples.tables import split


def network():
    """The trained network (trained on the first call)."""
    from torch import nn

    from examples.training import trained

    def make():
        return nn.Sequential(nn.Linear(30, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 2))

    data = lambda: split("breast_cancer", "train")  # noqa: E731
    return trained(Path(__file__).parent, make, data, seconds=10, epochs=40)


def calibration():
    """Training rows."""
    return {"features": split("breast_cancer", "calibration")["x"]}


def evaluation():
    """Held-out rows with their targets."""
    data = split("breast_cancer", "evaluation")
    return {"features": data["x"], "label": data["label"]}
