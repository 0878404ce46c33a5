"""Traces: requests one by one, or rates from which they are drawn."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from budgets.replay.engine import Chunk
from variants.errors import ConfigError

CHUNK = 200_000
#: The rates that a policy starts from are those of the first seconds of a trace.
FIRST_SECONDS = 10.0


@dataclass
class Trace:
    """A trace in memory. Either `times` and `index` (arrivals) or `steps` and `rates` (one row for each step)."""

    models: list[str]
    times: npt.NDArray[np.float64] | None = None
    index: npt.NDArray[np.int64] | None = None
    steps: npt.NDArray[np.float64] | None = None
    rates: npt.NDArray[np.float64] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Until the last request, or the end of the last step."""
        if self.times is not None:
            return float(self.times[-1]) if len(self.times) else 0.0
        assert self.steps is not None
        return float(self.steps[-1])

    def first_rates(self) -> dict[str, float]:
        """Mean requests per second over the first seconds."""
        if self.times is not None and self.index is not None:
            span = max(1e-9, min(FIRST_SECONDS, self.seconds))
            counts = np.bincount(self.index[: np.searchsorted(self.times, span)], minlength=len(self.models))
            return {m: float(n) / span for m, n in zip(self.models, counts, strict=True)}
        assert self.steps is not None
        assert self.rates is not None
        ends = np.minimum(self.steps[1:], FIRST_SECONDS)
        width = np.maximum(0.0, ends - self.steps[:-1])
        mean = (self.rates * width[:, None]).sum(axis=0) / max(1e-9, width.sum())
        return {m: float(r) for m, r in zip(self.models, mean, strict=True)}

    def chunks(self, seed: int) -> Iterator[Chunk]:
        """The requests in order. Those of rates are drawn: Poisson in number, uniform within a step; the same for the
        same seed, whatever the policy."""
        if self.times is not None and self.index is not None:
            for start in range(0, len(self.times), CHUNK):
                yield self.times[start : start + CHUNK], self.index[start : start + CHUNK]
            return
        assert self.steps is not None
        assert self.rates is not None
        draw = np.random.default_rng(seed)
        for start, end, rates in zip(self.steps[:-1], self.steps[1:], self.rates, strict=True):
            counts = draw.poisson(rates * (end - start))
            times = draw.uniform(start, end, counts.sum())
            index = np.repeat(np.arange(len(rates)), counts)
            order = np.argsort(times, kind="stable")
            yield times[order], index[order]


def read_trace(path: Path) -> Trace:
    """`time_seconds,model` (arrivals) or `time_seconds,model,requests_per_second` (a rate holds until the model's next
    row; the last step is as long as the one before), as CSV, gzipped CSV or parquet; rows with an `event` are events.

    Raises ConfigError naming the file and what was wrong.
    """
    try:
        columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    for name in ("time_seconds", "model"):
        if name not in columns:
            raise ConfigError(f"{path}: no column {name}; there are {', '.join(columns)}")
    events: list[dict[str, Any]] = []
    if "event" in columns:
        rows = [i for i, e in enumerate(columns["event"]) if e not in ("", None)]
        events = [
            {k: columns[k][i] for k in ("time_seconds", "event", "target", "value") if k in columns} for i in rows
        ]
        gone = set(rows)
        columns = {k: [x for i, x in enumerate(v) if i not in gone] for k, v in columns.items()}
    if not len(columns["model"]):
        raise ConfigError(f"{path}: no requests")
    try:
        times = np.asarray(columns["time_seconds"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: time_seconds: {error}") from None
    names, index = np.unique(np.asarray(columns["model"], dtype=str), return_inverse=True)
    models = [str(n) for n in names]
    if not np.isfinite(times).all() or times.min() < 0:
        raise ConfigError(f"{path}: time_seconds must be numbers of 0 or more")
    if "requests_per_second" not in columns:
        order = np.argsort(times, kind="stable")
        return Trace(models, times=times[order], index=index[order].astype(np.int64), events=events)
    try:
        rates = np.asarray(columns["requests_per_second"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: requests_per_second: {error}") from None
    if not np.isfinite(rates).all() or rates.min() < 0:
        raise ConfigError(f"{path}: requests_per_second must be numbers of 0 or more")
    steps, row = np.unique(times, return_inverse=True)
    matrix = np.full((len(steps), len(models)), np.nan)
    matrix[row, index] = rates
    for step in range(len(steps)):
        held = matrix[step - 1] if step else np.zeros(len(models))
        matrix[step] = np.where(np.isnan(matrix[step]), held, matrix[step])
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1.0
    return Trace(models, steps=np.append(steps, steps[-1] + last), rates=matrix, events=events)


def _csv(path: Path) -> dict[str, list[Any]]:
    with (
        path.open("rb") as raw,
        io.TextIOWrapper(gzip.open(raw) if path.suffix == ".gz" else raw, newline="") as stream,
    ):
        reader = csv.reader(stream)
        header = [h.strip() for h in next(reader, [])]
        columns: list[list[Any]] = [[] for _ in header]
        for line, row in enumerate(reader, start=2):
            if not row:
                continue
            if len(row) != len(header):
                raise ConfigError(f"{path}: line {line}: {len(row)} fields, the header has {len(header)}")
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return dict(zip(header, columns, strict=True))


def _parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet needs pyarrow: pip install 'trimtab[replay]'") from None
    read = pyarrow.parquet.read_table(path)
    return {name: read.column(name).to_pylist() for name in read.column_names}
