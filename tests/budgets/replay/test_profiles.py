"""`profiles.csv`: what is read, and what every kind of bad input is answered with."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from budgets.replay.profiles import PROFILE, read_profiles
from tests.budgets.replay.written import ROW, profiles
from variants.errors import ConfigError


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
        ("x,v,d,0,0.01,1e8,0.5,0.9", "line 3: batch: '0' is not a whole number from 1 to 65536"),
        ("x,v,d,1.5,0.01,1e8,0.5,0.9", "line 3: batch: '1.5' is not"),
        ("x,v,d,inf,0.01,1e8,0.5,0.9", "line 3: batch: 'inf' is not"),
        ("x,v,d,1e9,0.01,1e8,0.5,0.9", "line 3: batch: '1e9' is not"),
        ("x,v,d,2,0,1e8,0.5,0.9", "line 3: latency_seconds: '0' is not a number above 0"),
        ("x,v,d,2,-0.1,1e8,0.5,0.9", "line 3: latency_seconds: '-0.1' is not a number above 0"),
        ("x,v,d,2,fast,1e8,0.5,0.9", "line 3: latency_seconds: 'fast' is not a number"),
        ("x,v,d,2,0.01,-1,0.5,0.9", "line 3: memory_bytes: '-1' is not a number of 0 or more"),
        ("x,v,d,2,0.01,nan,0.5,0.9", "line 3: memory_bytes: 'nan' is not"),
        ("x,v,d,2,0.01,1e8,-1,0.9", "line 3: load_seconds: '-1' is not"),
        ("x,v,d,2,0.01,1e8,0.5,", "line 3: quality: '' is not a number"),
        ("x,v,d,2,0.01,1e8,0.5,nan", "line 3: quality: 'nan' is not a number"),
        ("x,v,d,2,0.01,1e8,0.5,0.8", "line 3: quality: x/v/d has 0.9 on line 2"),
        ("x,w,d,1,0.01,1e8,0.5,76.1", "quality: 0.9 of x/v/d (line 2) and 76.1 of x/w/d (line 3) are not of one unit"),
        (",v,d,2,0.01,1e8,0.5,0.9", "line 3: no model"),
        ("x,v,d,2", "line 3: 4 fields, the header has 8"),
        (ROW, "line 3: x/v/d has batch 1 on line 2 already"),
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
    with pytest.raises(ConfigError, match="profiles.csv: no profiles"):
        read_profiles(profiles(tmp_path))
    (tmp_path / "profiles.csv").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no column model, variant, .*; needed are .*; there are none"):
        read_profiles(tmp_path / "profiles.csv")
    with pytest.raises(ConfigError, match="nothing.csv: No such file"):
        read_profiles(tmp_path / "nothing.csv")
    (tmp_path / "profiles.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="profiles.csv: "):
        read_profiles(tmp_path / "profiles.csv")


@pytest.mark.parametrize("name", ["profiles.csv", "profiles.csv.gz", "profiles.parquet"])
def test_profiles_in_every_format(tmp_path: Path, name: str) -> None:
    rows = [ROW, "x,v,d,4,0.02,1e8,0.5,0.9"]
    path = profiles(tmp_path, *rows)
    plain = read_profiles(path)
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif name.endswith("parquet"):
        columns = zip(PROFILE, zip(*(r.split(",") for r in rows), strict=True), strict=True)
        typed = {c: list(v) if c in PROFILE[:3] else [float(x) for x in v] for c, v in columns}
        parquet.write_table(pyarrow.table(typed), path)
    assert read_profiles(path) == plain


def test_percentages_are_qualities_as_shares_are(tmp_path: Path) -> None:
    rungs = read_profiles(profiles(tmp_path, "x,v,d,1,0.01,0,0,76.1", "x,w,d,1,0.005,0,0,69.8", "y,v,d,1,0.1,0,0,9.5"))
    assert [r.quality for r in rungs] == [76.1, 69.8, 9.5]
    assert [r.quality for r in read_profiles(profiles(tmp_path, ROW, "y,v,d,1,0.1,0,0,76.1"))] == [0.9, 76.1]
