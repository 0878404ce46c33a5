"""A published artefact becomes a replay's files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from benchmarks.published import write
from budgets.replay.run import replay
from variants.errors import ConfigError

HEAD = "Model,Accel,Trials,batchsize,50th_pct,90th_pct,avg_latency(ms),Min,Max,Accuracy,Normalized_Accuracy"
PROFILES = (
    "large,onnxruntime_cpu,100,1,100.0,120.0,101.0,90,150,80.0,100",
    "large,onnxruntime_cpu,100,2,150.0,9000.0,151.0,90,9000,80.0,100",  # it stalled while it was profiled
    "large,onnxruntime_gpu_pascal,,1,10.0,,10.0,9,15,80.0,100",
    "small,onnxruntime_cpu,100,1,20.0,20.0,21.0,19,30,60.0,75",
    "small,onnxruntime_cpu,100,1,40.0,40.0,41.0,19,30,60.0,75",  # measured twice
)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    folder = tmp_path / "Proteus"
    for path, text in {
        "profiling/aggregate_profiled.csv": "\n".join([HEAD, *PROFILES]) + "\n",
        "traces/model_variants/net": "large,100.0\nsmall,75.0\n",
        "traces/twitter/asplos/low/300/net.txt": "".join(f"{ms},1,300\n" for ms in (10, 500, 900, 2100)),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_what_was_published_is_played(artefact: Path, tmp_path: Path) -> None:
    files = write(artefact, "low/300", tmp_path, times=2.0)
    with files[1].open() as stream:
        rows = {(r["variant"], r["device"], int(r["batch"])): r for r in csv.DictReader(stream)}
    assert {key: float(r["latency_seconds"]) for key, r in rows.items()} == {
        ("large", "cpu", 1): 0.12,
        ("large", "cpu", 2): 0.15,
        ("large", "gpu_pascal", 1): 0.01,
        ("small", "cpu", 1): 0.02,
    }
    assert {(r["variant"], float(r["quality"])) for r in rows.values()} == {("large", 1.0), ("small", 0.75)}
    assert {float(r["memory_bytes"]) for r in rows.values() if r["variant"] == "large"} == {40e6 + 6e9 * 0.12}
    assert yaml.safe_load(files[0].read_text())["models"] == {"net": {"slo_seconds": 0.3}}
    with files[2].open() as stream:
        assert [float(r["requests_per_second"]) for r in csv.DictReader(stream)] == [6.0, 0.0, 2.0]
    made = replay(*files, "trimtab", seed=0)
    assert made["completed"] == made["requests"] > 0
    assert made["effective_quality"] == pytest.approx(1.0)


def test_hosts_hold_one_variant_each_or_share(artefact: Path, tmp_path: Path) -> None:
    alone = yaml.safe_load(write(artefact, "low/300", tmp_path)[0].read_text())["hosts"]
    shared = yaml.safe_load(write(artefact, "low/300", tmp_path, shared=True)[0].read_text())["hosts"]
    assert [h["exclusive"] for h in (*alone, *shared)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("profiling/aggregate_profiled.csv", "aggregate_profiled.csv: No such file"),
        ("traces/model_variants/net", "model_variants: no files"),
        ("traces/twitter/asplos/low/300/net.txt", "no FAMILY.txt there; --load names"),
    ],
)
def test_what_is_missing_is_named(artefact: Path, tmp_path: Path, gone: str, said: str) -> None:
    (artefact / gone).unlink()
    with pytest.raises(ConfigError, match=said):
        write(artefact, "low/300", tmp_path)
