"""Fixtures for the whole suite: a small model repository on disk, built in a second, and free ports."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from variants.catalog import BatchProfile, Lineage, Profile, Variant
from variants.device import fingerprint
from variants.repository import write_canary, write_profile, write_variant

WIDTH = 256


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A TCP port that was free on loopback a moment ago."""

    def pick() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return int(s.getsockname()[1])

    return pick


def affine_onnx(path: Path, weights: np.ndarray, bias: np.ndarray) -> None:
    """y = x @ weights + bias, with a dynamic batch axis."""
    width_in, width_out = weights.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width_out])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def affine_weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the model `affine` of that seed: float32 of (WIDTH, WIDTH) and (WIDTH,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(WIDTH, WIDTH)).astype(np.float32), rng.normal(size=WIDTH).astype(np.float32)


def add_affine_model(root: Path, name: str, seed: int = 0) -> Path:
    """A model with three variants: `full`, `lite` (weights rounded to float16) and `broken` (weights of another seed,
    which the canary check must refuse). `full` and `lite` carry profiles of this device."""
    folder = root / name
    folder.mkdir(parents=True)
    tensor = {"datatype": "FP32", "shape": [-1, WIDTH]}
    document = {
        "name": name,
        "task": "regression",
        "metric": "cosine",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "max_batch": 8,
        "source": {"onnx": "model.onnx"},
        "build": ["full", "lite"],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    weights, bias = affine_weights(seed)
    others = affine_weights(seed + 1000)
    rounded = weights.astype(np.float16).astype(np.float32)
    for variant, (w, b) in {"full": (weights, bias), "lite": (rounded, bias), "broken": others}.items():
        lineage = Lineage(parent=None if variant == "full" else "full", technique=variant)
        record = Variant(
            name=variant, engine="openvino", precision="fp32", artefact="model.onnx", lineage=lineage, tolerance=0.01
        )

        def fill(temporary: Path, w: np.ndarray = w, b: np.ndarray = b) -> None:
            affine_onnx(temporary / "model.onnx", w, b)

        write_variant(folder, record, fill)
    inputs = np.random.default_rng(seed + 1).normal(size=(4, WIDTH)).astype(np.float32)
    write_canary(folder, {"x": inputs}, {"y": inputs @ weights + bias})
    for variant, (size, quality) in {"full": (8 << 20, 1.0), "lite": (4 << 20, 0.99)}.items():
        speed = 0.001 if variant == "full" else 0.0005
        batches = tuple(
            BatchProfile(batch=n, p50_seconds=speed, p99_seconds=2 * speed, throughput=n / speed) for n in (1, 8)
        )
        profile = Profile(
            device=fingerprint(),
            threads=1,
            resident_bytes=size,
            load_seconds=0.1,
            warmup_seconds=0.01,
            batches=batches,
            quality=quality,
        )
        write_profile(folder, variant, profile)
    return folder


@pytest.fixture(scope="session")
def affine_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two affine models, `alpha` (seed 0) and `beta` (seed 7)."""
    root = tmp_path_factory.mktemp("models")
    add_affine_model(root, "alpha", 0)
    add_affine_model(root, "beta", 7)
    return root
