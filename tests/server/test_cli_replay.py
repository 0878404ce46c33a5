"""`trimtab replay` on the example: the table, the result, the figure, and what goes wrong said in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budgets.replay.policies import POLICIES

EXAMPLE = Path(__file__).parents[2] / "examples" / "replay"
FILES = {
    name: EXAMPLE / file
    for name, file in (("cluster", "cluster.yaml"), ("profiles", "profiles.csv"), ("trace", "trace.csv"))
}
FIELDS = {
    "policy",
    "seconds",
    "bin_seconds",
    "requests",
    "completed",
    "late",
    "dropped",
    "slo_violations",
    "slo_violation_ratio",
    "throughput",
    "effective_quality",
    "effective_quality_share",
    "timely_quality",
    "max_quality_drop",
    "memory_over_budget_seconds",
    "swaps",
    "flaps",
    "planner",
    "series",
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def replay(trimtab: Run) -> Run:
    """`trimtab replay` in this process: exit code, stdout, stderr."""

    def run(*more: str, **files: Path) -> tuple[int, str, str]:
        options = [part for name, path in {**FILES, **files}.items() for part in (f"--{name}", str(path))]
        return trimtab("replay", *options, *more)

    return run


def told(result: dict[str, Any]) -> dict[str, Any]:
    """Without how long planning took."""
    return {**result, "planner": {k: v for k, v in result["planner"].items() if not k.startswith("seconds")}}


def test_a_result_is_whole_and_the_same_for_the_same_seed(replay: Run, tmp_path: Path) -> None:
    results = []
    for number, seed in enumerate(("0", "0", "1")):
        file = tmp_path / f"{number}.json"
        code, out, _ = replay("--json", str(file), "--seed", seed)
        assert code == 0
        results.append(json.loads(file.read_text()))
    first = results[0]
    assert set(first) == FIELDS
    assert first["policy"] == "trimtab"
    assert first["seconds"] == 150.0
    assert first["requests"] == first["completed"] + first["dropped"] == sum(s["requests"] for s in first["series"])
    assert (
        first["slo_violations"] == first["late"] + first["dropped"] == sum(s["slo_violations"] for s in first["series"])
    )
    assert first["slo_violation_ratio"] == first["slo_violations"] / first["requests"]
    assert first["throughput"] == first["completed"] / 150.0
    assert first["memory_over_budget_seconds"] == 0.0
    assert first["planner"]["plans"] == 151
    assert [s["time_seconds"] for s in first["series"]][:3] == [0.0, 1.0, 2.0]
    assert told(results[1]) == told(first)
    assert told(results[2]) != told(first)
    lines = out.splitlines()  # every line whole, whatever the width of the terminal
    assert len(lines) == 2
    assert lines[0].split()[:2] == ["policy", "requests"]
    assert lines[1].split()[:2] == ["trimtab", f"{results[2]['requests']:,}"]


def test_policies_are_compared_and_drawn(replay: Run, tmp_path: Path) -> None:
    file, figure = tmp_path / "out.json", tmp_path / "out.png"
    code, out, _ = replay("--policy", "all", "--json", str(file), "--plot", str(figure))
    assert code == 0
    results = json.loads(file.read_text())
    assert list(results) == list(POLICIES) == [line.split()[0] for line in out.splitlines()[1:]]
    assert {r["requests"] for r in results.values()} == {results["trimtab"]["requests"]}
    assert figure.read_bytes().startswith(b"\x89PNG")
    ours, most = results["trimtab"], results["static-best"]
    assert ours["slo_violations"] < most["slo_violations"]
    assert ours["effective_quality"] > results["static-cheapest"]["effective_quality"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--policy", "best"), "no policy 'best'; there are trimtab, static-best"),
        (("--json", "/nowhere/out.json"), "/nowhere/out.json: No such file or directory"),
        (("--plot", "/nowhere/out.png"), "/nowhere/out.png"),
        (("--plot", "out.doc"), "out.doc: Format 'doc' is not supported"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    replay: Run, more: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = replay(*more, cluster=short(tmp_path), trace=tiny(tmp_path))
    assert code == 1
    assert said in err
    assert "Traceback" not in err


def short(folder: Path) -> Path:
    path = folder / "cluster.yaml"
    path.write_text("hosts: [{name: gpu, device: t4}]\n")
    return path


def tiny(folder: Path) -> Path:
    path = folder / "trace.csv"
    path.write_text("time_seconds,model\n0,search\n")
    return path


@pytest.mark.parametrize("name", ["cluster", "profiles", "trace"])
def test_a_bad_file_is_named(replay: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / FILES[name].name
    path.write_text("nonsense\n")
    code, _, err = replay(**{name: path})
    assert code == 1
    assert str(path) in err


def test_one_request_is_enough(replay: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, _, _ = replay("--json", str(file), trace=tiny(tmp_path), cluster=short(tmp_path))
    assert code == 0
    result = json.loads(file.read_text())
    assert (result["requests"], result["completed"], result["slo_violations"]) == (1, 1, 0)


def test_the_readmes_command_runs_as_it_is_written(tmp_path: Path) -> None:
    readme = (EXAMPLE.parents[1] / "README.md").read_text()
    start = readme.index(".venv/bin/trimtab replay")
    command = readme[start : readme.index("```", start)].replace("\\\n", " ").split()
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "replay")
    code = [sys.executable, "-m", "server.cli", *command[1:]]
    done = subprocess.run(
        code, cwd=tmp_path, env={"PYTHONPATH": str(EXAMPLE.parents[1])}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "trimtab" in done.stdout
    assert (tmp_path / "replay.json").is_file()
