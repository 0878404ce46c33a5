"""Traces: what is read, and what every kind of bad input is answered with."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from budgets.replay.engine import Event
from budgets.replay.files import events_of, read_cluster
from budgets.replay.trace import Trace, read_trace
from tests.budgets.replay.written import cluster, trace
from variants.errors import ConfigError


def requests(made: Trace, seed: int = 0) -> list[tuple[float, str]]:
    found = []
    for times, index in made.chunks(seed):
        found += [(float(t), made.models[i]) for t, i in zip(times, index, strict=True)]
    return found


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.parquet", "categories.parquet"])
def test_arrivals_in_every_format(tmp_path: Path, name: str) -> None:
    rows = [(2.5, "y"), (0.25, "x"), (1.0, "x"), (1.0, "y")]
    if name.endswith("parquet"):
        path = tmp_path / name
        models = pyarrow.array([m for _, m in rows])
        models = models.dictionary_encode() if name.startswith("categories") else models
        parquet.write_table(pyarrow.table({"time_seconds": [t for t, _ in rows], "model": models}), path)
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
        ([""], "no column time_seconds, model; needed are time_seconds, model; there are none"),
        (["time_seconds,name", "1,x"], "no column model; needed are time_seconds, model; there are time_seconds, name"),
        (["time_seconds,model,model", "1,x,x"], "a column is there twice"),
        (["time_seconds,model"], "no requests"),
        (["time_seconds,model", "1,x", "noon,x"], "line 3: time_seconds: 'noon' is not a number"),
        (["time_seconds,model", "-1,x"], "line 2: time_seconds: '-1' is not"),
        (["time_seconds,model", "inf,x"], "line 2: time_seconds: 'inf' is not"),
        (["time_seconds,model", "nan,x"], "line 2: time_seconds: 'nan' is not"),
        (["time_seconds,model", "1,x", "1700000000000,x"], "line 3: time_seconds: '1700000000000' is too late for"),
        (["time_seconds,model", "1, "], "line 2: no model"),
        (["time_seconds,model", "1,x", "", "2"], "line 4: 1 fields, the header has 2"),
        (["time_seconds,model,requests_per_second", "1,x,-2"], "line 2: requests_per_second: '-2' is not"),
        (["time_seconds,model,requests_per_second", "1,x,nan"], "line 2: requests_per_second: 'nan' is not"),
        (
            ["time_seconds,model,requests_per_second", "1,x,2", "2,x,1", "1,x,3"],
            "x has two rates at 1 seconds (rows 2, 4)",
        ),
        (["time_seconds;model", "1;x"], "there are time_seconds;model; fields are separated by commas, not by ';'"),
        (
            ["time_seconds,model", "2021-01-31 00:00:00,x"],
            "is not a number of 0 or more; of dates, seconds since",
        ),
    ],
)
def test_a_bad_trace_is_told_where(tmp_path: Path, rows: list[str], said: str) -> None:
    path = trace(tmp_path, *rows)
    with pytest.raises(ConfigError) as error:
        read_trace(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


PLAIN = b"time_seconds,model\n1,x\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("trace.csv", b"\xff\xfe\xff", "trace.csv: neither UTF-8 text, gzip nor parquet"),
        ("trace.csv.gz", gzip.compress(PLAIN)[:-9], "trace.csv.gz: "),
        ("trace.csv.gz", gzip.compress(PLAIN)[:-8] + b"xxxxxxxx", "trace.csv.gz: CRC check failed"),
        ("trace.parquet", b"PAR1" + PLAIN, "trace.parquet: not parquet"),
        ("trace.csv", b"", "trace.csv: no column time_seconds, model"),
        ("trace.csv", None, "trace.csv: No such file"),
    ],
)
def test_a_trace_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_trace(tmp_path / name)


@pytest.mark.parametrize("name", ["trace", "trace.txt", "trace.gz", "trace.parquet", "trace.csv"])
def test_a_format_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    parquet.write_table(pyarrow.table({"time_seconds": [1, 0], "model": ["x", "y"]}), tmp_path / "table")
    for content in (
        PLAIN.replace(b"1,x", b"1,x\n0,y"),
        gzip.compress(PLAIN + b"0,y"),
        (tmp_path / "table").read_bytes(),
    ):
        path.write_bytes(content)
        assert requests(read_trace(path)) == [(0.0, "y"), (1.0, "x")]


def test_a_trace_of_other_tools(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, spaces, other columns in between, twice the same of those; unix seconds."""
    path = tmp_path / "trace.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,model, note ,time_seconds,note\r\n7, x ,"a, b",1700000001.5,\r\n\r\n8,y,,1700000000.25,\r\n'
    )
    made = read_trace(path)
    assert requests(made) == [(1700000000.25, "y"), (1700000001.5, "x")]
    assert (made.start, made.first) == (1.7e9, {"x": "line 2", "y": "line 4"})


def test_parquet_with_other_columns_and_types(tmp_path: Path) -> None:
    columns = {
        "when": pyarrow.array([1, 2], pyarrow.timestamp("s")),
        "model": pyarrow.array(["b", "a"]).dictionary_encode(),
        "requests_per_second": pyarrow.array([3.0, 0.0], pyarrow.float32()),
        "time_seconds": pyarrow.array([60, 0], pyarrow.int32()),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t")
    made = read_trace(tmp_path / "t")
    assert (made.models, made.start, made.end, made.first) == (["a", "b"], 0.0, 120.0, {"a": "row 2", "b": "row 1"})
    assert {m for _, m in requests(made)} == {"b"}
    columns["model"] = pyarrow.array([None, "a"])
    parquet.write_table(pyarrow.table(columns), tmp_path / "t")
    with pytest.raises(ConfigError, match="t: row 1: no model"):
        read_trace(tmp_path / "t")


def test_rates_hold_until_a_models_next_row(tmp_path: Path) -> None:
    rows = ["10,x,0", "0,x,50", "0,y,7", "20,y,0"]
    made = read_trace(trace(tmp_path, "time_seconds,model,requests_per_second", *rows))
    drawn = requests(made)
    assert made.end == 30.0
    assert 10 > max(t for t, m in drawn if m == "x") > 9
    assert 20 > max(t for t, m in drawn if m == "y") > 15
    assert made.first_rates() == {"x": 50.0, "y": 7.0}


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
