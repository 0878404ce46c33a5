from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from variants import engines
from variants.catalog import Lineage, Model, Source, TensorSpec, Variant
from variants.engines.base import LoadRequest, StreamingEngine
from variants.errors import EngineFailed

CODE = """
import torch


class Counts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.step = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return x * self.step

    def stream(self, x):
        for _ in range(int(x.reshape(-1)[0])):
            x = x * self.step
            yield x
        if x.reshape(-1)[0] > 100:
            raise ValueError("too large")


def counts():
    return Counts()


def single():
    return torch.nn.Linear(1, 1, bias=False)
"""


def load(folder: Path, factory: str, weights: dict[str, torch.Tensor]) -> StreamingEngine:
    place = folder / "variants" / "v"
    place.mkdir(parents=True)
    (folder / "code.py").write_text(CODE)
    save_file(weights, place / "w.safetensors")
    spec = {"datatype": "FP32", "shape": (-1, 1)}
    model = Model(
        name="m",
        task="t",
        inputs=(TensorSpec.model_validate({"name": "x", **spec}),),
        outputs=(TensorSpec.model_validate({"name": "y", **spec}),),
        source=Source(factory=f"code.py:{factory}"),
        streams=True,
    )
    variant = Variant(
        name="v",
        engine="torch",
        precision="fp32",
        artefact="w.safetensors",
        files={"w.safetensors": ""},
        lineage=Lineage(technique="torch"),
        options={"factory": f"code.py:{factory}"},
    )
    engine = engines.load(LoadRequest(model, variant, place))
    assert isinstance(engine, StreamingEngine)
    return engine


def x(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 1), value, np.float32)}


def test_a_module_streams_what_it_yields_from_whatever_thread(tmp_path: Path) -> None:
    engine = load(tmp_path, "counts", {"step": torch.tensor(2.0)})
    steps = engine.stream(x(3))
    got: list[float] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: got.append(next(steps)["y"].item()))
        thread.start()
        thread.join()
    assert got == [6, 12, 24]
    assert next(steps, None) is None
    assert engine.infer(x(3))["y"].tolist() == [[6.0]]


def test_what_goes_wrong_in_a_stream(tmp_path: Path) -> None:
    engine = load(tmp_path, "counts", {"step": torch.tensor(2.0)})
    steps = engine.stream(x(6))
    with pytest.raises(EngineFailed, match="m/v: torch: too large"):
        list(steps)
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        next(engine.stream(x(1)))
    other = load(tmp_path / "other", "single", {"weight": torch.ones(1, 1)})
    with pytest.raises(EngineFailed, match="no method `stream`"):
        next(other.stream(x(1)))
