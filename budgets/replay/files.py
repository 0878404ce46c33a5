"""`cluster.yaml`, and the world that it makes with the profiles. The format is in the README and stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.functional_validators import BeforeValidator

from budgets.config import parse_bytes
from budgets.fleet.world import UNSERVED, Aim, Group, Rung, World
from budgets.replay.engine import Event
from variants.catalog import Frozen
from variants.errors import ConfigError

#: So many names an error gives.
NAMED = 10
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

    @model_validator(mode="after")
    def _limits(self) -> BudgetSpec:
        if self.limit_bytes is None and self.limit_fraction is None and not self.reserve_bytes:
            raise ValueError("a budget needs limit_bytes, limit_fraction or reserve_bytes")
        return self


class ModelSpec(Frozen):
    """A model's objective, weight, floor and pin; `park`: it may be on no host at all."""

    slo_seconds: float = Field(default=math.inf, gt=0)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    floor: float = -math.inf
    pin: str | None = None
    park: bool = True


class EventSpec(Frozen):
    """See `budgets.replay.engine.Event`."""

    time_seconds: float = Field(ge=0, allow_inf_nan=False)
    event: Literal["hosts", "memory_bytes", "neighbour_bytes", "slowdown"]
    target: str
    value: float = Field(ge=0)

    @field_validator("value", mode="before")
    @classmethod
    def _sizes(cls, value: Any, info: ValidationInfo) -> Any:
        """Only sizes have units: a slowdown of 1.5 is no number of bytes."""
        return parse_bytes(value) if str(info.data.get("event")).endswith("_bytes") else value

    @model_validator(mode="after")
    def _plausible(self) -> EventSpec:
        if self.event == "slowdown" and not 0 < self.value < math.inf:
            raise ValueError("a slowdown must be above 0: so many times its profile each call takes")
        if self.event == "hosts" and self.value != int(self.value):
            raise ValueError("hosts must be a whole number")
        return self


class ClusterSpec(Frozen):
    """`cluster.yaml`. `default` holds for models that are not listed. `unserved_cost`: what a request that is late or dropped
    counts, as so many requests served at a total loss of quality: the more, the sooner quality gives way."""

    hosts: tuple[HostSpec, ...] = Field(min_length=1)
    budgets: tuple[BudgetSpec, ...] = ()
    tick_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    unserved_cost: float = Field(default=UNSERVED, gt=0, allow_inf_nan=False)
    default: ModelSpec = ModelSpec()
    models: Mapping[str, ModelSpec] = {}
    events: tuple[EventSpec, ...] = ()


def read_cluster(path: Path) -> ClusterSpec:
    """Raises ConfigError naming the file, the field and what was wrong."""
    try:
        spec = ClusterSpec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problems(error)}") from error
    hosts = {h.name: h for h in spec.hosts}
    if len(hosts) < len(spec.hosts):
        raise ConfigError(f"{path}: hosts: a name is there twice: {', '.join(h.name for h in spec.hosts)}")
    for index, budget in enumerate(spec.budgets):
        where = f"{path}: budgets.{index}"
        if budget.hosts is not None and budget.hosts not in hosts:
            raise ConfigError(f"{where}.hosts: no hosts {budget.hosts!r}; there are {', '.join(hosts)}")
        endless = [h.name for h in _covered(spec, budget) if math.isinf(h.memory_bytes)]
        if budget.limit_fraction is not None and endless:
            raise ConfigError(f"{where}.limit_fraction: a share of what? {', '.join(endless)} has no memory_bytes")
    for index, event in enumerate(spec.events):
        _check_event(f"{path}: events.{index}", event, spec)
    return spec


def _few(names: Sequence[str]) -> str:
    """The first of many: traces and profiles may have thousands of models."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _covered(spec: ClusterSpec, budget: BudgetSpec) -> list[HostSpec]:
    return [h for h in spec.hosts if budget.hosts in (None, h.name)]


#: What the lists and mappings of `cluster.yaml` are made of.
_PARTS: dict[str, type[Frozen]] = {
    "hosts": HostSpec,
    "budgets": BudgetSpec,
    "models": ModelSpec,
    "default": ModelSpec,
    "events": EventSpec,
}


def _problems(error: ValidationError) -> str:
    """Each problem with its place. Of a key that is not known, those that are; nothing of a list that is too short because
    what was in it is wrong."""
    found = error.errors()
    places = [e["loc"] for e in found]
    said = []
    for place, one in zip(places, found, strict=True):
        message = one["msg"]
        if one["type"] == "too_short" and any(len(p) > len(place) and p[: len(place)] == place for p in places):
            continue
        if one["type"] == "extra_forbidden":
            owner: type[Frozen] = ClusterSpec if len(place) == 1 else _PARTS[str(place[0])]
            message = f"no such key; there are {', '.join(owner.model_fields)}"
        elif one["type"] == "model_type":
            owner = _PARTS[str(place[0])] if place else ClusterSpec
            message = f"not a mapping; its keys are {', '.join(owner.model_fields)}"
        said.append(": ".join(filter(None, [".".join(map(str, place)), message])))
    return "; ".join(said)


def world_of(spec: ClusterSpec, rungs: tuple[Rung, ...], models: Mapping[str, str], source: str) -> World:
    """Everything the planner needs. `models`: where each was asked for first; `source`: where the profiles are from.
    Raises ConfigError for names that agree with no profile, and for a floor that no variant keeps."""
    devices = {h.device for h in spec.hosts}
    known = {r.model for r in rungs if r.device in devices}
    on = ", ".join(sorted(devices))
    if not known:
        raise ConfigError(
            f"{source}: no profile on {on}; the profiles are of {_few(sorted({r.device for r in rungs}))}"
        )
    if missing := [f"{m} ({models[m]})" for m in sorted(set(models) - known)]:
        raise ConfigError(f"{source}: no profile on {on} for {_few(missing)}; there are {_few(sorted(known))}")
    by_model: dict[str, list[Rung]] = {}
    for rung in rungs:
        by_model.setdefault(rung.model, []).append(rung)
    for model, wish in spec.models.items():
        if model not in by_model:
            there = _few(sorted(by_model))
            raise ConfigError(f"{source}: no profile for {model}, which is in models; there are {there}")
        variants = sorted({r.variant for r in by_model[model]})
        if wish.pin is not None and wish.pin not in variants:
            raise ConfigError(f"{source}: no profile for {model}/{wish.pin}, its pin; there are {_few(variants)}")
    for model in models:
        most = max(r.quality for r in by_model[model] if r.device in devices)
        if (floor := spec.models.get(model, spec.default).floor) > most:
            raise ConfigError(f"{source}: {model} has a floor of {floor:g}, its best variant a quality of {most:g}")
    groups = []
    for host in spec.hosts:
        limit, reserve = host.memory_bytes, 0.0
        for budget in spec.budgets:
            if host in _covered(spec, budget):
                own = budget.limit_bytes if budget.limit_bytes is not None else math.inf
                share = budget.limit_fraction if budget.limit_fraction is not None else 1.0
                limit, reserve = min(limit, own, host.memory_bytes * share), max(reserve, budget.reserve_bytes)
        groups.append(Group(host.name, host.device, host.count, limit, reserve, host.streams, host.exclusive))
    aims = {}
    for model in models:
        wish = spec.models.get(model, spec.default)
        aims[model] = Aim(model, wish.slo_seconds, wish.weight, wish.floor, wish.pin, wish.park)
    return World(tuple(groups), tuple(r for r in rungs if r.model in aims), aims, spec.unserved_cost)


def events_of(spec: ClusterSpec, rows: list[tuple[str, dict[str, Any]]], source: str) -> list[Event]:
    """The cluster's events and the trace's, of which each comes with where it was read (a line). Raises ConfigError for
    one that is none."""
    found = list(spec.events)
    for line, row in rows:
        try:
            found.append(EventSpec.model_validate(row))
        except ValidationError as error:
            raise ConfigError(f"{source}: {line}: {_problems(error)}") from error
        _check_event(f"{source}: {line}", found[-1], spec)
    return sorted((Event(e.time_seconds, e.event, e.target, e.value) for e in found), key=lambda e: e.at)


def _check_event(where: str, event: EventSpec, spec: ClusterSpec) -> None:
    hosts = {h.name: h for h in spec.hosts}
    if event.target not in hosts:
        raise ConfigError(f"{where}: target: no hosts {event.target!r}; there are {', '.join(hosts)}")
    if event.event == "hosts" and event.value > hosts[event.target].count:
        raise ConfigError(f"{where}: value: {event.target} has {hosts[event.target].count} hosts, not {event.value:g}")
