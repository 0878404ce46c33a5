"""Traces: requests one by one, or rates from which they are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from budgets.replay.columns import Columns, read_columns
from budgets.replay.engine import Chunk
from variants.errors import ConfigError

CHUNK = 200_000
#: The rates that a policy starts from are those of the first seconds of a trace.
FIRST_SECONDS = 10.0


@dataclass
class Trace:
    """A trace in memory. Either `times` and `index` (arrivals) or `steps` and `rates` (one row for each step). `events`:
    where each was read, and its fields."""

    models: list[str]
    times: npt.NDArray[np.float64] | None = None
    index: npt.NDArray[np.int64] | None = None
    steps: npt.NDArray[np.float64] | None = None
    rates: npt.NDArray[np.float64] | None = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def start(self) -> float:
        """Seconds: the whole second of the first request, or the first step."""
        if self.times is not None:
            return float(math.floor(self.times[0]))
        assert self.steps is not None
        return float(self.steps[0])

    @property
    def end(self) -> float:
        """The last request, or the end of the last step."""
        if self.times is not None:
            return float(self.times[-1])
        assert self.steps is not None
        return float(self.steps[-1])

    def first_rates(self) -> dict[str, float]:
        """Mean requests per second over the first seconds; of a trace that is shorter than one second, in one second."""
        until = self.start + FIRST_SECONDS
        if self.times is not None and self.index is not None:
            span = min(FIRST_SECONDS, max(1.0, self.end - self.start))
            first = self.index[: np.searchsorted(self.times, until)]
            mean = np.bincount(first, minlength=len(self.models)) / span
        else:
            assert self.steps is not None
            assert self.rates is not None
            width = np.maximum(0.0, np.minimum(self.steps[1:], until) - self.steps[:-1])
            mean = (self.rates * width[:, None]).sum(axis=0) / width.sum()
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
    row; the last step is as long as the one before, or a second), as CSV, gzipped CSV or parquet; rows with an `event`
    are events (`event,target,value`).

    Raises ConfigError naming the file, the line or row and what was wrong.
    """
    read = read_columns(path)
    if not len(read.times):
        raise ConfigError(f"{path}: no requests")
    names, place = np.unique(np.asarray(read.models, dtype=str), return_inverse=True)
    models, index = [str(n) for n in names], place[read.index].astype(np.int64)
    if read.rates is None:
        order = np.argsort(read.times, kind="stable")
        return Trace(models, times=read.times[order], index=index[order], events=read.events)
    return _steps(models, index, read, path)


def _steps(models: list[str], index: npt.NDArray[np.int64], read: Columns, path: Path) -> Trace:
    assert read.rates is not None
    steps, row = np.unique(read.times, return_inverse=True)
    cells = row * len(models) + index
    if len(np.unique(cells)) < len(cells):
        order = np.argsort(cells, kind="stable")
        twice = order[1:][np.diff(cells[order]) == 0].min()
        raise ConfigError(f"{path}: {models[index[twice]]} has two rates at {read.times[twice]:g} seconds")
    matrix = np.full((len(steps), len(models)), np.nan)
    matrix[row, index] = read.rates
    held = np.zeros(len(models))
    for step in matrix:
        np.copyto(step, held, where=np.isnan(step))
        held = step
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1.0
    return Trace(models, steps=np.append(steps, steps[-1] + last), rates=matrix, events=read.events)
