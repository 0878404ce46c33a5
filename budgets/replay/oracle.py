"""What no policy could beat: a bound on effective quality for whoever knows the whole trace beforehand.

A linear program over a few dozen windows of the trace. It is optimistic where it is not exact, so that it lies above every
policy: swaps take no time; a host may be divided among variants; every call is the batch of the best throughput that fits
the objective at all; within a window requests come when it suits; and a late request (which the data path seldom
serves: it drops what cannot be in time) has the best quality of all. What it keeps: every host's memory and streams as
events leave them, what each call takes, each request's own window or, within its objective, the next one; and where a
variant takes longer to load than requests can wait, it serves what comes while it is held, which is never denser than
in the window's densest second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from budgets.fleet.highs import Floats, Ints, Program
from budgets.fleet.world import Aim, Group, Rung, World
from budgets.replay.engine import Event
from budgets.replay.inputs import read_inputs
from budgets.replay.trace import Trace

WINDOWS = 60
TIME_LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class _State:
    """A group over a window: hosts and their bytes in all, on average; the largest room of a host; the least slowdown."""

    hosts: float
    room: float
    largest: float
    slowdown: float


class Oracle:
    """The program for a trace; `best` solves it for a number of requests that need not be in time."""

    def __init__(self, world: World, trace: Trace, events: Iterable[Event], *, seed: int = 0) -> None:
        self._world, self._models = world, trace.models
        self._top = max(world.best.values(), default=0.0)
        self._slo = max(a.slo_seconds for a in world.aims.values())
        self._rungs = [[r for r in world.rungs if r.model == m] for m in trace.models]
        span = trace.end - trace.start
        width = max(span / WINDOWS, 1e-3, self._slo if math.isfinite(self._slo) else span)
        self._width, count = width, max(1, math.ceil(span / width - 1e-9))
        self._arrived = np.zeros((count + 1, len(trace.models)))
        fine = max(1, math.floor(width))  # parts of a window, of a second or a little more
        parts = np.zeros((count * fine, len(trace.models)))
        for times, index in trace.chunks(seed):
            part = np.minimum(((times - trace.start) / width * fine).astype(np.int64), len(parts) - 1)
            np.add.at(parts, (part, index), 1.0)
        self._arrived[:-1] = parts.reshape(count, fine, -1).sum(axis=1)
        self.requests = int(parts.sum())
        densest = np.vstack([parts.reshape(count, fine, -1).max(axis=1), np.zeros(len(trace.models))]) * fine
        #: The most requests that could come in a window's length in which a variant is held, or the window before.
        self._dense = np.maximum(densest, np.vstack([densest[:1], densest[:-1]]))
        self._quality: list[float] = []
        self._rows: list[tuple[Ints, Floats, float]] = []
        served: dict[tuple[int, int], list[int]] = {}
        happens = [e for e in events if e.at <= trace.end]
        states = {g.name: _states(g, happens, trace.start, width, count + 1, self._slo) for g in world.groups}
        for window in range(count + 1):
            for group in world.groups:
                self._group(window, group, states[group.name][window], served)
        for (window, model), columns in served.items():
            self._row(columns, 1.0, float(self._arrived[window, model]))

    @classmethod
    def of(cls, cluster: Path, profiles: Path, trace: Path, *, seed: int = 0) -> Oracle:
        """Of a replay's files. Raises ConfigError for what cannot be used."""
        made = read_inputs(cluster, profiles, trace)
        return cls(made.world, made.trace, made.events, seed=seed)

    def best(self, *, late: int = 0, dropped: int = 0) -> float | None:
        """A mean quality over completed requests that none exceeds who is late with and drops no more than so many.
        None: nobody can keep so many within memory and objective."""
        intime = self.requests - late - dropped
        if intime + late <= 0 or not self._rows:
            return None
        quality = np.array(self._quality)
        counted = np.flatnonzero(np.isfinite(quality))
        program = Program(len(quality), 0)
        program.cost[counted] = -quality[counted]
        lengths = [len(columns) for columns, _, _ in self._rows]
        program.block(
            np.repeat(np.arange(len(lengths)), lengths),
            np.concatenate([columns for columns, _, _ in self._rows]),
            np.concatenate([values for _, values, _ in self._rows]),
            np.full(len(lengths), -math.inf),
            np.array([high for _, _, high in self._rows]),
        )
        program.row(counted, np.ones(len(counted)), float(intime), float(intime))
        found = program.solve(seconds=TIME_LIMIT_SECONDS)
        return None if found is None else (-found.cost + late * self._top) / (intime + late)

    def _group(self, window: int, group: Group, state: _State, served: dict[tuple[int, int], list[int]]) -> None:
        """Columns for each variant: hosts that hold it, requests of this window, requests of the one before."""
        width, streams = self._width, group.streams
        hosts: list[int] = []
        rungs: list[Rung] = []
        calls: list[tuple[int, int, float]] = []
        by_model: dict[str, list[int]] = {}
        for model, name in enumerate(self._models):
            aim = self._world.aims[name]
            for rung in self._rungs[model]:
                if rung.device != group.device or not _allowed(rung, aim, state):
                    continue
                seconds = _seconds(rung, aim.slo_seconds, state.slowdown)
                if seconds is None:
                    continue
                first = len(self._quality)
                self._quality += [math.nan, rung.quality, rung.quality]
                hosts.append(first)
                rungs.append(rung)
                calls.append((first + 1, first + 2, seconds))
                by_model.setdefault(name, []).append(first)
                served.setdefault((window, model), []).append(first + 1)
                served.setdefault((window - 1, model), []).append(first + 2)
                self._row([first + 1, first + 2, first], [seconds, seconds, -streams * width], 0.0)
                if rung.load_seconds >= aim.slo_seconds:
                    dense = float(self._dense[window, model])
                    self._row([first + 1, first + 2, first], [1.0, 1.0, -dense], 0.0)
        served_before = [(window - 1, m) for m in range(len(self._models))] if window == 0 else []
        for key in served_before:  # nothing comes before the first window
            self._row(served.pop(key, []), 1.0, 0.0)
        if not hosts:
            return
        both = [c for own, before, _ in calls for c in (own, before)]
        self._row(both, np.repeat([s for _, _, s in calls], 2), streams * state.hosts * width)
        if math.isfinite(self._slo):
            self._row([b for _, b, _ in calls], [s for _, _, s in calls], streams * state.hosts * min(width, self._slo))
        if group.exclusive:
            self._row(hosts, 1.0, state.hosts)
            return
        if math.isfinite(state.room):
            scale = max(state.room, 1.0)
            self._row(hosts, [r.memory_bytes / scale for r in rungs], state.room / scale)
        for columns in by_model.values():
            self._row(columns, 1.0, state.hosts)

    def _row(self, columns: list[int], values: object, high: float) -> None:
        if columns:
            made = np.broadcast_to(np.asarray(values, dtype=np.float64), (len(columns),))
            self._rows.append((np.array(columns), made, high))


def _allowed(rung: Rung, aim: Aim, state: _State) -> bool:
    return rung.memory_bytes <= state.largest and rung.quality >= aim.floor and aim.pin in (None, rung.variant)


def _seconds(rung: Rung, slo_seconds: float, slowdown: float) -> float | None:
    """Of a stream for one request, at best; None when no call fits the objective."""
    most = rung.within(slo_seconds / slowdown)
    sizes = {most, *(b for b, _ in rung.batches if b < most)} - {0}
    return min((rung.seconds(b) / b * slowdown for b in sizes), default=None)


def _states(group: Group, events: Iterable[Event], start: float, width: float, count: int, slo: float) -> list[_State]:
    """A group by window. A call that began within an objective before a window may still run at that slowdown."""
    now = {"hosts": float(group.count), "memory_bytes": group.memory_bytes, "neighbour_bytes": 0.0, "slowdown": 1.0}
    segments: list[tuple[float, dict[str, float]]] = [(-math.inf, dict(now))]
    for event in sorted(events, key=lambda e: e.at):
        if event.group == group.name:
            now[event.kind] = event.value
            segments.append((event.at, dict(now)))
    ends = [at for at, _ in segments[1:]] + [math.inf]
    made = []
    for window in range(count):
        begin, end = start + window * width, start + (window + 1) * width
        hosts = room = largest = 0.0
        slowdown = math.inf
        for (since, held), until in zip(segments, ends, strict=True):
            if since < end and until > begin - min(slo, width):
                slowdown = min(slowdown, held["slowdown"])
            share = (min(end, until) - max(begin, since)) / width
            if share <= 0:
                continue
            one = max(0.0, held["memory_bytes"] - group.reserve_bytes - held["neighbour_bytes"])
            hosts += share * held["hosts"]
            room += share * held["hosts"] * one if held["hosts"] else 0.0
            largest = max(largest, one)
        made.append(_State(hosts, room, largest, slowdown))
    return made
