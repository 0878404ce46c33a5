from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from variants.errors import EngineFailed
from variants.profiler import profile
from variants.repository import load_catalog


@pytest.fixture
def folder(affine_repository: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "models" / "alpha"
    shutil.copytree(affine_repository / "alpha", copy)
    return copy


def test_a_variant_is_measured_in_a_process_of_its_own(folder: Path) -> None:
    entry = load_catalog(folder.parent).entries["alpha"]
    measured = profile(folder, entry, "lite", threads=1, batches=(1, 4), seconds_per_batch=0.05)
    assert [b.batch for b in measured.batches] == [1, 4]
    assert all(0 < b.p50_seconds <= b.p99_seconds for b in measured.batches)
    assert 0.99 < measured.quality <= 1.0
    assert measured.quality_metric == "fidelity to full (cosine)"
    assert measured.quality_samples == 4
    assert measured.resident_bytes < 64 << 20
    worse = profile(folder, entry, "broken", threads=1, batches=(1,), seconds_per_batch=0.05)
    assert worse.quality < 0.5


def test_a_variant_that_does_not_load(folder: Path) -> None:
    entry = load_catalog(folder.parent).entries["alpha"]
    (folder / "variants" / "lite" / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineFailed, match=r"alpha/lite.*model\.onnx"):
        profile(folder, entry, "lite", threads=1, batches=(1,), seconds_per_batch=0.05)
