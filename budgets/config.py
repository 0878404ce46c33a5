"""Budgets, triggers and what each model's owner asks for. Cross-references are checked when loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.functional_validators import BeforeValidator

from variants.catalog import Frozen, Name, Unit

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


#: No machine has more: what is larger is a slip, and would not fit where sizes are kept.
MOST_BYTES = 1 << 60


def parse_bytes(value: object) -> object:
    """`3GiB`, `500 MB` or a number of bytes -> int. Raises ValueError naming the accepted units."""
    if isinstance(value, str):
        value = _spelt(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value > MOST_BYTES:
        raise ValueError("more than 1 EiB, which no machine has")
    return value


def _spelt(value: str) -> int:
    text = value.strip()
    number = text.rstrip("BbKkMmGgIi ")
    unit = text[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(
            f"{value!r} is not a size; write bytes or a number with B, KB, MB, GB, KiB, MiB or GiB"
        ) from None


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("a size must be above 0 bytes")
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes), AfterValidator(_positive)]
Resource = Literal["ram", "gpu_memory", "gpu_utilization", "cpu"]
#: The group of hosts whose node says nothing else.
DEFAULT_GROUP = "default"


class Neighbour(Frozen):
    """A process outside trimtab that counts against a `trimtab`-scoped RAM budget: a pid, a file holding one
    (absent file: no neighbour now), or a cgroup v2 folder."""

    name: Name
    pid: int | None = None
    pid_file: str | None = None
    cgroup: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Neighbour:
        if sum(x is not None for x in (self.pid, self.pid_file, self.cgroup)) != 1:
            raise ValueError(f"neighbour {self.name!r} needs exactly one of pid, pid_file, cgroup")
        return self


class Thresholds(Frozen):
    """A trigger enters when the pressure has been at or above `enter` for `enter_seconds`, and leaves when it has been
    at or below `exit` for `exit_seconds`. Between them nothing changes."""

    enter: float = Field(default=0.9, gt=0)
    exit: float = Field(default=0.75, gt=0)
    enter_seconds: float = Field(default=1.0, ge=0)
    exit_seconds: float = Field(default=10.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.exit >= self.enter:
            raise ValueError(f"exit ({self.exit}) must be below enter ({self.enter})")
        return self


class Budget(Thresholds):
    """A limit on one resource over a scope.

    scope `node`: the whole machine, or its cgroup where that has a limit; `trimtab` (RAM and GPU memory): trimtab's own
    processes plus the named neighbours. `limit` is bytes for memory (default: all there is) and a fraction for
    utilisation (default 1.0). `reserve` (bytes) is kept free when restoring.

    `group`: the host group that it is for; None: every group has this budget, each for itself. Neighbours are measured on
    the controller's machine: those of a budget without a group count in the controller's own group.
    """

    name: Name
    resource: Resource
    scope: Literal["node", "trimtab"] = "node"
    limit: Bytes | None = None
    limit_fraction: float | None = Field(default=None, gt=0, le=1)
    reserve: Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)] = 0
    neighbours: tuple[Neighbour, ...] = ()
    group: Name | None = None


class Slo(Thresholds):
    """A latency objective: `quantile` of request latency within `latency_seconds`. Pressure is observed / objective."""

    enter: float = Field(default=1.0, gt=0)
    exit: float = Field(default=0.7, gt=0)
    latency_seconds: float = Field(gt=0)
    quantile: float = Field(default=0.99, gt=0, lt=1)


class ModelPolicy(Frozen):
    """What a model's owner asks for: its weight (how much its quality matters), quality floor, SLO, pinned variant, and
    whether it may be parked under pressure."""

    weight: float = Field(default=1.0, gt=0)
    floor: Unit = 0.0
    slo: Slo | None = None
    pin: str | None = None
    park: bool = False


class PrometheusConfig(Frozen):
    """A Prometheus server to ask. `bearer_token_file` and `ca_file` are paths. `selector`: label matchers of trimtab's own
    series; `gpu_selector`: those of the DCGM exporter's, which name the pod in labels of their own (default: `selector`).
    """

    url: str
    bearer_token_file: str | None = None
    ca_file: str | None = None
    selector: str = ""
    gpu_selector: str | None = None


class ControllerConfig(Frozen):
    """How often to look and how cautious to be. `stale_seconds`: an older reading counts as missing. `headroom`: share of
    a limit (and of an objective) that a restore must leave below the threshold that would undo it. `swaps_in_flight`:
    swaps in one plan, unless a trigger is saturated; a host carries them out one after another. `staged`: with several
    hosts a variant runs `stage_seconds` on one of them before the others follow. `verify_seconds`: how long a swap is
    watched; `verify_tolerance`: by which share an engine call may take longer than before and than predicted.
    `swaps_per_hour`: more wait, unless a trigger is saturated. `lead_seconds`: relief is planned when a budget or an
    objective would be reached within that and what a swap takes. `peak_seconds`: a restore must hold under the highest load
    of that long ago until now, longer after it was regretted; `season_seconds`: and under that of the last two seasons
    (None: a season is looked for). `retry_seconds`: a variant on which an objective broke is held to the rate at which it
    did for so long, twice as long each time that it breaks again."""

    tick_seconds: float = Field(default=1.0, gt=0)
    window_seconds: float = Field(default=10.0, gt=0)
    stale_seconds: float = Field(default=15.0, gt=0)
    cooldown_seconds: float = Field(default=10.0, ge=0)
    swaps_in_flight: int = Field(default=4, ge=1)
    quarantine_seconds: float = Field(default=600.0, ge=0)
    headroom: float = Field(default=0.05, ge=0, lt=1)
    staged: bool = True
    stage_seconds: float = Field(default=3.0, ge=0)
    verify_seconds: float = Field(default=30.0, ge=0)
    verify_tolerance: float = Field(default=2.0, ge=0)
    swaps_per_hour: int = Field(default=120, ge=1)
    lead_seconds: float = Field(default=3.0, ge=0)
    peak_seconds: float = Field(default=60.0, ge=0)
    retry_seconds: float = Field(default=300.0, ge=0)
    season_seconds: float | None = Field(default=None, gt=0)
    source: Literal["scrape", "prometheus"] = "scrape"
    prometheus: PrometheusConfig | None = None
    journal: str = "state/journal.jsonl"


class BatchLimits(Frozen):
    """Rows that hosts let a call have, below the model's own limit: of models that are named (None: the model's own), and
    of every other one."""

    every: int | None = None
    models: Mapping[str, int | None] = {}

    def of(self, model: str) -> int | None:
        """The hosts' limit for a model; None: they have none."""
        return self.models.get(model, self.every)


def _unlimited(limits: BatchLimits) -> bool:
    return limits.every is None and not any(limits.models.values())


class BudgetsConfig(Frozen):
    """Everything the controller is told. Hosts without batch limits leave no trace in what is written: journals from before
    there were any are still made again with the fingerprint of then."""

    controller: ControllerConfig = ControllerConfig()
    budgets: tuple[Budget, ...] = ()
    models: Mapping[str, ModelPolicy] = {}
    batches: BatchLimits = Field(default=BatchLimits(), exclude_if=_unlimited)

    @model_validator(mode="after")
    def _consistent(self) -> BudgetsConfig:
        names = [budget.name for budget in self.budgets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"budgets of the same name: {', '.join(twice)}; a name is for one budget, in whatever group"
            )
        if self.controller.source == "prometheus" and self.controller.prometheus is None:
            raise ValueError("controller.source is prometheus, but controller.prometheus.url is not given")
        for budget in self.budgets:
            memory = budget.resource in ("ram", "gpu_memory")
            if budget.scope == "trimtab" and not memory:
                raise ValueError(
                    f"budget {budget.name!r}: scope trimtab is for ram and gpu_memory, not {budget.resource}"
                )
            if budget.limit is not None and not memory:
                raise ValueError(f"budget {budget.name!r}: limit is in bytes; use limit_fraction for {budget.resource}")
            if budget.neighbours and (budget.scope, budget.resource) != ("trimtab", "ram"):
                raise ValueError(f"budget {budget.name!r}: neighbours count only for scope trimtab and resource ram")
        return self

    def thresholds(self) -> dict[str, Thresholds]:
        """Every trigger's thresholds by its name: budgets by their own, SLOs as `slo:<model>`."""
        slos = {f"slo:{name}": policy.slo for name, policy in self.models.items() if policy.slo is not None}
        return {**{b.name: b for b in self.budgets}, **slos}

    def groups(self) -> tuple[str, ...]:
        """The host groups that budgets name."""
        return tuple(sorted({b.group for b in self.budgets if b.group is not None}))

    def of(self, group: str, home: str = DEFAULT_GROUP) -> BudgetsConfig:
        """What holds in one host group; `home`: the group of the controller's own machine."""
        budgets = tuple(
            b if b.group == group or group == home or not b.neighbours else b.model_copy(update={"neighbours": ()})
            for b in self.budgets
            if b.group in (None, group)
        )
        return self if budgets == self.budgets else self.model_copy(update={"budgets": budgets})

    def policy(self, model: str) -> ModelPolicy:
        """The model's policy, or the default one."""
        return self.models.get(model, ModelPolicy())
