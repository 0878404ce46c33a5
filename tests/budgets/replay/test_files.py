"""The replay's files: what is read, and what every kind of bad input is answered with."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from pyarrow import parquet

from budgets.fleet.world import Aim, Group
from budgets.replay.engine import Event
from budgets.replay.files import PROFILE, events_of, read_cluster, read_profiles, world_of
from budgets.replay.trace import Trace, read_trace
from variants.errors import ConfigError

GOOD: dict[str, Any] = {"hosts": [{"name": "h", "device": "d", "count": 2, "memory_bytes": "1GiB"}]}
ROW = "x,v,d,1,0.01,1e8,0.5,0.9"


def cluster(folder: Path, **more: Any) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **more}))
    return path


def profiles(folder: Path, *rows: str, header: str = ",".join(PROFILE)) -> Path:
    path = folder / "profiles.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def trace(folder: Path, *rows: str, name: str = "trace.csv") -> Path:
    path = folder / name
    text = "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


# cluster.yaml


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
            default={"slo_seconds": 0.5},
            models={"x": {"weight": 2, "floor": 0.5, "pin": "v", "park": False}},
        )
    )
    made = world_of(spec, read_profiles(profiles(tmp_path, ROW, ROW.replace("x,", "y,"))), ["x", "y"], "p")
    assert made.groups == (
        Group("h", "d", 2, 2**29, 2e6, 3),
        Group("g", "d", 1, 5e8, 2e6, 1, True),
        Group("free", "d", 0, math.inf, 2e6),
    )
    assert made.aims == {"x": Aim("x", math.inf, 2.0, 0.5, "v", False), "y": Aim("y", 0.5)}


def host(**more: Any) -> dict[str, Any]:
    return {"hosts": [{**GOOD["hosts"][0], **more}]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"hosts": []}, "hosts: "),
        ({"host": 1}, "host: Extra inputs"),
        (host(count=-1), "hosts.0.count"),
        (host(streams=0), "hosts.0.streams"),
        (host(memory_bytes="much"), "hosts.0.memory_bytes: Value error, 'much' is not a size"),
        (host(memory_bytes="inf"), "hosts.0.memory_bytes: Value error, 'inf' is not a size"),
        ({"hosts": [*GOOD["hosts"], *GOOD["hosts"]]}, "a name is there twice"),
        ({"tick_seconds": 0}, "tick_seconds"),
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


def test_a_cluster_that_is_no_file_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml: No such file"):
        read_cluster(tmp_path / "nowhere.yaml")
    path = tmp_path / "cluster.yaml"
    path.write_text("hosts: [")
    with pytest.raises(ConfigError, match="cluster.yaml: not YAML"):
        read_cluster(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match="cluster.yaml: Input should be"):
        read_cluster(path)
    path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(ConfigError, match="cluster.yaml: "):
        read_cluster(path)


# profiles.csv


def test_profiles(tmp_path: Path) -> None:
    path = profiles(tmp_path, "x,v,d,4,0.02,2e8,0.5,0.9", ROW, "", "x,w,d,2,0.01,0,0,0.8", "x,w,d,8,0.005,0,0,0.8")
    first, second = read_profiles(path)
    assert (first.model, first.variant, first.device, first.quality) == ("x", "v", "d", 0.9)
    assert (first.memory_bytes, first.load_seconds) == (2e8, 0.5)
    assert first.batches == ((1, 0.01), (4, 0.02))
    # A larger batch is never faster, and one request takes no longer than the smallest batch.
    assert second.batches == ((1, 0.01), (2, 0.01), (8, 0.01))


def test_profiles_of_other_tools(tmp_path: Path) -> None:
    """A byte order mark, spaces, more columns, another order, Windows line ends."""
    path = tmp_path / "profiles.csv"
    path.write_bytes(
        b"\xef\xbb\xbfquality, model ,variant,device,batch,latency_seconds,memory_bytes,load_seconds,note\r\n"
        b"0.9, x ,v,d, 1,0.01,1e8,0.5,hello\r\n"
    )
    (one,) = read_profiles(path)
    assert (one.model, one.quality, one.batches) == ("x", 0.9, ((1, 0.01),))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x,v,d,0,0.01,1e8,0.5,0.9", "line 3: batch: 0 is not"),
        ("x,v,d,1.5,0.01,1e8,0.5,0.9", "line 3: batch: 1.5 is not"),
        ("x,v,d,inf,0.01,1e8,0.5,0.9", "line 3: batch: 'inf' is not a number"),
        ("x,v,d,2,0,1e8,0.5,0.9", "line 3: latency_seconds: 0 is not above 0"),
        ("x,v,d,2,fast,1e8,0.5,0.9", "line 3: latency_seconds: 'fast' is not a number"),
        ("x,v,d,2,0.01,-1,0.5,0.9", "line 3: memory_bytes: -1 is below 0"),
        ("x,v,d,2,0.01,nan,0.5,0.9", "line 3: memory_bytes: 'nan' is not a number"),
        ("x,v,d,2,0.01,1e8,-1,0.9", "line 3: load_seconds: -1 is below 0"),
        ("x,v,d,2,0.01,1e8,0.5,", "line 3: quality: '' is not a number"),
        ("x,v,d,2,0.01,1e8,0.5,0.8", "line 3: quality: x/v/d has 0.9 on an earlier line"),
        (",v,d,2,0.01,1e8,0.5,0.9", "line 3: no model"),
        ("x,v,d,2", "line 3: 4 fields, the header has 8"),
        (ROW, "x/v/d: a batch size is there twice"),
    ],
)
def test_bad_profiles_are_told_where(tmp_path: Path, row: str, said: str) -> None:
    path = profiles(tmp_path, ROW, row)
    with pytest.raises(ConfigError) as error:
        read_profiles(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


def test_profiles_without_a_column_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profiles.csv: no column quality; needed are model"):
        read_profiles(profiles(tmp_path, ROW[:-4], header=",".join(PROFILE[:-1])))
    with pytest.raises(ConfigError, match="nothing.csv: No such file"):
        read_profiles(tmp_path / "nothing.csv")
    (tmp_path / "profiles.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="profiles.csv: "):
        read_profiles(tmp_path / "profiles.csv")


@pytest.mark.parametrize(
    ("models", "names", "said"),
    [
        ({}, ["x", "q"], "no profile on d for q; there are x"),
        ({"q": {}}, ["x"], "no profile for q, which is in models; there are x"),
        ({"x": {"pin": "w"}}, ["x"], "no profile for x/w, its pin; there are v"),
    ],
)
def test_names_that_agree_with_nothing(tmp_path: Path, models: dict[str, Any], names: list[str], said: str) -> None:
    spec = read_cluster(cluster(tmp_path, models=models))
    with pytest.raises(ConfigError, match=f"^p: {said}"):
        world_of(spec, read_profiles(profiles(tmp_path, ROW)), names, "p")


# trace


def requests(made: Trace, seed: int = 0) -> list[tuple[float, str]]:
    found = []
    for times, index in made.chunks(seed):
        found += [(float(t), made.models[i]) for t, i in zip(times, index, strict=True)]
    return found


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.parquet"])
def test_arrivals_in_every_format(tmp_path: Path, name: str) -> None:
    rows = [(2.5, "y"), (0.25, "x"), (1.0, "x"), (1.0, "y")]
    if name.endswith("parquet"):
        path = tmp_path / name
        parquet.write_table(pyarrow.table({"time_seconds": [t for t, _ in rows], "model": [m for _, m in rows]}), path)
    else:
        path = trace(tmp_path, "time_seconds,model", *(f"{t},{m}" for t, m in rows), name=name)
    made = read_trace(path)
    assert requests(made) == [(0.25, "x"), (1.0, "x"), (1.0, "y"), (2.5, "y")]
    assert (made.start, made.end) == (0.0, 2.5)
    assert made.first_rates() == {"x": 2 / 2.5, "y": 2 / 2.5}


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.parquet"])
def test_rates_in_every_format(tmp_path: Path, name: str) -> None:
    columns = {
        "time_seconds": [0.0, 0.0, 30.0, 10.0],
        "model": ["x", "y", "x", None],
        "requests_per_second": [4.0, 100.0, 20.0, None],
        "event": [None, None, None, "slowdown"],
        "target": [None, None, None, "h"],
        "value": [None, None, None, 1.5],
    }
    if name.endswith("parquet"):
        path = tmp_path / name
        parquet.write_table(pyarrow.table(columns), path)
    else:
        rows = [["" if v is None else str(v) for v in row] for row in zip(*columns.values(), strict=True)]
        path = trace(tmp_path, ",".join(columns), *(",".join(r) for r in rows), name=name)
    made = read_trace(path)
    assert (made.start, made.end) == (0.0, 60.0)  # the last step is as long as the one before
    assert made.first_rates() == {"x": 4.0, "y": 100.0}
    drawn = requests(made)
    assert [t for t, _ in drawn] == sorted(t for t, _ in drawn)
    counts = {(m, t >= 30): 0 for m in "xy" for t in (0, 30)}
    for at, model in drawn:
        counts[(model, at >= 30)] += 1
    for key, mean in ((("x", False), 120), (("x", True), 600), (("y", False), 3000), (("y", True), 3000)):
        assert abs(counts[key] - mean) < 5 * math.sqrt(mean)
    assert requests(made, 0) == drawn
    assert requests(made, 1) != drawn
    spec = read_cluster(
        cluster(tmp_path, events=[{"time_seconds": 3, "event": "neighbour_bytes", "target": "h", "value": "1MiB"}])
    )
    assert events_of(spec, made.events, "t") == [
        Event(3.0, "neighbour_bytes", "h", 2**20),
        Event(10.0, "slowdown", "h", 1.5),
    ]


def test_a_trace_of_one_row(tmp_path: Path) -> None:
    alone = read_trace(trace(tmp_path, "time_seconds,model", "0,x"))
    assert (alone.start, alone.end, alone.first_rates()) == (0.0, 0.0, {"x": 1.0})
    late = read_trace(trace(tmp_path, "time_seconds,model", "1700000000.5,x"))
    assert (late.start, late.end, late.first_rates()) == (1.7e9, 1.7e9 + 0.5, {"x": 1.0})
    rate = read_trace(trace(tmp_path, "time_seconds,model,requests_per_second", "5,x,1000"))
    assert (rate.start, rate.end, rate.first_rates()) == (5.0, 6.0, {"x": 1000.0})
    assert 800 < len(requests(rate)) < 1200


def test_many_arrivals_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgets.replay.trace.CHUNK", 10)
    made = read_trace(trace(tmp_path, "time_seconds,model", *(f"{t},x" for t in range(25))))
    assert [len(times) for times, _ in made.chunks(0)] == [10, 10, 5]
    assert len(requests(made)) == 25
    assert np.array_equal(np.concatenate([t for t, _ in made.chunks(0)]), np.arange(25.0))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([""], "no column time_seconds; there are none"),
        (["time_seconds,name", "1,x"], "no column model; there are time_seconds, name"),
        (["time_seconds,model,model", "1,x,x"], "a column is there twice"),
        (["time_seconds,model"], "no requests"),
        (["time_seconds,model", "1,x", "noon,x"], "line 3: time_seconds: 'noon' is not a number"),
        (["time_seconds,model", "-1,x"], "line 2: time_seconds: '-1' is not"),
        (["time_seconds,model", "inf,x"], "line 2: time_seconds: 'inf' is not"),
        (["time_seconds,model", "1, "], "line 2: no model"),
        (["time_seconds,model", "1,x", "", "2"], "line 4: 1 fields, the header has 2"),
        (["time_seconds,model,requests_per_second", "1,x,-2"], "line 2: requests_per_second: '-2' is not"),
        (["time_seconds,model,requests_per_second", "1,x,nan"], "line 2: requests_per_second: 'nan' is not"),
        (["time_seconds,model,requests_per_second", "1,x,2", "2,x,1", "1,x,3"], "x has two rates at 1 seconds"),
    ],
)
def test_a_bad_trace_is_told_where(tmp_path: Path, rows: list[str], said: str) -> None:
    path = trace(tmp_path, *rows)
    with pytest.raises(ConfigError) as error:
        read_trace(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("trace.csv", b"\xff\xfe\xff", "trace.csv: "),
        ("trace.csv.gz", b"time_seconds,model\n1,x\n", "trace.csv.gz: Not a gzipped file"),
        ("trace.csv.gz", gzip.compress(b"time_seconds,model\n1,x\n")[:-9], "trace.csv.gz: "),
        ("trace.parquet", b"time_seconds,model\n1,x\n", "trace.parquet: not parquet"),
        ("trace.csv", None, "trace.csv: No such file"),
    ],
)
def test_a_trace_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_trace(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("time_seconds,model,event,target,value", "1,,fire,h,1", "line 3: event: "),
        ("time_seconds,model,event,target,value", "1,,hosts,i,1", "line 3: target: no hosts 'i'"),
        ("time_seconds,model,event,target,value", "1,,hosts,h,7", "line 3: value: h has 2 hosts, not 7"),
        ("time_seconds,model,event,target,value", "1,,memory_bytes,h,lots", "line 3: value: "),
        ("time_seconds,model,event,target,value", "soon,,hosts,h,1", "line 3: time_seconds: "),
        ("time_seconds,model,event", "1,,hosts", "line 3: target: Field required; value: Field required"),
    ],
)
def test_bad_events_of_a_trace_are_told_where(tmp_path: Path, header: str, row: str, said: str) -> None:
    path = trace(tmp_path, header, "1,x" + "," * (header.count(",") - 1), row)
    made = read_trace(path)
    with pytest.raises(ConfigError) as error:
        events_of(read_cluster(cluster(tmp_path)), made.events, str(path))
    assert f"{path}: {said}" in str(error.value)
