"""A trace's columns from CSV, gzipped CSV or parquet: checked row by row, and compact from the first row on."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from variants.errors import ConfigError

#: Of an event, besides its time.
EVENT = ("event", "target", "value")
Row = Sequence[Any]


@dataclass
class Columns:
    """`index` says which of `models` each row is of; `rates` are there when the file has them. `events`: where each was
    read, and its fields."""

    times: npt.NDArray[np.float64]
    models: list[str]
    index: npt.NDArray[np.int64]
    rates: npt.NDArray[np.float64] | None
    events: list[tuple[str, dict[str, Any]]]


def read_columns(path: Path) -> Columns:
    """Raises ConfigError naming the file, the line (parquet: row) and what was wrong."""
    try:
        unit, rows = ("row", _parquet(path)) if path.suffix == ".parquet" else ("line", _csv(path))
        _, header = next(rows, (0, ()))
        return _collect(f"{path}: {unit}", path, [str(name).strip() for name in header], rows)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _collect(unit: str, path: Path, header: list[str], rows: Iterator[tuple[int, Row]]) -> Columns:
    for name in ("time_seconds", "model"):
        if name not in header:
            raise ConfigError(f"{path}: no column {name}; there are {', '.join(header) or 'none'}")
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}: a column is there twice: {', '.join(header)}")
    at = {name: i for i, name in enumerate(header)}
    width, time_at, model_at = len(header), at["time_seconds"], at["model"]
    rate_at, event_at = at.get("requests_per_second"), at.get("event")
    times, index, rates = array("d"), array("q"), array("d")
    models: dict[str, int] = {}
    known: dict[Any, int] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    for number, row in rows:
        if len(row) != width:
            raise ConfigError(f"{unit} {number}: {len(row)} fields, the header has {width}")
        if event_at is not None and row[event_at] not in ("", None):
            named = {k: row[at[k]] for k in ("time_seconds", *EVENT) if k in at}
            events.append((f"{unit.rsplit(': ', 1)[1]} {number}", named))
            continue
        times.append(_number(unit, number, "time_seconds", row[time_at]))
        model = row[model_at]
        place = known.get(model)
        if place is None:
            name = "" if model is None else str(model).strip()
            if not name:
                raise ConfigError(f"{unit} {number}: no model")
            place = known[model] = models.setdefault(name, len(models))
        index.append(place)
        if rate_at is not None:
            rates.append(_number(unit, number, "requests_per_second", row[rate_at]))
    return Columns(
        np.frombuffer(times, dtype=np.float64),
        list(models),
        np.frombuffer(index, dtype=np.int64),
        None if rate_at is None else np.frombuffer(rates, dtype=np.float64),
        events,
    )


def _number(unit: str, at: int, column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"{unit} {at}: {column}: {value!r} is not a number of 0 or more")
    return number


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    with (
        path.open("rb") as raw,
        io.TextIOWrapper(gzip.open(raw) if path.suffix == ".gz" else raw, newline="", encoding="utf-8-sig") as stream,
    ):
        reader = csv.reader(stream)
        for row in reader:
            if row:
                yield reader.line_num, row


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet needs pyarrow: pip install 'trimtab[replay]'") from None
    with path.open("rb") as stream:
        try:
            file = parquet.ParquetFile(stream)
            yield 0, tuple(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches():
                columns: Sequence[list[Any]] = [column.to_pylist() for column in batch.columns]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
        except pyarrow.ArrowException as error:
            raise ConfigError(f"{path}: not parquet: {error}") from error
