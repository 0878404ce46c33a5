"""A wide perceptron on scikit-learn's diabetes data (10 features, one target)."""

from __future__ import annotations

from pathlib import Path

from examples.tables import split


def network():
    """The trained network (trained on the first call)."""
    from torch import nn

    from examples.training import trained

    def make():
        width = 3328
        hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.GELU())]
        return nn.Sequential(nn.Linear(10, width), nn.GELU(), *hidden, nn.Linear(width, 1))

    data = lambda: split("diabetes", "train")  # noqa: E731
    return trained(Path(__file__).parent, make, data, seconds=25, epochs=10, rate=1e-4)


def calibration():
    """Training rows."""
    return {"features": split("diabetes", "calibration")["x"]}


def evaluation():
    """Held-out rows with their targets."""
    data = split("diabetes", "evaluation")
    return {"features": data["x"], "label": data["label"]}
