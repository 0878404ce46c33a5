"""Three tiny models with their reference built: a CNN, a text encoder and a vision transformer, with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from variants.build import pipeline

MODULES = """
import numpy as np
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.head = width // heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2) * self.head**-0.5).softmax(-1)
        x = self.norm1(x + self.out((scores @ v).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(1200, 64)
        self.layers = nn.ModuleList(Layer(64, 4) for _ in range(4))

    def forward(self, ids):
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return x.mean(1)


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 5, 32) * 0.02)
        self.layers = nn.ModuleList(Layer(32, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def cnn():
    return seeded(lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)))


def encoder():
    return seeded(Encoder)


def vit():
    return seeded(Vit)


def images():
    return {"image": np.random.default_rng(0).normal(size=(96, 1, 8, 8)).astype(np.float32)}


def ids():
    return {"ids": np.random.default_rng(0).integers(0, 400, size=(96, 12)).astype(np.int64)}


def labelled():
    return {**images(), "label": np.arange(96, dtype=np.int64) % 10}
"""
IMAGE = {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 10]}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"inputs": [IMAGE], "outputs": [SCORES], "data": {"calibration": "model.py:images"}},
    "vit": {"inputs": [IMAGE], "outputs": [SCORES], "data": {"calibration": "model.py:images"}},
    "encoder": {
        "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 64]}],
        "data": {"calibration": "model.py:ids"},
    },
}
Change = Callable[..., Path]


def write_model(folder: Path, name: str, **fields: Any) -> None:
    document = {"name": name, "task": "test", "metric": "cosine", "max_batch": 4, "build": ["fp32"]}
    document |= {"source": {"factory": f"model.py:{name}"}, **MODELS.get(name, {}), **fields}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("references")
    for name in MODELS:
        (root / name).mkdir()
        (root / name / "model.py").write_text(MODULES)
        write_model(root / name, name)
        assert pipeline.build(root / name).built == ["fp32"]
    return root


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny modules gain nothing from a second thread, and on a busy machine it waits for the first one."""
    for module in ("training", "losses", "context"):
        monkeypatch.setattr(f"variants.build.{module}.default_threads", lambda: 1)


@pytest.fixture
def model(references: Path, tmp_path: Path) -> Change:
    """A copy of a tiny model with its reference; keyword arguments replace fields of its model.yaml."""

    def copy(name: str, **fields: Any) -> Path:
        folder = tmp_path / "models" / name
        shutil.copytree(references / name, folder)
        write_model(folder, name, **fields)
        return folder

    return copy


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    import torch

    torch.set_num_threads(1)
