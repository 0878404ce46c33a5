"""What bad input and bad luck get: one clear error, nothing half-written, the other techniques go on."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.variants.build.conftest import write_model
from variants import profiler
from variants.build import naming, pipeline, quantize
from variants.build.deit import PARTS
from variants.build.training import FOLDER
from variants.errors import BuildError
from variants.repository import load_catalog, read_canary

Change = Callable[..., Path]
TRAINED = {"ratio": 0.5, "steps": 12, "checkpoint_seconds": 0.0, "max_distance": 1.0, "batch": 16}


def there(folder: Path) -> set[str]:
    return {p.name for p in (folder / "variants").iterdir()}


def test_a_training_killed_in_the_middle_goes_on_where_it_was(model: Change) -> None:
    folder = model("cnn", techniques={"prune": TRAINED})
    assert pipeline.build(folder, ["prune"]).failed == {}
    whole = load_catalog(folder.parent).entries["cnn"].variants["prune"].lineage.parameters
    seen = 0

    def killed(step: str, fraction: float) -> None:
        nonlocal seen
        seen += "train" in step
        if seen == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.build(folder, ["prune"], force=True, progress=killed)
    assert there(folder) == {"fp32", "prune"}
    assert [p.name for p in (folder / FOLDER).iterdir()] == ["prune.pt"]
    assert pipeline.build(folder, ["prune"], force=True).failed == {}
    again = load_catalog(folder.parent).entries["cnn"].variants["prune"].lineage.parameters
    assert again["resumed_at"] == 7
    assert again["module_sha256"] == whole["module_sha256"]
    assert again["samples_seen"] == whole["samples_seen"] == 12 * 16
    assert list((folder / FOLDER).iterdir()) == []


def test_time_that_a_training_was_stopped_for_is_not_training_time(
    model: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that stands still but for a pause of an hour in the third step."""
    from variants.build import training

    ticks = [0.0]

    def timed(loss_of: Any, index: int, *rest: Any) -> tuple[float, float]:
        ticks[0] += 1
        return 1.0, 3600.0 if ticks[0] == 3 else 0.5

    monkeypatch.setattr(training, "_timed", timed)
    folder = model("cnn", techniques={"prune": {"minutes": 0.1, "max_distance": 1.0}})
    assert pipeline.build(folder, ["prune"]).failed == {}
    made = load_catalog(folder.parent).entries["cnn"].variants["prune"].lineage.parameters
    # 6 s: steps of 0.5 s, of which the one with the pause counts five times as long.
    assert made["steps"] == 8


def test_another_request_does_not_resume(model: Change) -> None:
    folder = model("cnn", techniques={"prune": TRAINED})

    def killed(step: str, fraction: float) -> None:
        if fraction > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.build(folder, ["prune"], progress=killed)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(
        yaml.safe_dump({**document, "techniques": {"prune": {**TRAINED, "ratio": 0.25}}})
    )
    assert pipeline.build(folder, ["prune"]).failed == {}
    assert "resumed_at" not in load_catalog(folder.parent).entries["cnn"].variants["prune"].lineage.parameters


def test_a_torn_checkpoint_is_worth_no_more_than_none(model: Change) -> None:
    folder = model("cnn", techniques={"prune": TRAINED})
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "prune.pt").write_bytes(b"torn")
    assert pipeline.build(folder, ["prune"]).failed == {}


def bad_samples(kind: str) -> Any:
    images = np.zeros((96, 1, 8, 8), np.float32)
    match kind:
        case "empty":
            return images[:0]
        case "few":
            return images[:63]
        case "nan":
            images[5, 0, 0, 0] = np.nan
            return images
        case "shape":
            return images[:, :, :7]
        case _:
            return images.astype(np.float64)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "input 'image' has no samples"),
        ("few", "63 calibration samples; 64 are needed"),
        ("nan", "input 'image' has NaN or infinite values"),
        ("shape", "input 'image' has shape [96, 1, 7, 8], expected [-1, 1, 8, 8]"),
        ("dtype", "input 'image' is float64, expected float32 (FP32)"),
    ],
)
def test_calibration_data_that_will_not_do(model: Change, kind: str, why: str) -> None:
    folder = model("cnn", data={"calibration": "bad.npz"})
    np.savez(folder / "bad.npz", image=bad_samples(kind))
    summary = pipeline.build(folder, ["int8", "int8-weights"])
    assert summary.failed["int8"].startswith("cnn: ")
    assert why in summary.failed["int8"]
    assert summary.built == ["int8-weights"]
    assert there(folder) == {"fp32", "int8-weights"}


@pytest.mark.parametrize(
    "kind",
    [
        "few",
        "nan",
        "torn",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("empty", "shape", "dtype", "absent", "raises", "single")
        ),
    ],
)
def test_what_needs_no_data_is_built_without(model: Change, kind: str) -> None:
    folder = model("cnn", data={"calibration": "bad.npz" if kind != "raises" else "model.py:broken"})
    shutil.rmtree(folder / "variants")
    (folder / "canary.npz").unlink()
    if kind == "torn":
        (folder / "bad.npz").write_bytes(b"PK\x03\x04torn")
    elif kind == "raises":
        (folder / "model.py").write_text((folder / "model.py").read_text() + "\n\ndef broken():\n    return {}['x']\n")
    elif kind == "single":
        np.savez(folder / "bad.npz", image=bad_samples("")[:64].astype(np.float32), note=np.float32(1))
    elif kind != "absent":
        np.savez(folder / "bad.npz", image=bad_samples(kind))
    summary = pipeline.build(folder, ["fp32", "int8", "int8-weights", "prune"])
    assert summary.built == ["fp32", "int8-weights"]
    assert set(summary.failed) == {"int8", "prune"}
    assert summary.failed["int8"].startswith(("cnn: ", str(folder / "bad.npz")))
    canary = read_canary(folder)
    assert canary is not None
    assert not canary[0]["image"].any()
    # Once the data is right, the reference is tried on it.
    write_model(folder, "cnn")
    summary = pipeline.build(folder, ["fp32", "int8", "int8-weights"])
    assert (summary.built, summary.failed) == (["fp32", "int8"], {})
    canary = read_canary(folder)
    assert canary is not None
    assert canary[0]["image"].shape == (8, 1, 8, 8)
    assert pipeline.build(folder, ["fp32", "int8", "int8-weights"]).built == []


def test_a_module_that_is_not_as_model_yaml_says(model: Change) -> None:
    folder = model("cnn", outputs=[{"name": "scores", "datatype": "FP32", "shape": [-1, 7]}])
    failed = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert failed == "cnn: the module gives output 'scores' as [2, 10], model.yaml says [-1, 7]"
    code = folder / "model.py"
    text = code.read_text()
    code.write_text(
        text.replace("nn.Flatten(), nn.Linear(256, 10)", "Odd(), nn.Flatten(), nn.Linear(256, 10)") + ODD_NAN
    )
    write_model(folder, "cnn")
    failed = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert failed == "cnn: the module gives NaN or infinite values in output 'scores'"


ODD_NAN = "\n\nclass Odd(nn.Module):\n    def forward(self, x):\n        return x * float('nan')\n"


def test_an_onnx_file_that_is_not_as_model_yaml_says(model: Change, references: Path) -> None:
    folder = model(
        "cnn", source={"onnx": "given.onnx"}, outputs=[{"name": "scores", "datatype": "FP32", "shape": [-1, 7]}]
    )
    (folder / "given.onnx").write_bytes((references / "cnn" / "variants" / "fp32" / "model.onnx").read_bytes())
    failed = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert failed == "cnn: model.onnx gives output 'scores' as [8, 10], model.yaml says [-1, 7]"


def test_parameters_that_a_technique_does_not_take(model: Change) -> None:
    folder = model("cnn", techniques={"prune": {"ratoi": 0.5, "minutes": 0.0}, "int8": {"tolerance": 0.1}})
    summary = pipeline.build(folder, ["prune", "int8"])
    assert summary.built == ["int8"]
    assert summary.failed["prune"].startswith(
        "cnn: prune: techniques.prune: no parameter ratoi; prune takes ratio, targets, "
    )


def test_the_parameters_are_those_that_the_techniques_read() -> None:
    code = "\n".join(p.read_text() for p in Path(naming.__file__).parent.glob("*.py"))
    read = set(re.findall(r'parameters?(?:\.get)?\("([a-z_]+)"', code)) | set(PARTS)
    read |= {"hidden", "attention", "labels", "compute_capability", "library"}  # read by names in a list
    listed = {name for names in naming.PARAMETERS.values() for name in names}
    assert listed | set(naming.COMMON) == read
    assert set(naming.PARAMETERS) == set(pipeline.TECHNIQUES)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "data.evaluation: input 'image' has no samples"),
        ("nan", "data.evaluation: input 'image' has NaN or infinite values"),
        ("shape", "data.evaluation: input 'image' has shape [96, 1, 7, 8], expected [-1, 1, 8, 8]"),
    ],
)
def test_evaluation_data_that_will_not_do(model: Change, kind: str, why: str) -> None:
    folder = model("cnn", data={"evaluation": "bad.npz"})
    np.savez(folder / "bad.npz", image=bad_samples(kind))
    with pytest.raises(BuildError, match=re.escape(why)):
        profiler.profile(folder, load_catalog(folder.parent).entries["cnn"], "fp32")


def test_an_op_that_cannot_be_exported_is_named(model: Change) -> None:
    folder = model("cnn")
    code = folder / "model.py"
    code.write_text(
        code.read_text().replace("nn.Flatten(), nn.Linear(256, 10)", "Odd(), nn.Flatten(), nn.Linear(256, 10)")
        + "\n\nclass Odd(nn.Module):\n    def forward(self, x):\n        return torch.special.bessel_j0(x)\n"
    )
    summary = pipeline.build(folder, ["fp32", "int8"], force=True)
    assert "cannot be exported to ONNX" in summary.failed["fp32"]
    assert "bessel_j0" in summary.failed["fp32"]
    assert there(folder) == {"fp32"}  # the one that was there before


def test_control_flow_that_cannot_be_exported_is_named(model: Change, caplog: pytest.LogCaptureFixture) -> None:
    folder = model("cnn")
    code = folder / "model.py"
    code.write_text(
        code.read_text().replace("nn.Flatten(), nn.Linear(256, 10)", "Odd(), nn.Flatten(), nn.Linear(256, 10)")
        + "\n\nclass Odd(nn.Module):\n    def forward(self, x):\n        return x if x.sum() > 0 else -x\n"
    )
    failed = pipeline.build(folder, ["fp32"], force=True).failed["fp32"]
    assert re.search(r"\(model\.py, line \d+: return x if x\.sum\(\) > 0 else -x\)$", failed), failed
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"onnx": "a.onnx"}, "a.onnx: no such file, which source.onnx in model.yaml names"),
        ({"program": "a.pt2"}, "a.pt2: no such file (source.program in model.yaml)"),
        ({"program": "model.py"}, "model.py: its name must end in .pt2 (source.program in model.yaml)"),
        ({"huggingface": "hf"}, "hf: no config.json there (source.huggingface in model.yaml)"),
    ],
)
def test_a_source_that_is_not_there(model: Change, source: dict[str, str], why: str) -> None:
    assert pipeline.build(model("cnn", source=source), ["fp32"], force=True).failed["fp32"].endswith(why)


def test_a_full_disk(model: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Any, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.onnx"))

    monkeypatch.setattr(quantize, "_save", full)
    folder = model("cnn")
    summary = pipeline.build(folder, ["int8", "bf16"])
    assert summary.failed["int8"].startswith("cnn: int8: ")
    assert summary.failed["int8"].endswith("model.onnx: No space left on device; free some space and build again")
    assert summary.built == ["bf16"]
    assert there(folder) == {"fp32", "bf16"}


def test_what_is_too_far_from_the_reference_is_not_kept(model: Change) -> None:
    folder = model("cnn", techniques={"prune": {"ratio": 0.8, "minutes": 0.0, "max_distance": 1e-6}})
    summary = pipeline.build(folder, ["prune+int8", "bf16"])
    assert "away from the reference on the canaries, at most 1e-06 is allowed" in summary.failed["prune"]
    assert summary.failed["prune-int8"] == "its parent prune was not built"
    assert summary.built == ["bf16"]
    assert there(folder) == {"fp32", "bf16"}


def test_unknown_techniques(model: Change) -> None:
    folder = model("cnn", techniques={"mine": {"technique": "magic"}})
    with pytest.raises(BuildError, match="unknown technique 'magic' in 'mine'; there are fp32, "):
        pipeline.build(folder, ["mine"])


def test_an_iterator_and_a_parquet_file_are_data_too(model: Change) -> None:
    import pyarrow
    import pyarrow.parquet

    from variants.data import load_data

    folder = model("cnn")
    code = folder / "model.py"
    code.write_text(
        code.read_text()
        + "\n\ndef stream():\n    i = 0\n    while True:\n"
        + "        yield {'image': np.full((1, 8, 8), i, np.float32)}\n        i += 1\n"
        + "\n\ndef uneven():\n    yield {'image': np.zeros(3)}\n    yield {'image': np.zeros(4)}\n"
    )
    assert load_data(folder, "model.py:stream", 70)["image"].shape == (70, 1, 8, 8)
    table = pyarrow.table(
        {
            "ids": pyarrow.array([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int64())),
            "x": pyarrow.array([0.5, 1.5], pyarrow.float32()),
        }
    )
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    rows = load_data(folder, "rows.parquet")
    assert rows["ids"].tolist() == [[1, 2], [3, 4]]
    assert (rows["ids"].dtype, rows["x"].dtype) == (np.int64, np.float32)
    from variants.errors import ConfigError

    with pytest.raises(ConfigError, match="samples differ in shape"):
        load_data(folder, "model.py:uneven")
    (folder / "bad.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"bad\.parquet: cannot read samples"):
        load_data(folder, "bad.parquet")
