"""The files of a replay: `cluster.yaml`, `profiles.csv`, `trace.csv`. Formats are in the README and stay."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic.functional_validators import BeforeValidator

from budgets.config import parse_bytes
from budgets.fleet.world import Aim, Group, Rung, World
from budgets.replay.engine import Event
from variants.catalog import Frozen
from variants.errors import ConfigError

Size = Annotated[float, BeforeValidator(parse_bytes), Field(ge=0)]


class HostSpec(Frozen):
    """A group of identical hosts. `device` is the device of the profiles."""

    name: str
    device: str
    count: int = Field(default=1, ge=0)
    memory_bytes: Size = math.inf
    streams: int = Field(default=1, ge=1)
    exclusive: bool = False


class BudgetSpec(Frozen):
    """A limit below a host's own memory: of each host of a group (`hosts`; default: of all groups)."""

    hosts: str | None = None
    limit_bytes: Size | None = None
    limit_fraction: float | None = Field(default=None, gt=0, le=1)
    reserve_bytes: Size = 0.0


class ModelSpec(Frozen):
    """A model's objective, weight, floor and pin; `park`: it may be on no host at all."""

    slo_seconds: float = Field(default=math.inf, gt=0)
    weight: float = Field(default=1.0, gt=0)
    floor: float = -math.inf
    pin: str | None = None
    park: bool = True


class EventSpec(Frozen):
    """See `budgets.replay.engine.Event`."""

    time_seconds: float = Field(ge=0)
    event: Literal["hosts", "memory_bytes", "neighbour_bytes", "slowdown"]
    target: str
    value: Size


class ClusterSpec(Frozen):
    """`cluster.yaml`. `default` holds for models that are not listed."""

    hosts: tuple[HostSpec, ...] = Field(min_length=1)
    budgets: tuple[BudgetSpec, ...] = ()
    tick_seconds: float = Field(default=1.0, gt=0)
    default: ModelSpec = ModelSpec()
    models: Mapping[str, ModelSpec] = {}
    events: tuple[EventSpec, ...] = ()


def read_cluster(path: Path) -> ClusterSpec:
    """Raises ConfigError naming the file, the field and what was wrong."""
    try:
        spec = ClusterSpec.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {problems}") from error
    names = [h.name for h in spec.hosts]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: hosts: a name is there twice: {', '.join(names)}")
    for budget in spec.budgets:
        if budget.hosts is not None and budget.hosts not in names:
            raise ConfigError(f"{path}: budgets: no hosts {budget.hosts!r}; there are {', '.join(names)}")
    for event in spec.events:
        _check_target(str(path), event.target, names)
    return spec


PROFILE = ("model", "variant", "device", "batch", "latency_seconds", "memory_bytes", "load_seconds", "quality")


def read_profiles(path: Path) -> tuple[Rung, ...]:
    """Raises ConfigError naming the file, the line and what was wrong."""
    rows: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    facts: dict[tuple[str, str, str], tuple[float, float, float]] = {}
    for line, row in table(path, PROFILE):
        key = (row["model"], row["variant"], row["device"])
        try:
            batch, seconds = int(float(row["batch"])), float(row["latency_seconds"])
            memory, load, quality = (float(row[f]) for f in ("memory_bytes", "load_seconds", "quality"))
        except ValueError as error:
            raise ConfigError(f"{path}: line {line}: {error}") from None
        if batch < 1 or not (0 < seconds < math.inf) or memory < 0 or load < 0 or math.isnan(quality):
            raise ConfigError(f"{path}: line {line}: batch and latency must be above 0, memory and load not below")
        rows.setdefault(key, []).append((batch, seconds))
        old = facts.get(key, (memory, load, quality))
        facts[key] = (max(old[0], memory), max(old[1], load), quality)
    return tuple(
        Rung(*key, facts[key][2], facts[key][0], facts[key][1], _batches(path, key, rows[key])) for key in rows
    )


def _batches(path: Path, key: tuple[str, str, str], rows: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    ordered = sorted(rows)
    if len({b for b, _ in ordered}) < len(ordered):
        raise ConfigError(f"{path}: {'/'.join(key)}: a batch size is there twice")
    made: list[tuple[int, float]] = []
    for batch, seconds in ordered:
        # A larger batch that was measured faster is noise: it takes at least as long as the smaller one.
        made.append((batch, max(seconds, made[-1][1] if made else 0.0)))
    if made[0][0] > 1:
        made.insert(0, (1, made[0][1]))
    return tuple(made)


def world_of(spec: ClusterSpec, rungs: tuple[Rung, ...], models: list[str], source: str) -> World:
    """Everything the planner needs. Raises ConfigError when a model of the trace has no profile for any host."""
    devices = {h.device for h in spec.hosts}
    known = {r.model for r in rungs if r.device in devices}
    if missing := sorted(set(models) - known):
        raise ConfigError(
            f"{source}: no profile on {', '.join(sorted(devices))} for {', '.join(missing)}; there are {', '.join(sorted(known))}"
        )
    groups = []
    for host in spec.hosts:
        limit, reserve = host.memory_bytes, 0.0
        for budget in spec.budgets:
            if budget.hosts in (None, host.name):
                own = budget.limit_bytes if budget.limit_bytes is not None else math.inf
                share = budget.limit_fraction if budget.limit_fraction is not None else 1.0
                limit, reserve = min(limit, own, host.memory_bytes * share), max(reserve, budget.reserve_bytes)
        groups.append(Group(host.name, host.device, host.count, limit, reserve, host.streams, host.exclusive))
    aims = {}
    for model in models:
        wish = spec.models.get(model, spec.default)
        aims[model] = Aim(model, wish.slo_seconds, wish.weight, wish.floor, wish.pin, wish.park)
    return World(tuple(groups), tuple(r for r in rungs if r.model in aims), aims)


def events_of(spec: ClusterSpec, rows: list[dict[str, Any]], source: str) -> list[Event]:
    """The cluster's events and the trace's. Raises ConfigError for a row that is none."""
    found = list(spec.events)
    for row in rows:
        try:
            found.append(EventSpec.model_validate({k: row[k] for k in ("time_seconds", "event", "target", "value")}))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{source}: {problems}") from error
        _check_target(source, found[-1].target, [h.name for h in spec.hosts])
    return sorted((Event(e.time_seconds, e.event, e.target, e.value) for e in found), key=lambda e: e.at)


def _check_target(source: str, target: str, names: list[str]) -> None:
    if target not in names:
        raise ConfigError(f"{source}: event target {target!r} is no group of hosts; there are {', '.join(names)}")


def table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a small CSV file with their line numbers. Raises ConfigError when a column is missing."""
    try:
        with path.open(newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise ConfigError(f"{path}: no column {', '.join(missing)}; needed are {', '.join(columns)}")
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
