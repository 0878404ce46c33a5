from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.variants.build.conftest import write_model
from variants.build import pipeline
from variants.build.context import run
from variants.build.naming import stored_name
from variants.catalog import Variant
from variants.repository import load_catalog, read_canary, variant_folder

Change = Callable[..., Path]
NO_TRAINING = {"minutes": 0.0, "max_distance": 1.0}
FEW_STEPS = {"steps": 6, "max_distance": 1.0}


def built(folder: Path, *names: str) -> Variant:
    summary = pipeline.build(folder, names)
    assert summary.failed == {}, summary
    entry = load_catalog(folder.parent).entries[folder.name]
    return entry.variants[stored_name(names[-1])]


def weights(folder: Path, variant: Variant) -> int:
    graph = onnx.load(variant_folder(folder, variant.name) / variant.artefact).graph
    return sum(numpy_helper.to_array(t).size for t in graph.initializer)


def test_pruning_removes_channels_that_are_not_outputs(model: Change) -> None:
    folder = model("cnn", techniques={"prune": {"ratio": 0.5, **NO_TRAINING}})
    variant = built(folder, "prune")
    made = variant.lineage.parameters
    assert made["removed"] == {"6": 32, "3": 32, "0": 16}
    assert made["skipped"] == {}
    before, after = made["parameters"]
    assert after < 0.3 * before
    assert variant.lineage.samples == 0
    assert variant.lineage.libraries.keys() == {"torch", "torch-pruning"}


def test_pruning_removes_the_least_channels(model: Change) -> None:
    """Channels whose weights are zero are what goes, so the outputs stay."""
    folder = model("cnn", techniques={"prune": {"ratio": 0.5, **NO_TRAINING, "keep": ["0", "6"]}})
    code = folder / "model.py"
    halved = "def cnn():\n    net = whole()\n    with torch.no_grad():\n        for p in (net[3].weight, net[3].bias, net[4].bias):\n"
    code.write_text(
        code.read_text().replace("def cnn():", "def whole():")
        + f"\n\n{halved}            p[1::2] = 0\n    return net\n"
    )
    assert pipeline.build(folder, ["fp32"], force=True).failed == {}
    variant = built(folder, "prune")
    assert variant.lineage.parameters["removed"] == {"3": 32}
    canary = read_canary(folder)
    assert canary is not None
    outputs = run(load_catalog(folder.parent).entries["cnn"].model, variant, variant_folder(folder, "prune"), canary[0])
    assert np.allclose(outputs["scores"], canary[1]["scores"], atol=1e-4)


def test_pruning_takes_whole_heads_and_units(model: Change) -> None:
    folder = model("encoder", techniques={"prune": {"ratio": 0.5, **NO_TRAINING}})
    made = built(folder, "prune").lineage.parameters
    heads = {n: c for n, c in made["removed"].items() if not n.endswith("up")}
    units = {n: c for n, c in made["removed"].items() if n.endswith("up")}
    assert set(heads.values()) == {2}
    assert set(units.values()) == {128}
    assert len(heads) == len(units) == 4
    only = model_again(folder, {"ratio": 0.25, "targets": ["units"], **NO_TRAINING})
    assert set(built(only, "prune").lineage.parameters["removed"].values()) == {64}


def model_again(folder: Path, prune: dict[str, Any]) -> Path:
    import yaml

    document = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**document, "techniques": {"prune": prune}}))
    return folder


@pytest.mark.slow
def test_what_has_its_size_in_its_code_is_skipped(model: Change) -> None:
    folder = model("encoder", techniques={"prune": {"ratio": 0.5, **NO_TRAINING}})
    code = folder / "model.py"
    code.write_text(
        code.read_text().replace("unflatten(-1, (-1, self.head))", "unflatten(-1, (64 // self.head, self.head))")
    )
    made = built(folder, "prune").lineage.parameters
    assert set(made["removed"].values()) == {128}
    assert all("written into it" in why for why in made["skipped"].values())
    assert len(made["skipped"]) == 4


@pytest.mark.slow
def test_fused_queries_keys_and_values_lose_the_same_heads(model: Change) -> None:
    folder = model("vit", techniques={"prune": {"ratio": 0.5, "targets": ["heads"], **NO_TRAINING}})
    code = folder / "model.py"
    text = code.read_text()
    text = text.replace(
        "self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)",
        "self.qkv = nn.Linear(width, 3 * width)",
    ).replace(
        "self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)", "self.out = nn.Linear(width, width)"
    )
    text = text.replace(
        "q, k, v = (f(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for f in (self.query, self.key, self.value))",
        "q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head)).permute(2, 0, 3, 1, 4).unbind(0)",
    )
    text = (
        text.replace("return seeded(Vit)", "return silenced(seeded(Vit))")
        + '''

def silenced(net):
    """Heads 1 and 3 of each layer do nothing."""
    with torch.no_grad():
        for layer in net.layers:
            for head in (1, 3):
                layer.out.weight[:, head * 8:(head + 1) * 8] = 0
                for part in range(3):
                    layer.qkv.weight[part * 32 + head * 8:part * 32 + (head + 1) * 8] *= 0.01
    return net
'''
    )
    code.write_text(text)
    assert pipeline.build(folder, ["fp32"], force=True).failed == {}
    variant = built(folder, "prune")
    assert variant.lineage.parameters["removed"] == {"layers.1.qkv": 2, "layers.0.qkv": 2}
    canary = read_canary(folder)
    assert canary is not None
    entry = load_catalog(folder.parent).entries["vit"]
    outputs = run(entry.model, variant, variant_folder(folder, "prune"), canary[0])
    assert np.allclose(outputs["scores"], canary[1]["scores"], atol=1e-4)


def test_low_rank_of_linear_layers(model: Change) -> None:
    folder = model("encoder", techniques={"low-rank": {"rank_ratio": 0.25, "speedup": 0.0, **NO_TRAINING}})
    made = built(folder, "low-rank").lineage.parameters
    assert made["ranks"]["layers.0.up"] == [16]
    assert len(made["ranks"]) == 24
    assert made["parameters"][1] < made["parameters"][0]


def test_full_energy_gives_the_layer_back() -> None:
    import torch

    from variants.build import compact, lowrank

    torch.manual_seed(0)
    for layer, value in (
        (torch.nn.Linear(40, 48), torch.randn(3, 40)),
        (torch.nn.Conv2d(32, 40, 3, 2, 1), torch.randn(2, 32, 8, 8)),
    ):
        rank = lowrank._ranks(layer, 1.0, 0.0)
        assert torch.allclose(lowrank.factorise(layer, rank)(value), layer(value), atol=1e-4)
    convolution = torch.nn.Conv2d(16, 24, 3, padding=1)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(24, 16, 1, 1) * torch.randn(1, 16, 3, 3))
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(compact.separable(convolution)(x), convolution(x), atol=1e-4)


def test_low_rank_by_measured_speed(model: Change) -> None:
    folder = model("cnn", techniques={"low-rank": {"rank_ratio": 0.25, "speedup": 1000.0, **NO_TRAINING}})
    why = pipeline.build(folder, ["low-rank"]).failed["low-rank"]
    assert why.startswith("cnn: low-rank: no layer gains from low rank (3: rank [16, 8] measured ")
    # Tucker-2 of a 32 -> 64 convolution of 3x3: 32*8 + 8*16*9 + 16*64 weights and the bias
    made = built(again(folder, "low-rank", {"rank_ratio": 0.25, "speedup": 0.0, **NO_TRAINING}), "low-rank").lineage
    assert made.parameters["ranks"]["3"] == [16, 8]


def again(folder: Path, technique: str, parameters: dict[str, Any]) -> Path:
    import yaml

    document = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**document, "techniques": {technique: parameters}}))
    return folder


def test_compact_layers(model: Change) -> None:
    folder = model("cnn", techniques={"compact": {**FEW_STEPS}})
    made = built(folder, "compact").lineage
    assert made.parameters["layers"] == ["3", "6"]
    assert made.samples == 96
    assert made.parameters["samples_seen"] == 6 * 32


@pytest.mark.slow
def test_two_of_four_weights_stay_zero_while_the_module_recovers(model: Change) -> None:
    folder = model("encoder", techniques={"sparse24": {**FEW_STEPS, "learning_rate": 1e-2}})
    variant = built(folder, "sparse24")
    graph = onnx.load(variant_folder(folder, "sparse24") / variant.artefact).graph
    matrices = [a for t in graph.initializer if (a := numpy_helper.to_array(t)).ndim == 2 and min(a.shape) >= 64]
    linear = [a for a in matrices if 1200 not in a.shape]
    assert len(linear) == 24
    for matrix in linear:
        by_axis = [
            (m.reshape(-1, 4) == 0).sum(1).min() for m in (np.ascontiguousarray(matrix), np.ascontiguousarray(matrix.T))
        ]
        assert max(by_axis) >= 2


def test_fewer_layers_and_inner_losses(model: Change) -> None:
    techniques = {
        "distil": {"layers": 2, "hidden": 1.0, "attention": 1.0, **FEW_STEPS},
        "one": {"technique": "distil", "layers": [3], "hidden": 1.0, **FEW_STEPS},
    }
    folder = model("encoder", techniques=techniques)
    two, one = built(folder, "distil"), built(folder, "one")
    assert two.lineage.parameters["layers"] == [0, 3]
    assert one.lineage.parameters["layers"] == [3]
    assert two.lineage.parameters["teacher"] == "fp32"
    assert weights(folder, one) < weights(folder, two)


@pytest.mark.slow
def test_training_lowers_the_loss_and_is_reproducible(model: Change) -> None:
    parameters = {"ratio": 0.5, "steps": 40, "learning_rate": 1e-3, "max_distance": 1.0, "batch": 16}
    folder = model("encoder", techniques={"prune": {**parameters, "steps": 1}})
    started = built(folder, "prune").lineage.parameters["loss"]
    again(folder, "prune", parameters)
    first = built(folder, "prune")
    assert first.lineage.parameters["loss"] < 0.8 * started
    assert pipeline.build(folder, ["prune"], force=True).failed == {}
    second = load_catalog(folder.parent).entries["encoder"].variants["prune"]
    assert first.lineage.parameters["module_sha256"] == second.lineage.parameters["module_sha256"]


def test_techniques_compose(model: Change) -> None:
    techniques = {"prune": {"ratio": 0.5, **NO_TRAINING}, "low-rank": {"rank_ratio": 0.5, "speedup": 0, **NO_TRAINING}}
    techniques |= {"distil": {**FEW_STEPS}, "compact": {"layers": ["6"], **NO_TRAINING}}
    folder = model("cnn", techniques=techniques)
    variant = built(folder, "prune+compact+distil+int8")
    assert variant.name == "prune-compact-distil-int8"
    assert variant.precision == "int8"
    kept = json.loads((folder / "modules" / "prune-compact-distil" / "recipe.json").read_text())
    assert [s["kind"] for s in kept["steps"]] == ["resize", "separable"]


def test_a_graph_cannot_be_trained_further(model: Change) -> None:
    folder = model("cnn")
    why = pipeline.build(folder, ["int8+prune"]).failed
    assert why == {
        "int8-prune": "cnn: int8-prune: int8 (int8) is a graph, not a module that can be changed or trained; put the "
        "techniques that work on graphs (fp16, bf16, int8, …) last"
    }


def test_a_distillation_token(model: Change) -> None:
    parts = {"token": "token", "positions": "positions", "block": "layers.1", "norm": "norm", "head": "head"}
    folder = model("vit", metric="top1", techniques={"deit": {**parts, **FEW_STEPS}})
    variant = built(folder, "deit")
    assert variant.lineage.parameters["token"] == "token"
    graph = onnx.load(variant_folder(folder, "deit") / variant.artefact).graph
    assert any(tuple(t.dims) == (1, 6, 32) for t in graph.initializer)
    again(folder, "deit", {**parts, "norm": "nowhere", **FEW_STEPS})
    assert "nowhere" in pipeline.build(folder, ["deit"]).failed["deit"]


@pytest.mark.parametrize(
    ("technique", "parameters", "why"),
    [
        ("prune", {"ratio": 1.5}, "ratio must be between 0 and 1"),
        ("prune", {"steps": -1}, "must not be negative"),
        ("distil", {}, "names no student"),
        ("distil", {"layers": 9}, "no ModuleList of equal layers"),
        ("compact", {"layers": ["nowhere"]}, "no convolution nowhere; there are 0, 3, 6"),
        ("prune", {"labels": 1.0, "steps": 1}, "the data has no array `label`"),
        ("prune", {"attention": 1.0, "steps": 1}, "the student has none that can be seen"),
        ("prune", {"data": "model.py:ids", "steps": 1}, "no array for input 'image'; there are ids"),
        ("prune", {"steps": 9, "learning_rate": 1e30}, "the training diverged after"),
    ],
)
def test_bad_requests(model: Change, technique: str, parameters: dict[str, Any], why: str) -> None:
    folder = model("cnn", techniques={technique: parameters})
    summary = pipeline.build(folder, [technique, "bf16"])
    assert why in summary.failed[technique]
    assert summary.failed[technique].startswith("cnn: ")
    assert summary.built == ["bf16"]
    assert {p.name for p in (folder / "variants").iterdir()} == {"fp32", "bf16"}


WAVES = """

def waves():
    return seeded(lambda: nn.Sequential(
        nn.Conv1d(1, 32, 9, 4, 4), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 5, 2, 2, bias=False), nn.ReLU(),
        nn.Conv1d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 10)))


def sounds():
    return {"wave": np.random.default_rng(0).normal(size=(64, 1, 256)).astype(np.float32)}
"""


@pytest.mark.slow
def test_convolutions_over_one_axis_too(model: Change) -> None:
    folder = model("cnn")
    (folder / "model.py").write_text((folder / "model.py").read_text() + WAVES)
    techniques = {
        "prune": {"ratio": 0.5, **NO_TRAINING},
        "low-rank": {"rank_ratio": 0.5, "speedup": 0, **NO_TRAINING},
        "compact": NO_TRAINING,
        "sparse24": NO_TRAINING,
        "int8": {"max_distance": 1.0},
        "subnet": {"width": 0.5, **NO_TRAINING},
    }
    write_model(
        folder,
        "cnn",
        source={"factory": "model.py:waves"},
        data={"calibration": "model.py:sounds"},
        inputs=[{"name": "wave", "datatype": "FP32", "shape": [-1, 1, 256]}],
        techniques=techniques,
    )
    assert pipeline.build(folder, ["fp32"], force=True).failed == {}
    entry = load_catalog(folder.parent).entries["cnn"]
    whole = weights(folder, entry.variants["fp32"])
    for name in ("prune", "low-rank", "compact", "subnet"):
        assert weights(folder, built(folder, name)) < 0.75 * whole, name
    assert built(folder, "prune").lineage.parameters["removed"] == {"5": 32, "3": 32, "0": 16}
    assert built(folder, "compact").lineage.parameters["layers"] == ["3", "5"]
    assert built(folder, "sparse24").lineage.parameters["layers"] == ["3", "5", "9"]
    assert built(folder, "compact+prune+int8").precision == "int8"
    # At full rank the factors compute what the convolution did.
    from variants.build import lowrank
    from variants.data import resolve

    layer = resolve(folder, "model.py:waves")()[3]
    import torch

    sample = torch.randn(2, 32, 64)
    with torch.no_grad():
        assert torch.allclose(lowrank.factorise(layer, [64, 32])(sample), layer(sample), atol=1e-4)
