"""The three files of a replay against each other, and replays of what they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from budgets.replay.inputs import read_inputs
from budgets.replay.policies import POLICIES
from budgets.replay.run import play, replay
from tests.budgets.replay.written import ROW, cluster, profiles, trace
from variants.errors import ConfigError


def played(folder: Path, rows: list[str], policy: str = "trimtab", **more: Any) -> dict[str, Any]:
    """`rows` of profiles, against two seconds of 20 requests for x each."""
    arrivals = [f"{i / 20},x" for i in range(41)]
    return replay(
        cluster(folder, **more), profiles(folder, *rows), trace(folder, "time_seconds,model", *arrivals), policy
    )


def test_a_model_without_a_profile_is_named_with_its_line(tmp_path: Path) -> None:
    path = trace(tmp_path, "time_seconds,model", "0,x", "1,y", "2,y")
    with pytest.raises(ConfigError, match=r"profiles.csv: no profile on d for y \(.*trace.csv: line 3\); there are x$"):
        read_inputs(cluster(tmp_path), profiles(tmp_path, ROW), path)


def test_a_trace_of_two_clocks_is_refused(tmp_path: Path) -> None:
    path = trace(tmp_path, "time_seconds,model", "0,x", "1700000000,x")
    with pytest.raises(ConfigError, match=r"trace.csv: time_seconds: from 0 to 1700000000 are more than 100,000,000"):
        read_inputs(cluster(tmp_path), profiles(tmp_path, ROW), path)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("rows", "more"),
    [
        ([ROW], {}),
        ([ROW], {"hosts": [{"name": "h", "device": "d", "exclusive": True}], "default": {"slo_seconds": 0.1}}),
        (["x,v,d,1,0.01,0,0,90", "x,w,d,1,0.005,0,0,80"], {"default": {"slo_seconds": 0.1}}),  # loads in no time
        (["x,v,d,4,0.04,1e8,1,0.9", "x,v,d,8,0.02,1e8,1,0.9"], {}),  # no batch of one, faster in larger batches
        (["x,v,d,1,0.01,1e8,1,0", "x,w,d,1,0.01,1e8,1,-1"], {}),  # qualities of nothing and below
        ([ROW, "y,v,other,1,1,1,1,0.5"], {"default": {"slo_seconds": 1}}),
    ],
)
def test_profiles_of_every_kind_are_played(tmp_path: Path, rows: list[str], more: dict[str, Any], policy: str) -> None:
    result = played(tmp_path, rows, policy, **more)
    assert (result["requests"], result["completed"], result["slo_violations"]) == (41, 41, 0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("row", "more"),
    [
        (ROW, {"default": {"slo_seconds": 0.001}}),
        ("x,v,d,1,0.01,1e12,0,0.9", {"default": {"slo_seconds": 0.1}}),
        (ROW, {"hosts": [{"name": "h", "device": "d", "count": 0}], "default": {"slo_seconds": 0.1}}),
    ],
)
def test_what_no_host_can_serve_is_dropped(tmp_path: Path, row: str, more: dict[str, Any], policy: str) -> None:
    result = played(tmp_path, [row], policy, **more)
    assert (result["requests"], result["dropped"], result["slo_violation_ratio"]) == (41, 41, 1.0)
    assert result["memory_over_budget_seconds"] == 0.0 or policy == "proteus-like"


@pytest.mark.parametrize(
    ("row", "more", "why"),
    [
        (ROW, {}, None),
        (ROW, {"default": {"slo_seconds": 0.001}}, "its fastest call takes 0.01 s, its objective is 0.001 s"),
        ("x,v,d,1,0.01,1e12,0,0.9", {}, "its smallest variant takes 1e+12 bytes, the largest host has 1.07374e+09"),
        (ROW, {"hosts": [{"name": "h", "device": "d", "count": 0}]}, "there is no host of a device"),
    ],
)
def test_what_no_host_can_serve_is_told(tmp_path: Path, row: str, more: dict[str, Any], why: str | None) -> None:
    arrivals = trace(tmp_path, "time_seconds,model", "1,x")
    told = read_inputs(cluster(tmp_path, **more), profiles(tmp_path, row), arrivals).unservable()
    assert {model: reason.startswith(why or "") for model, reason in told.items()} == ({"x": True} if why else {})


def test_what_was_read_is_played_again_as_it_was(tmp_path: Path) -> None:
    """One policy after another, on hosts whose memory and number change meanwhile."""
    rows = [ROW, "x,w,d,1,0.03,2e8,0.1,1.0"]
    path = trace(tmp_path, "time_seconds,model,requests_per_second", *(f"{t},x,{30 + 20 * (t % 3)}" for t in range(9)))
    events = [{"time_seconds": 4, "event": "hosts", "target": "h", "value": 1}]
    files = cluster(tmp_path, events=events), profiles(tmp_path, *rows), path
    made = read_inputs(*files)
    for policy in POLICIES:
        fresh, again = replay(*files, policy, seed=3), play(made, policy, seed=3)
        for result in (fresh, again):
            del result["planner"]  # how long it took
        assert again == fresh


def test_a_trace_of_rates_without_requests(tmp_path: Path) -> None:
    path = trace(tmp_path, "time_seconds,model,requests_per_second", "0,x,0", "5,x,0")
    result = replay(cluster(tmp_path), profiles(tmp_path, ROW), path, "trimtab")
    assert (result["seconds"], result["requests"], result["effective_quality"]) == (10.0, 0, None)
    assert result["slo_violation_ratio"] == 0.0
