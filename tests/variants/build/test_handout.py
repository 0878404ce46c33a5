from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.variants.build.source_models import litert_model
from variants.build import pipeline
from variants.build.handout import SUFFIXES, hand_out
from variants.catalog import Entry
from variants.errors import BuildError
from variants.repository import load_catalog

Change = Callable[..., Path]
NO_TRAINING = {"minutes": 0.0, "max_distance": 1.0}


def entry_of(folder: Path) -> Entry:
    return load_catalog(folder.parent).entries[folder.name]


def test_graphs_are_handed_out_and_compared(model: Change, tmp_path: Path) -> None:
    folder = model("encoder")
    assert pipeline.build(folder, ["int8", "int8-weights"]).failed == {}
    entry = entry_of(folder)
    assert hand_out(folder, entry, "int8", "onnx", tmp_path / "out" / "a.onnx") < 0.01
    assert hand_out(folder, entry, "int8", "openvino", tmp_path / "out" / "b.xml") < 0.01
    assert hand_out(folder, entry, "int8-weights", "openvino", tmp_path / "out" / "c.xml") < 1e-6
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.onnx", "b.bin", "b.xml", "c.bin", "c.xml"]
    with pytest.raises(BuildError, match=r"its artefact is model\.xml, which has no ONNX form"):
        hand_out(folder, entry, "int8-weights", "onnx", tmp_path / "d.onnx")


@pytest.mark.parametrize(
    ("variant", "to", "name", "why"),
    [
        ("fp32", "coreml", "m.x", "cannot export to 'coreml'; accepted: onnx, openvino, litert, executorch"),
        ("none", "onnx", "m.onnx", "encoder has no variant 'none'; it has fp32"),
        ("fp32", "litert", "m.onnx", r"a file for litert ends in \.tflite"),
        ("fp32", "litert", "m.tflite", "has no converter for litert .*make an environment that has one"),
        ("fp32", "executorch", "m.pte", "has no converter for executorch .*executorch==1.5.1"),
    ],
)
def test_what_cannot_be_handed_out(model: Change, tmp_path: Path, variant: str, to: str, name: str, why: str) -> None:
    for package in ("litert_torch", "executorch"):
        if importlib.util.find_spec(package):
            pytest.skip(f"{package} is installed here")
    folder = model("encoder")
    with pytest.raises(BuildError, match=why):
        hand_out(folder, entry_of(folder), variant, to, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_converters_start_from_modules(model: Change, tmp_path: Path) -> None:
    folder = model("cnn", techniques={"prune": NO_TRAINING})
    assert pipeline.build(folder, ["prune", "int8", "prune+int8"]).failed == {}
    for variant, technique in (("int8", "int8"), ("prune-int8", "int8")):
        why = f"cnn/{variant}: executorch starts from a torch module, and this variant .{technique}. is a graph: export it to onnx"
        with pytest.raises(BuildError, match=f"{why} or openvino, or one of fp32, prune to executorch"):
            hand_out(folder, entry_of(folder), variant, "executorch", tmp_path / "m.pte")
    given = model("vit", source={"onnx": "given.onnx"})
    with pytest.raises(BuildError, match="is a graph: export it to onnx or openvino, and nothing of this model to it"):
        hand_out(given, entry_of(given), "fp32", "litert", tmp_path / "m.tflite")


def test_a_traced_program_reaches_the_converter(model: Change, tmp_path: Path) -> None:
    import torch

    from variants.data import resolve

    folder = model("cnn", source={"program": "cnn.pt2"})
    program = torch.export.export(resolve(folder, "model.py:cnn")(), (torch.zeros(1, 1, 8, 8),))
    torch.export.save(program, folder / "cnn.pt2")
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ntest -s "$2" && echo a program >&2\nexit 1\n')
    fake.chmod(0o755)
    with pytest.raises(BuildError, match="cnn/fp32: the executorch converter failed: a program"):
        hand_out(folder, entry_of(folder), "fp32", "executorch", tmp_path / "m.pte", python=str(fake))


def test_a_converter_finds_its_files_wherever_the_target_is(
    model: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("encoder")
    monkeypatch.chdir(tmp_path)
    fake = tmp_path / "edge" / "python"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ntest -f "$2" && test -f "$4" && test -d "$(dirname "$3")" && echo all there >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    with pytest.raises(BuildError, match="encoder/fp32: the litert converter failed: all there"):
        hand_out(folder, entry_of(folder), "fp32", "litert", Path("encoder-fp32.tflite"), python="edge/python")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edge", "models"]


def test_a_file_for_its_own_runtime_is_not_turned_into_another(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "lite"
    litert_model(folder)
    assert pipeline.build(folder, ["fp32"]).failed == {}
    for to, suffix in SUFFIXES.items():
        with pytest.raises(BuildError, match=f"source.tflite .m.tflite. is a file for its own runtime .* one for {to}"):
            hand_out(folder, entry_of(folder), "fp32", to, tmp_path / f"m{suffix}")


def test_answers_that_differ_are_not_handed_out(model: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from variants.build import handout

    def wrong(*_: object) -> dict[str, np.ndarray]:
        return {"embedding": np.full((8, 64), 1.0, np.float32)}

    monkeypatch.setattr(handout, "_graph", wrong)
    folder = model("encoder")
    with pytest.raises(BuildError, match=r"onnx answers .* away from the variant \(at most 0.01\); not kept"):
        hand_out(folder, entry_of(folder), "fp32", "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("to", "suffix"), [("litert", ".tflite"), ("executorch", ".pte")])
def test_phones_and_boards(model: Change, tmp_path: Path, to: str, suffix: str) -> None:
    python = os.environ.get(f"TRIMTAB_{to.upper()}_PYTHON", "")
    if not python:
        pytest.skip(f"TRIMTAB_{to.upper()}_PYTHON names no interpreter with the converter (variants/build/handout.py)")
    folder = model("cnn", techniques={"prune": NO_TRAINING})
    assert pipeline.build(folder, ["prune", "int8"]).failed == {}
    target = tmp_path / f"m{suffix}"
    assert hand_out(folder, entry_of(folder), "prune", to, target, python=python) < 1e-3
    assert target.stat().st_size > 10_000
