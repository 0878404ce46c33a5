"""Advice can be typed: the real command line takes every command, and the pipeline builds every technique in them."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

from server.cli import app
from tests.variants.build.source_models import bert_model, litert_model
from variants.build import advise as advise_module
from variants.build import pipeline, told_gpu
from variants.build.advise import Advice, advise
from variants.build.naming import stored_name
from variants.catalog import BatchProfile, Profile
from variants.device import fingerprint
from variants.engines.tensorrt_ import import_flavour
from variants.errors import EngineUnavailable
from variants.repository import load_catalog, write_profile

Change = Callable[..., Path]
#: What trains does so for a step, and may end anywhere.
BRIEF = {"steps": 1, "max_distance": 1.0, "batch": 16}
TRAINED = dict.fromkeys(("prune", "low-rank", "compact", "distil"), BRIEF)
FINISHED = {f"{name}+int8": {"max_distance": 1.0} for name in TRAINED}


def advice_of(folder: Path) -> Advice:
    return advise(folder, load_catalog(folder.parent).entries[folder.name])


def said(told: Advice) -> str:
    return "\n".join(f"{topic}: {line}" for topic, line in told.lines)


def typed(command: str) -> dict[str, Any]:
    """The arguments of a `trimtab` command as the real command line reads them, with its name."""
    program, *words = shlex.split(command)
    assert program == "trimtab"
    group: Any = typer.main.get_command(app)
    name, found, rest = group.resolve_command(group.context_class(group), words)
    return {**found.make_context(name, rest).params, "command": name}


def check(folder: Path, kinds: list[str]) -> Advice:
    """Every command of the advice is read by the command line and names the model; those techniques can be built."""
    told = advice_of(folder)
    read = [typed(c) for c in told.commands]
    assert [r["command"] for r in read] == kinds
    assert all(r["folder"] == folder for r in read)
    named = [t for r in read if r["command"] == "build" for t in r["technique"]]
    assert named == told.techniques
    summary = pipeline.build(folder, named) if named else pipeline.Summary()
    assert summary.failed == {}
    assert {stored_name(n) for n in named} <= set(summary.built)
    return told


ALL = ["build", "profile", "ladder", "search"]


def test_a_convolutional_network(model: Change) -> None:
    folder = model("cnn", techniques={**TRAINED, **FINISHED})
    told = check(folder, ALL)
    text = said(told)
    assert "prune: 3 layers by channels" in text
    assert "3 convolutions as depthwise-separable ones" not in text, "the first one has one input channel"
    assert "2 convolutions as depthwise-separable ones" in text
    assert {"int8", "int8-weights", "prune", "prune+int8", "compact", "compact+int8"} <= set(told.techniques)
    assert "96 samples in model.py:images (few" in text
    assert "distil" not in told.techniques


@pytest.mark.slow
def test_a_text_encoder_with_samples_enough(model: Change) -> None:
    techniques = {**TRAINED, **FINISHED, "distil": {**BRIEF, "data": "many.npz"}}
    folder = model("encoder", techniques=techniques)
    np.savez(folder / "many.npz", ids=np.random.default_rng(1).integers(0, 400, size=(2000, 12)).astype(np.int64))
    told = check(folder, ALL)
    text = said(told)
    assert "4 layers by heads, 4 layers by units" in text
    assert "of 1200 rows of ids occur in the calibration data" in text
    assert not {"vocabulary", "one-stream"} & set(told.techniques), "only on request"
    assert "one-stream: what a call at once keeps is kept once, with less throughput" in text
    assert "4 equal layers; a student of 2" in text
    made = load_catalog(folder.parent).entries["encoder"].variants["distil"].lineage.parameters
    assert made["layers"] == [0, 3]


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "bert"
    bert_model(folder, techniques={**TRAINED, **FINISHED})
    assert pipeline.build(folder, ["fp32"]).failed == {}
    assert {"prune", "prune+int8"} <= set(check(folder, ALL).techniques)


def test_a_program_has_a_graph_but_no_module(model: Change) -> None:
    import torch

    from variants.data import resolve

    student = {"student": "model.py:cnn", **BRIEF}
    folder = model("cnn", source={"program": "cnn.pt2"}, techniques={"distil": student, **FINISHED})
    program = torch.export.export(
        resolve(folder, "model.py:cnn")(),
        (torch.zeros(2, 1, 8, 8),),
        dynamic_shapes=({0: torch.export.Dim("b", min=1)},),
    )
    torch.export.save(program, folder / "cnn.pt2")
    told = check(folder, ALL)
    assert {"int8", "int8-weights"} <= set(told.techniques)
    assert not {"prune", "low-rank", "compact", "distil"} & set(told.techniques)
    assert "no pruning, factorisation or separable layers: source.program (cnn.pt2) is a traced program" in said(told)
    assert "96 samples in model.py:images (few" in said(told)


def test_an_onnx_file_without_data(model: Change, references: Path) -> None:
    folder = model("cnn", source={"onnx": "given.onnx"}, data={})
    told = check(folder, ALL)
    assert "int8-weights" in told.techniques
    assert "int8" not in told.techniques
    assert "int8: not now: " in said(told)
    assert "needs data.calibration in model.yaml (64 samples or more)" in said(told)
    assert "source.onnx (given.onnx) has no torch module to change" in said(told)


def test_a_module_without_data(model: Change) -> None:
    folder = model("cnn", data={})
    told = check(folder, ALL)
    assert "int8-weights" in told.techniques
    assert not {"int8", "prune", "prune+int8", "compact"} & set(told.techniques)
    assert "prune: 3 layers by channels" in said(told)


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="the package ai-edge-litert is not here")
def test_a_litert_file(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "lite"
    litert_model(folder)
    assert pipeline.build(folder, ["fp32"]).failed == {}
    told = check(folder, ["profile"])
    assert "source.tflite is served as it is: one rung, nothing to build or search" in said(told)


def test_a_plan(model: Change) -> None:
    folder = model("cnn", source={"plan": "cnn.plan"})
    told = check(folder, ["profile"])
    assert "source.plan is served as it is: one rung, nothing to build or search" in said(told)


def test_a_folder_whose_name_has_to_be_quoted(model: Change, tmp_path: Path) -> None:
    folder = model("cnn")
    moved = folder.parent.rename(tmp_path / "my models; all") / "cnn"
    assert {typed(c)["folder"] for c in advice_of(moved).commands} == {moved}


RTX = {"tensorrt-rtx": {"compute_capabilities": ["8.9"]}}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a machine of GPUs with these compute capabilities and these flavours of TensorRT."""

    def set_up(*capabilities: str, flavours: tuple[str, ...] = ()) -> None:
        def imported(name: str) -> object:
            if name not in flavours:
                raise EngineUnavailable(f"no {name}")
            return object()

        names = tuple(f"NVIDIA X sm_{c.replace('.', '')} driver 1" for c in capabilities)
        monkeypatch.setattr(advise_module, "gpu_names", lambda: names)
        monkeypatch.setattr(told_gpu, "import_flavour", imported)

    return set_up


def test_without_a_gpu_nothing_is_said_of_plans(model: Change, gpu: Callable[..., None]) -> None:
    gpu(flavours=("tensorrt_rtx", "tensorrt"))
    assert "tensorrt" not in said(advice_of(model("cnn")))


@pytest.mark.slow
def test_plans_for_a_gpu_are_offered_and_can_be_built(model: Change, gpu: Callable[..., None]) -> None:
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    gpu("8.9", "9.0", flavours=("tensorrt_rtx", "tensorrt"))
    # This machine has no GPU to ask for its compute capability.
    folder = model("cnn", techniques={**TRAINED, **FINISHED, **RTX})
    told = check(folder, ALL)
    assert {"fp16+tensorrt-rtx", "int8+tensorrt-rtx"} <= set(told.techniques)
    assert "bf16+tensorrt-rtx" not in told.techniques, "only where fp16 overflows"
    text = said(told)
    assert "gpu: compute capability 8.9: tensorrt-rtx or tensorrt makes plans, for this GPU only" in text
    assert "gpu: fp16+tensorrt-rtx: weights down to " in text
    assert "sparse24" not in text


@pytest.mark.parametrize(
    ("capability", "installed", "offered", "words"),
    [
        ("9.0", ("tensorrt_rtx", "tensorrt"), {"fp16+tensorrt", "int8+tensorrt"}, "9.0: tensorrt makes plans"),
        ("8.9", ("tensorrt",), {"fp16+tensorrt", "int8+tensorrt"}, "8.9: tensorrt-rtx or tensorrt makes plans"),
        ("7.5", ("tensorrt_rtx",), {"fp16+tensorrt-rtx", "int8+tensorrt-rtx"}, "7.5: tensorrt-rtx or tensorrt"),
        ("12.0", (), set(), r"tensorrt-rtx is not installed: pip install 'trimtab[tensorrt-rtx]'"),
        (
            "9.0",
            ("tensorrt_rtx",),
            set(),
            "tensorrt is not installed: pip install 'trimtab[tensorrt]' (its libraries come",
        ),
        ("7.0", ("tensorrt",), set(), "compute capability 7.0: TensorRT builds for 7.5 and newer"),
    ],
)
def test_which_flavour_a_gpu_gets(
    model: Change,
    gpu: Callable[..., None],
    capability: str,
    installed: tuple[str, ...],
    offered: set[str],
    words: str,
) -> None:
    gpu(capability, flavours=installed)
    told = advice_of(model("cnn"))
    assert {t for t in told.techniques if "tensorrt" in t} == offered
    text = said(told)
    assert words in text
    assert ("bf16+" in text) == (capability not in ("7.0", "7.5"))


def test_plans_want_calibration_data_where_their_graphs_do(model: Change, gpu: Callable[..., None]) -> None:
    gpu("8.9", flavours=("tensorrt_rtx",))
    told = advice_of(model("cnn", data={}))
    assert not [t for t in told.techniques if "tensorrt" in t]
    assert "fp16+tensorrt-rtx: weights down to " in said(told)
    assert "but not now: " in said(told)


@pytest.mark.slow
def test_sparse_weights_are_worth_a_plan_where_they_are_built(model: Change, gpu: Callable[..., None]) -> None:
    folder = model("encoder", techniques={"sparse24": {"minutes": 0.0, "max_distance": 1.0}})
    assert pipeline.build(folder, ["sparse24"]).failed == {}
    for capability, there in (("8.6", True), ("7.5", False)):
        gpu(capability, flavours=("tensorrt_rtx",))
        assert ("sparse24+fp16+tensorrt-rtx" in advice_of(folder).techniques) == there


def measured_as(size: int, seconds: float, quality: float) -> Profile:
    batch = BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=seconds, throughput=1.0 / seconds)
    return Profile(
        device=fingerprint(),
        threads=1,
        resident_bytes=size,
        load_seconds=0.1,
        warmup_seconds=0.1,
        batches=(batch,),
        quality=quality,
    )


def test_numbers_are_measured_where_they_can_be(model: Change) -> None:
    folder = model("cnn", techniques={**TRAINED, **FINISHED})
    assert pipeline.build(folder, ["int8", "int8-weights", "prune"]).failed == {}
    before = said(advice_of(folder))
    assert "fp32 is not profiled here" in before
    assert "prune: built, not profiled here; " in before
    assert "(measured)" not in before
    write_profile(folder, "fp32", measured_as(100 << 20, 0.010, 1.0))
    write_profile(folder, "int8", measured_as(40 << 20, 0.002, 0.9876))
    write_profile(folder, "prune", measured_as(50 << 20, 0.005, 0.5))
    told = advice_of(folder)
    text = said(told)
    assert "fp32 keeps 100.0 MiB resident and answers one sample in 10.00 ms, 100 a second at best (measured)" in text
    assert "int8: 0.40 of the resident bytes, 5.0 times the throughput, quality 0.9876 (measured)" in text
    assert "prune: 0.50 of the resident bytes, 2.0 times the throughput, quality 0.5000 (measured)" in text
    assert "int8-weights: built, not profiled here; weights down to " in text
    assert not {"int8", "int8-weights", "prune"} & set(told.techniques), "what is built is not built again"
    for _, line in told.lines:
        name = line.partition(":")[0]
        if name in pipeline.TECHNIQUES or "+" in name:
            assert line.endswith(("(measured)", "(estimated)", "(timed here)")), line


def test_all_that_is_worth_it_is_built(model: Change) -> None:
    folder = model("cnn", techniques={**TRAINED, **FINISHED})
    check(folder, ALL)
    told = check(folder, ALL[1:])
    assert "all that is worth building is built" in said(told)


def test_a_reference_that_costs_nothing(model: Change) -> None:
    folder = model("cnn")
    write_profile(folder, "fp32", measured_as(1 << 20, 20e-6, 1.0))
    told = advice_of(folder)
    assert told.commands == []
    assert "nothing is worth building" in said(told)


@pytest.mark.parametrize("data", [{"evaluation": "gone.npz"}, {}])
def test_what_cannot_be_measured_is_not_searched(model: Change, data: dict[str, str]) -> None:
    folder = model("cnn", data=data)
    if not data:
        (folder / "canary.npz").unlink()
    told = advice_of(folder)
    assert [typed(c)["command"] for c in told.commands] == ["build"]
    assert "nothing can be profiled or searched yet: " in said(told)
    fixed = model("vit", source={"tflite": "m.tflite"}, data=data)
    if not data:
        (fixed / "canary.npz").unlink()
    assert advice_of(fixed).commands == []


def test_a_module_that_cannot_be_looked_into(model: Change) -> None:
    folder = model("cnn")
    code = folder / "model.py"
    code.write_text(code.read_text().replace("def cnn():\n", "def cnn():\n    raise KeyError('weights')\n"))
    told = advice_of(folder)
    assert "no pruning, factorisation or separable layers: " in said(told)
    assert "weights" in said(told)
    assert told.techniques
    document = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**document, "data": {"calibration": "gone.npz"}}))
    assert "int8: not now: " in said(advice_of(folder))
