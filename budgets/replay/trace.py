"""Traces: requests one by one, or rates from which they are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from budgets.replay.columns import read_columns, rows_at
from budgets.replay.engine import Chunk
from variants.errors import ConfigError

CHUNK = 200_000
#: The rates that a policy starts from are those of the first seconds of a trace.
FIRST_SECONDS = 10.0


@dataclass(frozen=True)
class Steps:
    """Rates as they change: from `times[i]` on, the models `index[starts[i]:starts[i + 1]]` have the rates beside them,
    the others those they had. `times` ends with the end of the last step."""

    times: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    rates: npt.NDArray[np.float64]

    def held(self, models: int) -> Iterator[tuple[float, float, npt.NDArray[np.float64]]]:
        """Each step: its start, its end and the rates of all models, which are overwritten by the next step's."""
        held = np.zeros(models)
        bounds, times = self.starts.tolist(), self.times.tolist()
        for step in range(len(bounds) - 1):
            changed = slice(bounds[step], bounds[step + 1])
            held[self.index[changed]] = self.rates[changed]
            yield times[step], times[step + 1], held


@dataclass(frozen=True)
class Trace:
    """A trace in memory. Either `times` and `index` (arrivals) or `steps` (rates). `first`: where each model was read
    first. `events`: where each was read, and its fields."""

    models: list[str]
    start: float
    end: float
    first: dict[str, str]
    times: npt.NDArray[np.float64] | None = None
    index: npt.NDArray[np.int64] | None = None
    steps: Steps | None = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def first_rates(self) -> dict[str, float]:
        """Mean requests per second over the first seconds; of a trace that is shorter than one second, in one second."""
        until = self.start + FIRST_SECONDS
        mean = np.zeros(len(self.models))
        if self.times is not None and self.index is not None:
            span = min(FIRST_SECONDS, max(1.0, self.end - self.start))
            first = self.index[: np.searchsorted(self.times, until)]
            mean = np.bincount(first, minlength=len(self.models)) / span
        elif self.steps is not None:
            for start, end, rates in self.steps.held(len(self.models)):
                if start >= until:
                    break
                mean += rates * (min(end, until) - start)
            mean /= min(self.end, until) - self.start
        return {m: float(r) for m, r in zip(self.models, mean, strict=True)}

    def chunks(self, seed: int) -> Iterator[Chunk]:
        """The requests in order. Those of rates are drawn: Poisson in number, uniform within a step; the same for the
        same seed, whatever the policy."""
        if self.times is not None and self.index is not None:
            for start in range(0, len(self.times), CHUNK):
                yield self.times[start : start + CHUNK], self.index[start : start + CHUNK]
        elif self.steps is not None:
            draw = np.random.default_rng(seed)
            for begin, end, rates in self.steps.held(len(self.models)):
                counts = draw.poisson(rates * (end - begin))
                times = draw.uniform(begin, end, counts.sum())
                index = np.repeat(np.arange(len(rates)), counts)
                order = np.argsort(times, kind="stable")
                yield times[order], index[order]


def read_trace(path: Path) -> Trace:
    """`time_seconds,model` (arrivals) or `time_seconds,model,requests_per_second` (a rate holds until the model's next
    row; the last step is as long as the one before, or a second), as CSV, gzipped CSV or parquet; rows with an `event`
    are events (`event,target,value`). Rows and columns come in any order, seconds from any origin.

    Raises ConfigError naming the file, the line or row and what was wrong.
    """
    read = read_columns(path)
    if not len(read.times):
        raise ConfigError(f"{path}: no requests")
    names, place = np.unique(np.asarray(read.models, dtype=str), return_inverse=True)
    models, times, index, rates = [str(n) for n in names], read.times, place[read.index], read.rates
    if (times[1:] < times[:-1]).any():  # most are in order, and long
        order = np.argsort(times, kind="stable")
        times, index = times[order], index[order]
        rates = rates if rates is None else rates[order]
    if rates is None:
        begin, end = float(math.floor(times[0])), float(times[-1])
        return Trace(models, begin, end, read.first, times=times, index=index, events=read.events)
    steps = _steps(models, times, index, rates, path)
    begin, end = float(steps.times[0]), float(steps.times[-1])
    return Trace(models, begin, end, read.first, steps=steps, events=read.events)


def _steps(
    models: list[str],
    times: npt.NDArray[np.float64],
    index: npt.NDArray[np.int64],
    rates: npt.NDArray[np.float64],
    path: Path,
) -> Steps:
    starts, row = np.unique(times, return_inverse=True)
    cells = row * len(models) + index
    if len(np.unique(cells)) < len(cells):
        order = np.argsort(cells, kind="stable")
        twice = order[1:][np.diff(cells[order]) == 0].min()
        model, time = models[index[twice]], float(times[twice])
        rows = ", ".join(map(str, rows_at(path, model, time)))
        raise ConfigError(f"{path}: {model} has two rates at {time:.10g} seconds (rows {rows}); one is needed")
    last = starts[-1] - starts[-2] if len(starts) > 1 else 1.0
    bounds = np.append(np.searchsorted(times, starts), len(times))
    return Steps(np.append(starts, starts[-1] + last), bounds, index, rates)
