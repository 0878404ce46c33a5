"""Each kind of source: what can be built from it, and what says that it cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.variants.build.source_models import bert_model, litert_model
from variants import engines
from variants.build import pipeline
from variants.build.context import run
from variants.engines.base import LoadRequest
from variants.engines.tensorrt_ import import_flavour
from variants.errors import ConfigError, EngineFailed, EngineUnavailable
from variants.repository import load_catalog, load_model, variant_folder

Change = Callable[..., Path]


def outputs(folder: Path, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    entry = load_catalog(folder.parent).entries[folder.name]
    return run(entry.model, entry.variants[name], variant_folder(folder, name), inputs)


def test_a_torch_export_program(model: Change) -> None:
    import torch

    folder = model("cnn", source={"program": "cnn.pt2"})
    images = np.random.default_rng(3).normal(size=(2, 1, 8, 8)).astype(np.float32)
    expected = outputs(folder, "fp32", {"image": images})["scores"]
    from variants.data import resolve

    program = torch.export.export(
        resolve(folder, "model.py:cnn")(),
        (torch.zeros(2, 1, 8, 8),),
        dynamic_shapes=({0: torch.export.Dim("b", min=1)},),
    )
    torch.export.save(program, folder / "cnn.pt2")
    techniques = {"prune": {"minutes": 0.0}, "distil": {"student": "model.py:cnn", "steps": 2, "max_distance": 1.0}}
    (folder / "model.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load((folder / "model.yaml").read_text()), "techniques": techniques})
    )
    summary = pipeline.build(folder, ["fp32", "int8", "prune", "distil"], force=True)
    assert summary.built == ["fp32", "int8", "distil"]
    assert "source.program (cnn.pt2) is a traced program" in summary.failed["prune"]
    assert np.allclose(outputs(folder, "fp32", {"image": images})["scores"], expected, atol=1e-4)


def test_an_onnx_file_can_be_quantised_but_not_pruned(model: Change, references: Path) -> None:
    folder = model("cnn", source={"onnx": "given.onnx"})
    (folder / "given.onnx").write_bytes((references / "cnn" / "variants" / "fp32" / "model.onnx").read_bytes())
    summary = pipeline.build(folder, ["fp32", "int8", "prune"], force=True)
    assert summary.built == ["fp32", "int8"]
    assert summary.failed == {
        "prune": "cnn: prune: source.onnx (given.onnx) has no torch module to change; source.factory or "
        "source.huggingface has one, and distil can teach a module of its own (student)"
    }


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "models" / "bert"
    ids = bert_model(folder, techniques={"prune": {"minutes": 0.0, "max_distance": 1.0}})
    summary = pipeline.build(folder, ["fp32", "int8", "prune"])
    assert (summary.built, summary.failed) == (["fp32", "int8", "prune"], {})
    import torch

    loaded = transformers.BertModel.from_pretrained(folder / "weights", local_files_only=True).eval()
    with torch.no_grad():
        expected = loaded(torch.from_numpy(ids[:3]), torch.ones(3, 9, dtype=torch.int64)).last_hidden_state.numpy()
    got = outputs(folder, "fp32", {"input_ids": ids[:3], "attention_mask": np.ones((3, 9), np.int64)})
    assert np.allclose(got["last_hidden_state"], expected, atol=1e-4)
    made = load_catalog(folder.parent).entries["bert"].variants["prune"].lineage.parameters
    assert sorted(set(made["removed"].values())) == [1, 32]

    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["outputs"][0]["name"] = "logits"
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    why = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert "BertModel returns last_hidden_state, pooler_output; model.yaml declares logits" in why
    (folder / "weights" / "config.json").unlink()
    assert "no config.json there" in pipeline.build(folder, ["fp32"], force=True).failed["fp32"]


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="the package ai-edge-litert is not here")
def test_a_litert_file_is_served_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "lite"
    weights, bias = litert_model(folder)
    summary = pipeline.build(folder, ["fp32", "int8", "prune+int8"])
    assert summary.built == ["fp32"]
    why = "source.tflite is served as it is; nothing transforms it further"
    assert summary.skipped == {"int8": why, "prune": why, "prune-int8": why}
    entry = load_catalog(folder.parent).entries["lite"]
    assert entry.ladder.rungs == ("fp32",)
    assert entry.variants["fp32"].engine == "litert"
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    engine = engines.load(LoadRequest(entry.model, entry.variants["fp32"], variant_folder(folder, "fp32"), threads=1))
    for rows in (x, x[:1], x[:3]):
        assert np.allclose(engine.infer({"x": rows})["y"], rows @ weights.T + bias, atol=1e-5)
    assert engine.resident().host_bytes == (folder / "m.tflite").stat().st_size
    with pytest.raises(EngineFailed, match="lite/fp32: litert"):
        engine.infer({"x": np.zeros((1, 5), np.float32)})
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.infer({"x": x})
    (folder / "m.tflite").write_bytes(b"something else")
    failed = pipeline.build(folder, force=True).failed["fp32"]
    assert failed.endswith("m.tflite: not a LiteRT file (no TFL3 mark)")


def test_a_plan_is_served_as_it_is(model: Change) -> None:
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    folder = model("cnn", techniques={"tensorrt-rtx": {"compute_capabilities": ["8.9"]}})
    assert pipeline.build(folder, ["tensorrt-rtx"]).failed == {}
    plan = (variant_folder(folder, "tensorrt-rtx") / "model.plan").read_bytes()
    other = folder.parent / "planned"
    other.mkdir()
    (other / "cnn.plan").write_bytes(plan)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document |= {"name": "planned", "source": {"plan": "cnn.plan"}, "data": {}}
    document["techniques"] = {"fp32": {"compute_capability": "8.9"}}
    (other / "model.yaml").write_text(yaml.safe_dump(document))
    assert pipeline.build(other, ["fp32", "int8"]).built == ["fp32"]
    variant = load_catalog(folder.parent).entries["planned"].variants["fp32"]
    assert variant.engine == "tensorrt_rtx"
    assert variant.options["compute_capability"] == "8.9"


def test_a_source_is_one_of_them(model: Change) -> None:
    folder = model("cnn", source={"onnx": "a.onnx", "program": "b.pt2"})
    with pytest.raises(ConfigError, match=r"exactly one of factory, .*; it has onnx, program"):
        load_model(folder)


def test_a_source_that_takes_fewer_samples_at_once_than_it_says(model: Change, references: Path) -> None:
    import onnx

    graph = onnx.load(references / "cnn" / "variants" / "fp32" / "model.onnx")
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.graph.value_info[:]
    folder = model("cnn", source={"onnx": "given.onnx"})
    onnx.save(graph, folder / "given.onnx")
    why = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert why.startswith("cnn: fp32: single samples are answered, but not 4 in one call (")
    assert why.endswith(": set max_batch in model.yaml to what the source takes, or make its batch axis dynamic")
    document = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**document, "max_batch": 1}))
    assert pipeline.build(folder, ["fp32", "int8"], force=True).built == ["fp32", "int8"]


def test_a_plan_of_which_nobody_knows_what_it_is_for(model: Change) -> None:
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    folder = model("cnn", source={"plan": "cnn.plan"})
    (folder / "cnn.plan").write_bytes(b"plan")
    why = pipeline.build(folder, ["fp32"], force=True)
    if why.built:
        pytest.skip("there is a GPU to ask")
    assert "say it as techniques.fp32.compute_capability in model.yaml" in why.failed["fp32"]
