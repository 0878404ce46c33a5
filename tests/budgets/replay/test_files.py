"""`cluster.yaml`, the world it makes with the profiles, and what every kind of bad input is answered with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from budgets.fleet.world import Aim, Group
from budgets.replay.files import read_cluster, world_of
from budgets.replay.profiles import read_profiles
from tests.budgets.replay.written import GOOD, ROW, cluster, profiles
from variants.errors import ConfigError


def test_a_cluster_and_its_budgets(tmp_path: Path) -> None:
    hosts = [
        {"name": "h", "device": "d", "count": 2, "memory_bytes": "1GiB", "streams": 3},
        {"name": "g", "device": "d", "memory_bytes": 1e9, "exclusive": True},
        {"name": "free", "device": "d", "count": 0},
    ]
    budgets = [
        {"hosts": "h", "limit_fraction": 0.5},
        {"hosts": "g", "limit_bytes": "500MB", "reserve_bytes": "1MB"},
        {"reserve_bytes": "2MB"},
    ]
    spec = read_cluster(
        cluster(
            tmp_path,
            hosts=hosts,
            budgets=budgets,
            unserved_cost=3,
            default={"slo_seconds": 0.5},
            models={"x": {"weight": 2, "floor": 0.5, "pin": "v", "park": False}},
        )
    )
    made = world_of(spec, read_profiles(profiles(tmp_path, ROW, ROW.replace("x,", "y,"))), {"x": "t", "y": "t"}, "p")
    assert made.groups == (
        Group("h", "d", 2, 2**29, 2e6, 3),
        Group("g", "d", 1, 5e8, 2e6, 1, True),
        Group("free", "d", 0, math.inf, 2e6),
    )
    assert made.unserved_cost == 3.0
    assert made.aims == {"x": Aim("x", math.inf, 2.0, 0.5, "v", False), "y": Aim("y", 0.5)}


def host(**more: Any) -> dict[str, Any]:
    return {"hosts": [{**GOOD["hosts"][0], **more}]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"hosts": []}, "hosts: "),
        ({"host": 1}, "host: no such key; there are hosts, budgets, tick_seconds"),
        (host(counts=3), "cluster.yaml: hosts.0.counts: no such key; there are name, device, count"),
        ({"models": {"x": {"slo": 1}}}, "models.x.slo: no such key; there are slo_seconds, weight"),
        ({"hosts": ["h"]}, "hosts.0: not a mapping; its keys are name, device"),
        (host(count=-1), "hosts.0.count"),
        (host(streams=0), "hosts.0.streams"),
        (host(memory_bytes="much"), "hosts.0.memory_bytes: Value error, 'much' is not a size"),
        (host(memory_bytes="inf"), "hosts.0.memory_bytes: Value error, 'inf' is not a size"),
        ({"hosts": [*GOOD["hosts"], *GOOD["hosts"]]}, "a name is there twice"),
        ({"tick_seconds": 0}, "tick_seconds"),
        ({"unserved_cost": 0}, "unserved_cost"),
        ({"unserved_cost": math.inf}, "unserved_cost"),
        ({"tick_seconds": math.inf}, "tick_seconds"),
        ({"default": {"weight": math.inf}}, "default.weight"),
        ({"models": {"x": {"slo_seconds": 0}}}, "models.x.slo_seconds"),
        ({"budgets": [{"hosts": "i", "limit_bytes": 1}]}, "budgets.0.hosts: no hosts 'i'; there are h"),
        ({"budgets": [{"hosts": "h"}]}, "budgets.0: Value error, a budget needs"),
        ({"budgets": [{"limit_fraction": 1.5}]}, "budgets.0.limit_fraction"),
        (
            {"hosts": [{"name": "h", "device": "d"}], "budgets": [{"limit_fraction": 0.5}]},
            "budgets.0.limit_fraction: a share of what? h has no memory_bytes",
        ),
        ({"events": [{"time_seconds": 1, "event": "fire", "target": "h", "value": 1}]}, "events.0.event"),
        ({"events": [{"time_seconds": -1, "event": "hosts", "target": "h", "value": 1}]}, "events.0.time_seconds"),
        (
            {"events": [{"time_seconds": 1, "event": "hosts", "target": "i", "value": 1}]},
            "events.0: target: no hosts 'i'",
        ),
        ({"events": [{"time_seconds": 1, "event": "hosts", "target": "h", "value": 3}]}, "h has 2 hosts, not 3"),
        ({"events": [{"time_seconds": 1, "event": "hosts", "target": "h", "value": 1.5}]}, "a whole number"),
        ({"events": [{"time_seconds": 1, "event": "slowdown", "target": "h", "value": 0}]}, "must be above 0"),
        ({"events": [{"time_seconds": 1, "event": "hosts", "target": "h"}]}, "events.0.value"),
    ],
)
def test_a_bad_cluster_is_told_where(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    path = cluster(tmp_path, **more)
    with pytest.raises(ConfigError) as error:
        read_cluster(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "at least 1 item" not in str(error.value) or more == {"hosts": []}


def test_a_cluster_that_is_no_file_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml: No such file"):
        read_cluster(tmp_path / "nowhere.yaml")
    path = tmp_path / "cluster.yaml"
    path.write_text("hosts: [")
    with pytest.raises(ConfigError, match="cluster.yaml: not YAML"):
        read_cluster(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match="cluster.yaml: not a mapping; its keys are hosts, budgets"):
        read_cluster(path)
    path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(ConfigError, match="cluster.yaml: "):
        read_cluster(path)


@pytest.mark.parametrize(
    ("more", "names", "said"),
    [
        ({}, ["x", "q"], r"no profile on d for q \(t: line 3\); there are x$"),
        (
            {},
            ["x", *(f"q{i:02d}" for i in range(30))],
            r"no profile on d for q00 \(t: line 3\), .*, q09 \(t: line 12\) and 20 more; there",
        ),
        ({"hosts": [{"name": "h", "device": "t4"}]}, ["x"], "no profile on t4; the profiles are of d$"),
        ({"models": {"q": {}}}, ["x"], "no profile for q, which is in models; there are x$"),
        ({"models": {"x": {"pin": "w"}}}, ["x"], "no profile for x/w, its pin; there are v$"),
        ({"models": {"x": {"floor": 90}}}, ["x"], "x has a floor of 90, its best variant a quality of 0.9$"),
        ({"default": {"floor": 0.95}}, ["x"], "x has a floor of 0.95, its best variant a quality of 0.9$"),
    ],
)
def test_names_and_floors_that_agree_with_nothing(
    tmp_path: Path, more: dict[str, Any], names: list[str], said: str
) -> None:
    spec = read_cluster(cluster(tmp_path, **more))
    asked = {name: f"t: line {i + 2}" for i, name in enumerate(names)}
    with pytest.raises(ConfigError, match=f"^p: {said}"):
        world_of(spec, read_profiles(profiles(tmp_path, ROW)), asked, "p")


def test_a_cluster_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = cluster(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [h.name for h in read_cluster(path).hosts] == ["h"]
