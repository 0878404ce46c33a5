from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.runtime_env import HOST_ENVIRONMENT
from variants.device import calls_at_once
from variants.errors import EngineFailed
from variants.measure import Abreast, measure_batches
from variants.process import ALLOCATOR
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
    reference = profile(folder, entry, "full", threads=1, batches=(1,), seconds_per_batch=0.05)
    assert (reference.quality, reference.quality_low, reference.quality_high) == (1.0, 1.0, 1.0)
    assert measured.resident_bytes < 64 << 20
    worse = profile(folder, entry, "broken", threads=1, batches=(1,), seconds_per_batch=0.05)
    assert worse.quality < 0.5


def test_it_is_measured_with_the_allocator_that_hosts_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, found = subprocess.run, []

    def watched(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        found.append(options["env"])
        return run(command, **options)

    monkeypatch.setattr("variants.profiler.subprocess.run", watched)
    profile(
        folder, load_catalog(folder.parent).entries["alpha"], "lite", threads=1, batches=(1,), seconds_per_batch=0.05
    )
    assert found
    assert all(HOST_ENVIRONMENT.items() >= ALLOCATOR.items() <= env.items() for env in found)


def test_an_engine_with_one_stream_is_called_once_at_a_time(folder: Path) -> None:
    entry = load_catalog(folder.parent).entries["alpha"]
    alone = entry.variants["lite"].model_copy(update={"options": {"streams": "1"}})
    changed = entry.model_copy(update={"variants": {**entry.variants, "lite": alone}})
    one, usual = (profile(folder, e, "lite", threads=1, batches=(1,), seconds_per_batch=0.05) for e in (changed, entry))
    assert (one.width, usual.width) == (calls_at_once(1), 1)


def test_what_disturbs_a_machine_for_a_while_is_not_the_variant(
    affine_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0

    class Disturbed:
        calls = 0

        def infer(self, inputs: object) -> None:
            nonlocal clock
            self.calls += 1
            clock += 0.03 if self.calls < 14 else 0.001

    monkeypatch.setattr("variants.measure.time.perf_counter", lambda: clock)
    model = load_catalog(affine_repository).entries["alpha"].model
    data = {s.name: np.zeros((4, *(abs(d) for d in s.shape[1:])), np.float32) for s in model.inputs}
    one, four = measure_batches(Disturbed(), model, data, (1, 4), 0.06)
    assert (one["batch"], four["batch"]) == (1, 4)
    assert one["p50_seconds"] == pytest.approx(0.001)
    assert four["throughput"] == pytest.approx(4 * one["throughput"])


def test_a_variant_that_does_not_load(folder: Path) -> None:
    entry = load_catalog(folder.parent).entries["alpha"]
    (folder / "variants" / "lite" / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineFailed, match=r"^alpha/lite: openvino.*model\.onnx"):
        profile(folder, entry, "lite", threads=1, batches=(1,), seconds_per_batch=0.05)


def test_what_each_of_an_engines_streams_keeps_is_measured() -> None:
    """All of its calls are made at once, and the failure of one is told."""
    together = threading.Barrier(3)

    class Engine:
        def infer(self, inputs: dict[str, np.ndarray]) -> None:
            together.wait(20)  # breaks unless there are three
            if inputs["x"].any():
                raise EngineFailed("no")

    abreast = Abreast(Engine(), 3)  # type: ignore[arg-type]
    abreast.infer({"x": np.zeros(2)})
    with pytest.raises(EngineFailed, match="no"):
        abreast.infer({"x": np.ones(2)})
