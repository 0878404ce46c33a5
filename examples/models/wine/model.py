"""A small perceptron on scikit-learn's wine data (13 features, 3 classes)."""

from __future__ import annotations

from pathlib import Path

from examples.tables import split


def network():
    """The trained network (trained on the first call)."""
    from torch import nn

    from examples.training import trained

    def make():
        return nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))

    data = lambda: split("wine", "train")  # noqa: E731
    return trained(Path(__file__).parent, make, data, seconds=10, epochs=60)


def calibration():
    """Training rows."""
    return {"features": split("wine", "calibration")["x"]}


def evaluation():
    """Held-out rows with their targets."""
    data = split("wine", "evaluation")
    return {"features": data["x"], "label": data["label"]}
