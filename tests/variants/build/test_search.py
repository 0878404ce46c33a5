from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.variants.build.conftest import write_model
from variants import profiler
from variants.build import search as module
from variants.build.onward import onward
from variants.build.search import Bench, search
from variants.build.space import FINISHES, Chain, Space, space_of
from variants.build.workshop import FOLDER
from variants.catalog import BatchProfile, Entry, Profile
from variants.device import fingerprint
from variants.errors import BuildError
from variants.pareto import Point, dominates, front, point
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
    assert again.study.trials[4].params == again.study.trials[3].params, "what was interrupted is tried again"
    Bench(folder, 0.05, 0, lambda *_: None)
    assert len(again.study.trials) == 5, "once"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_killed_with_sigkill_goes_on(model: Change) -> None:
    folder = model("cnn", techniques={"prune": {**TRAINING["prune"], "steps": 2}})
    command = [sys.executable, "-m", "server.cli", "search", str(folder), "--minutes", "0.2", "--trials"]
    first = subprocess.Popen([*command, "50"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        measured: list[Path] = []
        while len(measured) < 3:
            assert first.poll() is None
            time.sleep(0.1)
            measured = list(folder.glob(f"{FOLDER}/*/work/cnn/variants/*/profiles/*.json"))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert [v.name for v in (folder / "variants").iterdir()] == ["fp32"]
    again = subprocess.run([*command, "1"], capture_output=True, text=True, timeout=200, check=True)
    # What had been measured is there, the running trial is the one that is lost, and it is tried again.
    assert re.search(r"[34567] trials measured, 0 stopped early, 1 failed; added search-", again.stdout), again.stdout
    assert "its process ended" in again.stderr
    assert "cnn: rung" not in again.stdout, "the model has no ladder to compare with"
    import optuna

    trials = Bench(folder, 0.0, 0, lambda *_: None).study.trials
    lost = next(t for t in trials if t.state == optuna.trial.TrialState.FAIL)
    wanted = lost.system_attrs["fixed_params"]
    assert any(t.system_attrs.get("fixed_params") == wanted for t in trials if t.number > lost.number)


def test_a_structure_is_trained_once_for_all_its_finishes(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("cnn", techniques={"compact": {**TRAINING["prune"], "minutes": 30}})
    queued = {"structure": "prune", "ratio": 0.5, "learning_rate": 1e-4, "finish": "int8", "int8_tolerance": 0.05}
    monkeypatch.setattr(module, "starts", lambda *_: [queued])
    bench = Bench(folder, 0.0, 0, lambda *_: None)
    monkeypatch.setattr(bench, "prepare", lambda: None)
    bench.work(3)
    assert by_size == ["t0-int8", "t0", "t2-int8-weights"]
    assert sorted(bench.study.trials[i].params["finish"] for i in range(3)) == ["int8", "int8-weights", "none"]
    trained = [v for v in bench.shop.entry().variants.values() if v.lineage.technique == "prune"]
    assert [v.name for v in trained] == ["t0"]


def test_the_ladder_that_was_there_is_compared_with_what_was_found(model: Change, by_size: list[str]) -> None:
    from variants.build import pipeline
    from variants.repository import write_profile

    folder = model("cnn", techniques=TRAINING)
    assert pipeline.build(folder, ["int8"]).failed == {}
    entry = load_catalog(folder.parent).entries["cnn"]
    for name in entry.variants:
        write_profile(folder, name, profiler.profile(folder, entry, name))
    bench = Bench(folder, 0.0, 0, lambda *_: None)
    assert bench.publish().against == dict.fromkeys(points_on_ladder(folder))
    bench.work(3)
    against = bench.publish().against
    assert set(against) == set(points_on_ladder(folder))
    assert all(against.values())


def points_on_ladder(folder: Path) -> list[str]:
    """The rungs that no search made."""
    mine = [p for n, p in points(folder).items() if not n.startswith("search-")]
    return [p.name for p in front(mine)]


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

    assert space(model("cnn", techniques=TRAINING)).structures == ("none", "prune", "subnet", "low-rank", "compact")
    words = space(model("encoder"))
    assert (words.structures, words.layers) == (("none", "prune", "subnet", "low-rank", "distil"), 4)
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
    monkeypatch.setattr(bench, "prepare", lambda: None)
    bench.work(1)
    found = bench.publish()
    assert (found.complete, found.stopped, found.failed) == (0, 1, {})
    assert by_size == []


def test_a_search_begins_with_what_model_yaml_names(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from variants.build import pipeline
    from variants.repository import write_profile

    trained = {**TRAINING["prune"], "steps": 2, "ratio": 0.4, "learning_rate": 1e-4}
    folder = model("cnn", build=["fp32", "int8"], techniques={"prune": trained, "prune+int8": {}, "fp16": {}})
    assert pipeline.build(folder, ["int8", "prune"]).failed == {}
    entry = load_catalog(folder.parent).entries["cnn"]
    write_profile(folder, "int8", profiler.profile(folder, entry, "int8"))
    by_size.clear()
    bench = Bench(folder, 0.0, 0, lambda *_: None)
    bench.work(4)
    # What is built is neither built nor, where it was, measured again; what is not is built as model.yaml says.
    assert by_size == ["t1", "prune", "t3-int8"]
    chains = [t.user_attrs["given"] for t in bench.study.trials[:4]]
    assert chains == [
        [["int8", {}]],
        [["fp16", {}]],
        [["prune", trained]],
        [["prune", trained], ["int8", {}]],
    ]
    assert bench.study.trials[2].params == {
        "structure": "prune",
        "finish": "none",
        "ratio": 0.4,
        "learning_rate": 1e-4,
    }
    made = bench.shop.entry().variants["t3-int8"].lineage
    assert (made.parent, made.parameters["requested"]) == ("prune", {})
    monkeypatch.setattr(module, "starts", lambda *_: [])
    bench.work(1)  # prune in int8-weights
    assert bench._onward(bench.study.trials) is not None
    added = bench.publish().added
    assert "search-0" not in added
    assert "search-2" not in added


def test_what_does_not_end_in_time_is_not_begun(model: Change, by_size: list[str]) -> None:
    folder = model("cnn", techniques={"prune": {"minutes": 30}, "prune+int8": {}, "fp16": {}})
    bench = Bench(folder, 1.0, 0, lambda *_: None)
    bench.queue()
    assert [t.user_attrs.get("given") for t in bench.study.trials] == [[["fp16", {}]]]


def test_a_search_goes_on_from_its_front() -> None:
    space = Space(("none", "prune", "low-rank"), 0, {"batch": 8})
    front: list[Chain] = [[("int8", {})], [("prune", {"ratio": 0.5, "learning_rate": 1e-4}), ("int8", {})]]
    tried: list[Chain] = []
    for _ in range(3):
        chain = onward(front, tried.__contains__, space, 0.5)
        if chain is not None:
            tried.append(chain[:2])
    assert [[t for t, _ in c] for c in tried] == [["prune", "distil"], ["prune", "low-rank"]]
    common = {"batch": 8, "minutes": 0.5, "max_distance": 1.0}
    assert tried[0][1][1] == {**common, "learning_rate": 1e-4}
    assert chain is None


@pytest.mark.slow
def test_structures_on_the_front_are_trained_further(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("cnn", techniques={"prune": {**TRAINING["prune"], "steps": 2}})
    monkeypatch.setattr(module, "starts", lambda *_: [])
    bench = Bench(folder, 0.0, 0, lambda *_: None)
    bench.work(3)  # prune, and its other finishes
    assert by_size == ["t0", "t1-int8", "t2-int8-weights"]
    bench.study.enqueue_trial({"structure": "none", "finish": "none"})
    bench.work(2)
    chain = bench.study.trials[4].user_attrs["chain"]
    assert [t for t, _ in chain][:2] == ["prune", "distil"]
    made = bench.shop.entry().variants["t4-distil"].lineage
    assert (made.parent, made.technique) == ("t0", "distil")


def test_a_search_ends_when_all_was_tried(model: Change, by_size: list[str], references: Path) -> None:
    folder = model("cnn", source={"onnx": "given.onnx"})
    (folder / "given.onnx").write_bytes((references / "cnn" / "variants" / "fp32" / "model.onnx").read_bytes())
    found = search(folder, minutes=10.0)
    every = Bench(folder, 0.0, 0, lambda *_: None).shop.space.every()
    assert every is not None
    assert found.complete + len(found.failed) == len(every) == 8
    assert all("int4" in why for why in found.failed.values()), "convolutions are not stored in int4"
    assert found.notes == ["ended early: all that there is to try for this model was tried"]
    assert search(folder, minutes=10.0, trials=3).complete == found.complete


def test_a_search_without_data_tries_what_needs_none(model: Change, by_size: list[str]) -> None:
    folder = model("cnn", data={"evaluation": "model.py:images"})
    bench = Bench(folder, 10.0, 0, lambda *_: None)
    assert bench.shop.space.structures == ("none",)
    assert "int8" not in bench.shop.space.finishes
    bench.work()
    found = bench.publish()
    assert not [why for why in found.failed.values() if "int4" not in why]
    # With data there is more to try, and what was tried without it does not stand in the way.
    write_model(folder, "cnn", techniques=TRAINING)
    again = Bench(folder, 0.0, 0, lambda *_: None)
    assert "prune" in again.shop.space.structures
    assert again.study.trials == []
    again.work(3)
    assert [t.params["finish"] for t in again.study.trials] == ["none", "bf16-hint", "int8"]


def test_a_search_goes_on_without_a_super_network(
    model: Change, by_size: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("cnn", techniques=TRAINING)
    monkeypatch.setattr(module, "starts", lambda *_: [])
    bench = Bench(folder, 0.0, 0, lambda *_: None)

    def diverges(minutes: float) -> None:
        raise BuildError("the training diverged")

    monkeypatch.setattr(bench.shop, "supernet", diverges)
    bench.study.enqueue_trial({"structure": "none", "finish": "none"})
    bench.work(2)
    assert [bool(t.values) for t in bench.study.trials[:2]] == [True, True]
    assert bench.publish().notes == ["no super-network: the training diverged"]
