from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from variants import profiler
from variants.build import search as module
from variants.build.search import FOLDER, Bench, search
from variants.build.space import FINISHES, space_of
from variants.catalog import BatchProfile, Entry, Profile
from variants.device import fingerprint
from variants.errors import BuildError
from variants.pareto import Point, dominates, point
from variants.repository import load_catalog, variant_folder

Change = Callable[..., Path]
TRAINING = {"prune": {"data": "model.py:images", "batch": 16}}


@pytest.fixture
def by_size(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring takes seconds in a process of its own: here the size of a variant's files decides."""
    measured: list[str] = []

    def profile(folder: Path, entry: Entry, name: str, **_: Any) -> Profile:
        measured.append(name)
        variant = entry.variants[name]
        size = sum((variant_folder(folder, name) / f).stat().st_size for f in variant.files)
        batch = BatchProfile(batch=1, p50_seconds=size * 1e-6, p99_seconds=size * 1e-6, throughput=1.0)
        return Profile(
            device=fingerprint(),
            threads=1,
            resident_bytes=size << 8,
            load_seconds=0.0,
            warmup_seconds=0.0,
            batches=(batch,),
            quality=max(0.0, 1.0 - variant.tolerance),
        )

    monkeypatch.setattr(profiler, "profile", profile)
    return measured


def points(folder: Path) -> dict[str, Point]:
    entry = load_catalog(folder.parent).entries[folder.name]
    profiles = {n: v.profile(fingerprint()) for n, v in entry.variants.items()}
    return {n: point(entry.variants[n], p) for n, p in profiles.items() if p is not None}


def test_the_front_becomes_variants_with_lineage(model: Change, by_size: list[str]) -> None:
    folder = model("cnn", techniques=TRAINING)
    found = search(folder, minutes=0.05, trials=6)
    assert found.complete + found.stopped + len(found.failed) == 6
    assert found.complete >= 5
    assert found.added
    entry = load_catalog(folder.parent).entries["cnn"]
    assert set(found.added) == {n for n in entry.variants if n.startswith("search-")}
    placed = points(folder)
    assert not any(dominates(placed[a], placed[b]) for a in found.added for b in found.added if a != b)
    for name in found.added:
        made = entry.variants[name].lineage
        assert made.parent == "fp32"
        assert made.technique == "+".join(t["technique"] for t in made.parameters["chain"])
    finishes = {entry.variants[n].precision for n in found.added}
    assert finishes & {"int8", "int4"}


def test_a_killed_search_loses_the_running_trial_only(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("cnn", techniques=TRAINING)
    Bench(folder, 0.05, 0, lambda *_: None).work(3)
    whole = profiler.profile

    def killed(*_: Any, **__: Any) -> Profile:
        raise KeyboardInterrupt

    monkeypatch.setattr(profiler, "profile", killed)
    with pytest.raises(KeyboardInterrupt):
        Bench(folder, 0.05, 0, lambda *_: None).work(2)
    monkeypatch.setattr(profiler, "profile", whole)
    again = Bench(folder, 0.05, 0, lambda *_: None)
    import optuna

    states = [t.state for t in again.study.trials]
    assert states.count(optuna.trial.TrialState.COMPLETE) == 3
    assert states.count(optuna.trial.TrialState.FAIL) == 1
    assert states.count(optuna.trial.TrialState.RUNNING) == 0
    assert len(by_size) == 3
    again.work(1)
    assert len(by_size) == 4


@pytest.mark.slow
def test_another_reference_is_another_study(model: Change, by_size: list[str]) -> None:
    from variants.build import pipeline

    folder = model("encoder", techniques=TRAINING)
    (folder / "model.py").write_text((folder / "model.py").read_text().replace("manual_seed(0)", "manual_seed(5)"))
    Bench(folder, 0.05, 0, lambda *_: None)
    assert pipeline.build(folder, ["fp32"], force=True).failed == {}
    Bench(folder, 0.05, 0, lambda *_: None)
    assert len(list((folder / FOLDER).iterdir())) == 2


def test_spaces(model: Change, references: Path) -> None:
    from variants.build.context import Context
    from variants.repository import load_model

    def space(folder: Path) -> Any:
        return space_of(Context(folder, load_model(folder), "search"))

    assert space(model("cnn", techniques=TRAINING)).structures == ("none", "prune", "low-rank", "compact")
    words = space(model("encoder"))
    assert (words.structures, words.layers) == (("none", "prune", "low-rank", "distil"), 4)
    given = model("vit", source={"onnx": "given.onnx"})
    assert space(given).structures == ("none",)
    assert "int8" in FINISHES


def test_what_cannot_be_searched(model: Change) -> None:
    folder = model("cnn")
    (folder / "variants" / "fp32" / "model.onnx").unlink()
    with pytest.raises(BuildError, match="cnn: search: the reference is not built"):
        search(folder, minutes=0.1)


def test_hopeless_structures_are_stopped_before_they_are_measured(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("cnn", techniques=TRAINING, floor=0.9999)
    monkeypatch.setattr(module, "starts", lambda *_: [{"structure": "prune", "ratio": 0.8, "finish": "int8"}])
    bench = Bench(folder, 0.0, 0, lambda *_: None)
    monkeypatch.setattr(bench, "_supernet", lambda: None)
    bench.work(1)
    found = bench.publish()
    assert (found.complete, found.stopped, found.failed) == (0, 1, {})
    assert by_size == []
