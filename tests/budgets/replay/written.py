"""The files of a replay, written for tests of what is read from them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import yaml

from budgets.replay.profiles import PROFILE

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
