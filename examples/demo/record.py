"""What happened in a run: everything that the report and the timeline are made of. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from budgets.plan import Decision, TriggerState
from server.settings import Settings
from variants.catalog import Frozen


class Answer(NamedTuple):
    """One answered request: when it was to be sent, its model, seconds until the answer was there and checked, the
    variant that answered, and the protocol (http, grpc)."""

    due: float
    model: str
    seconds: float
    variant: str
    protocol: str


class Failure(NamedTuple):
    """One request that got an error, a wrong answer or none."""

    due: float
    model: str
    protocol: str
    error: str


class Gauge(Frozen):
    """One budget or SLO (`slo:<model>`) as the controller saw it. `ratio` None: the reading was missing."""

    ratio: float | None
    usage: float | None
    limit: float | None
    state: TriggerState


class Moment(Frozen):
    """The server at one tick. `variants`: what the hosts run (None: parked). `causes`: the trigger that a model was last
    degraded for, until it is restored."""

    at: float
    gauges: Mapping[str, Gauge]
    variants: Mapping[str, str | None]
    swapping: tuple[str, ...] = ()
    causes: Mapping[str, str] = {}


class Rung(Frozen):
    """One variant of a model's ladder by its profile."""

    variant: str
    quality: float
    resident_bytes: int


class ModelFacts(Frozen):
    """What the run knew of a model beforehand; `rungs` are its ladder, best first."""

    weight: float
    floor: float
    slo_seconds: float | None
    rungs: tuple[Rung, ...]

    def quality(self, variant: str | None) -> float:
        """Quality of a variant on the ladder; 0 when parked or unknown."""
        return next((r.quality for r in self.rungs if r.variant == variant), 0.0)

    def rung(self, variant: str | None) -> int | None:
        """Place on the ladder, 0 the best; None when it is not on it."""
        return next((i for i, r in enumerate(self.rungs) if r.variant == variant), None)


class Bounds(Frozen):
    """A trigger's thresholds."""

    enter: float
    exit: float


class Phase(Frozen):
    """One pressure phase. `trigger`: the budget or `slo:<model>` put under pressure; `pressed`: when the pressure began;
    `eased`: when it was taken away; `variants`: what ran at its start."""

    name: str
    kind: Literal["memory", "latency"]
    trigger: str
    started: float
    pressed: float
    eased: float | None
    ended: float
    variants: Mapping[str, str | None]

    @property
    def model(self) -> str | None:
        """The model whose SLO is under pressure."""
        return self.trigger.removeprefix("slo:") if self.trigger.startswith("slo:") else None


class Recording(Frozen):
    """One run. `problems`: turns that did not happen, and why; `neighbour`: (time, bytes it held)."""

    started: float
    ended: float
    models: Mapping[str, ModelFacts]
    bounds: Mapping[str, Bounds]
    sent: int
    answers: tuple[Answer, ...]
    failures: tuple[Failure, ...]
    traffic_cpu_seconds: float = 0.0
    moments: tuple[Moment, ...]
    neighbour: tuple[tuple[float, int], ...] = ()
    phases: tuple[Phase, ...]
    decisions: tuple[Decision, ...]
    problems: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json())

    @classmethod
    def read(cls, path: Path) -> Recording:
        """What `save` wrote. Raises OSError, pydantic.ValidationError."""
        return cls.model_validate_json(path.read_bytes())


def moment(status: Mapping[str, Any]) -> Moment | None:
    """The answer of `GET /admin/v1/status` as a Moment; None before the controller's first look."""
    hosts = status["hosts"]
    if status["at"] is None or not hosts:
        return None
    gauges = {
        b["name"]: Gauge(ratio=b["ratio"], usage=b["usage"], limit=b["limit"], state=b["state"])
        for b in status["budgets"]
    }
    swapping = sorted({model for host in hosts for model in host["swapping"]})
    causes = {name: model["cause"] for name, model in status["models"].items() if model["cause"] is not None}
    return Moment(at=status["at"], gauges=gauges, variants=_running(hosts), swapping=tuple(swapping), causes=causes)


def _running(hosts: list[Mapping[str, Any]]) -> dict[str, str | None]:
    """What all hosts run; where they differ, a swap is on its way through them, and what the last one runs counts."""
    running: dict[str, str | None] = {}
    for host in hosts:
        running.update(host["variants"])
    return running


def facts(status: Mapping[str, Any], settings: Settings) -> dict[str, ModelFacts]:
    """What the status and the configuration say of each model."""
    made = {}
    for name, model in status["models"].items():
        policy = settings.budgets_config().policy(name)
        rungs = [
            Rung(variant=r["variant"], quality=r["quality"], resident_bytes=r["resident_bytes"])
            for r in model["ladder"]
            if r["quality"] is not None
        ]
        slo = policy.slo.latency_seconds if policy.slo else None
        made[name] = ModelFacts(weight=policy.weight, floor=policy.floor, slo_seconds=slo, rungs=tuple(rungs))
    return made
