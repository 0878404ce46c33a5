"""Six convolutions with batch normalisation, global average, one linear layer."""

from __future__ import annotations

from pathlib import Path

from examples.tables import split


def cnn():
    """The trained network (trained on the first call)."""
    from torch import nn

    from examples.training import shifted, trained

    def block(inside, outside, stride):
        return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    def make():
        widths = [(1, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
        layers = [layer for w in widths for layer in block(*w)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))

    data = lambda: split("digits", "train", image=True)  # noqa: E731
    return trained(Path(__file__).parent, make, data, seconds=30, epochs=12, augment=shifted)


def calibration():
    """256 training digits."""
    return {"image": split("digits", "calibration", image=True)["x"]}


def evaluation():
    """The held-out digits with their labels."""
    data = split("digits", "evaluation", image=True)
    return {"image": data["x"], "label": data["label"]}


def training():
    """The training digits with their labels: what smaller variants recover on."""
    data = split("digits", "train", image=True)
    return {"image": data["x"], "label": data["label"]}
