"""What bad input and bad luck get: one clear error, nothing half-written, the other techniques go on."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from variants.build import pipeline, quantize
from variants.build.training import FOLDER
from variants.errors import BuildError
from variants.repository import load_catalog

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
