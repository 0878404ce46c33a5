"""A machine that is not there, under the real controller: what the page is shown is decided and told by the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgets import explain, latency
from budgets.config import DEFAULT_GROUP, Budget, BudgetsConfig, ControllerConfig, ModelPolicy, Slo
from budgets.controller import Controller
from budgets.groups import Groups
from budgets.plan import Decision, Plan
from budgets.planner import plan
from budgets.ports import Actuator
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, SwapRecord, Usage
from variants.catalog import BatchProfile, Catalog, Entry, Ladder, Lineage, Model, Profile, Source, TensorSpec, Variant
from variants.errors import InvalidInput

MIB = 2**20
DEVICE = "machine"
#: name -> rungs of (variant, MiB, quality, seconds of a call), best first
MODELS: Mapping[str, list[tuple[str, int, float, float]]] = {
    "minilm": [
        ("fp32", 164, 1.0, 0.017),
        ("bf16", 158, 0.999, 0.0073),
        ("int8", 91, 0.997, 0.0049),
        ("distil-int8", 46, 0.894, 0.0026),
    ],
    "docstring-topic": [("fp32", 168, 0.913, 0.0182), ("int8", 94, 0.909, 0.0051)],
    "digits-vit": [("fp32", 88, 0.972, 0.0061), ("int8", 31, 0.967, 0.0019)],
    "wine": [("fp32", 4, 0.981, 0.0003), ("int8", 2, 0.972, 0.0002)],
}
RATES = {"minilm": 8.0, "docstring-topic": 6.0, "digits-vit": 12.0, "wine": 1.5}
LIMIT = 1024 * MIB
BASE = 380 * MIB


def catalog() -> Catalog:
    """The models above, profiled on this device."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    entries = {}
    for name, rungs in MODELS.items():
        model = Model(name=name, task="t", inputs=(spec,), outputs=(spec,), source=Source(onnx="m.onnx"))
        ladder = Ladder(model=name, rungs=tuple(r[0] for r in rungs))
        entries[name] = Entry(model=model, variants={r[0]: _variant(*r) for r in rungs}, ladder=ladder, path=name)
    return Catalog(device=DEVICE, entries=entries)


def _variant(name: str, mib: int, quality: float, seconds: float) -> Variant:
    batch = BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=1.2 * seconds, throughput=1 / seconds)
    profile = Profile(
        device=DEVICE,
        threads=1,
        resident_bytes=mib * MIB,
        load_seconds=0.1,
        warmup_seconds=0.0,
        batches=(batch,),
        quality=quality,
    )
    return Variant(
        name=name,
        engine="openvino",
        precision="fp32",
        artefact="m.onnx",
        lineage=Lineage(technique=name),
        profiles=(profile,),
    )


def settings() -> BudgetsConfig:
    """A RAM budget of 1 GiB, a CPU budget, and an objective for two models."""
    thresholds: dict[str, Any] = {"enter": 0.9, "exit": 0.75, "enter_seconds": 1, "exit_seconds": 6}
    return BudgetsConfig(
        controller=ControllerConfig(cooldown_seconds=4, window_seconds=5, peak_seconds=4),
        budgets=(
            Budget(name="ram", resource="ram", scope="trimtab", limit=LIMIT, **thresholds),
            Budget(name="cpu", resource="cpu", **thresholds),
        ),
        models={
            "minilm": ModelPolicy(weight=3, floor=0.9, slo=Slo(latency_seconds=0.1)),
            "docstring-topic": ModelPolicy(weight=2, slo=Slo(latency_seconds=0.25)),
        },
    )


def record(decision: Decision) -> dict[str, Any]:
    """A decision as `/admin/v1/decisions` gives it."""
    dumped = decision.model_dump(mode="json", include={"at", "triggers", "pressures", "outcomes", "error"})
    made = decision.plan.model_dump(mode="json", include={"generation", "swaps", "holds"})
    words = [explain.sentence(s) for s in decision.plan.swaps] + [explain.outcome(o) for o in decision.outcomes]
    return {**dumped, **made, "sentences": words}


class Stage:
    """Source, actuator and journal of a controller, in one. Hosts obey at once; readings follow from what they run."""

    def __init__(self, start: float, group: str = DEFAULT_GROUP) -> None:
        self.catalog, self.config = catalog(), settings()
        self.now = start
        self.group = group
        self.neighbour = 0
        self.wobble = 0.004  # what readings sway by, as a share
        self.rates = dict(RATES)
        self.missing: set[str] = set()
        self.unloaded: set[str] = set()
        self.refuses: set[tuple[str, str | None]] = set()
        self.lines: list[Decision] = []
        self.latest: Decision | None = None
        self._running: dict[str, str | None] = {n: e.ladder.rungs[0] for n, e in self.catalog.entries.items()}
        self._generation = 1
        self._swaps: list[SwapRecord] = []
        self.controller = Controller(self.config, self.catalog, self, self, self)

    async def ticks(self, count: int, seconds: float = 1.0) -> None:
        """That many ticks of the controller, so many seconds of its time apart."""
        for _ in range(count):
            self.now += seconds
            self.latest = await self.controller.tick(self.now)

    @property
    def orders(self) -> Any:
        """Takes what people ask for."""
        return self.controller.orders

    def status(self) -> dict[str, Any]:
        """As `/admin/v1/status` gives it."""
        return self.controller.answers.status()

    def plan(self) -> dict[str, Any]:
        """As `/admin/v1/plan` gives it. Raises InvalidInput before the first tick."""
        if self.latest is None or self.latest.snapshot is None:
            raise InvalidInput("the controller has not seen the hosts yet")
        last, now = self.latest, self.now
        assert last.snapshot is not None
        made = plan(self.catalog, last.snapshot, last.pressures, last.triggers, self.config, last.memory, now)
        return {"now": now, **made.model_dump(mode="json", include={"swaps", "holds", "assignment"})}

    def records(self) -> list[dict[str, Any]]:
        """All decisions, newest first, as `/admin/v1/decisions` gives them."""
        return [record(d) for d in reversed(self.lines)]

    def profile(self, model: str, variant: str) -> Profile:
        return self.catalog.entries[model].variants[variant].profiles[0]

    # Source

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        on = {m: self.profile(m, v) for m, v in self._running.items() if v is not None}
        loads = {m: latency.Load(self.rates[m], *latency.service(p)) for m, p in on.items()}
        wobble = 1 + self.wobble * ((now * 7) % 3 - 1)
        used = (BASE + self.neighbour + sum(p.resident_bytes for p in on.values())) * wobble
        busy = min(1.0, latency.utilisation(loads))
        values = {"ram": (used, float(LIMIT)), "cpu": (busy, 1.0)}
        budgets = tuple(
            Usage(
                budget=name,
                usage=Missing(reason="its endpoint does not answer")
                if name in self.missing
                else Reading(value=value, at=now),
                limit=Reading(value=limit, at=now),
            )
            for name, (value, limit) in values.items()
        )
        models = tuple(self._model(m, loads.get(m), now, wobble) for m in self._running)
        return Readings(at=now, budgets=budgets, models=models)

    def _model(self, model: str, load: latency.Load | None, now: float, wobble: float) -> ModelReadings:
        def seen(value: float) -> Observed:
            return Reading(value=value, at=now)

        idle: Observed = Missing(reason="no traffic")
        if load is None:
            return ModelReadings(model=model, rate=seen(0), latency=idle, queue=seen(0), busy=seen(0), service=idle)
        all_loads = {
            m: latency.Load(self.rates[m], *latency.service(self.profile(m, v))) for m, v in self._running.items() if v
        }
        return ModelReadings(
            model=model,
            rate=seen(load.rate * (1 + 8 * (wobble - 1))),
            latency=seen(min(60.0, latency.quantile(all_loads, model, 0.99)) * wobble),
            queue=seen(0),
            busy=seen(load.rate * load.mean),
            service=seen(load.mean),
        )

    def reconfigure(self, config: BudgetsConfig) -> None:
        self.config = config

    async def aclose(self) -> None:
        pass

    # Actuator

    async def observe(self) -> tuple[HostState, ...]:
        return (
            HostState(
                host=f"{self.group}-0",
                group=self.group,
                pid=4711,
                at=self.now,
                observed_generation=self._generation,
                variants=dict(self._running),
                swaps=tuple(self._swaps[-20:]),
                unloaded=tuple(sorted(self.unloaded)),
            ),
        )

    async def apply(self, plan: Plan) -> None:
        self._generation = plan.generation
        for swap in plan.swaps:
            failed = (swap.model, swap.to_variant) in self.refuses
            self._swaps.append(
                SwapRecord(
                    generation=plan.generation,
                    model=swap.model,
                    from_variant=swap.from_variant,
                    to_variant=swap.to_variant,
                    mode=swap.mode,
                    started=self.now,
                    seconds=0.42,
                    bytes_measured=0 if failed else int(swap.bytes_planned * 0.97),
                    outcome="rolled_back" if failed else "done",
                    reason="canary: outputs differ by 0.31" if failed else "",
                )
            )
            if not failed:
                self._running[swap.model] = swap.to_variant

    # Journal

    def append(self, decision: Decision) -> None:
        self.lines.append(decision)

    def last(self) -> Decision | None:
        return self.lines[-1] if self.lines else None


class TwoGroups:
    """A stage for each of two host groups, under the real controller of groups. What is changed is changed in `small`."""

    def __init__(self, start: float) -> None:
        self.stages = {name: Stage(start, name) for name in (DEFAULT_GROUP, "small")}
        self.small = self.stages["small"]

        def make(group: str, config: BudgetsConfig, arm: Actuator) -> Controller:
            stage = self.stages[group]
            stage.controller = Controller(config, stage.catalog, stage, arm, stage)
            return stage.controller

        self.controller = Groups(settings(), make, self)

    async def ticks(self, count: int, seconds: float = 1.0) -> None:
        """See `Stage.ticks`."""
        for _ in range(count):
            for stage in self.stages.values():
                stage.now += seconds
            for group, decision in (await self.controller.tick(self.small.now)).items():
                self.stages[group].latest = decision

    @property
    def orders(self) -> Any:
        """See `Stage.orders`; for all groups."""
        return self.controller

    def status(self) -> dict[str, Any]:
        """See `Stage.status`."""
        return self.controller.status()

    def plan(self) -> dict[str, Any]:
        """See `Stage.plan`."""
        told = {group: stage.plan() for group, stage in self.stages.items() if stage.latest is not None}
        return {**told[DEFAULT_GROUP], "groups": told}

    def records(self) -> list[dict[str, Any]]:
        """See `Stage.records`; each names its group."""
        found = [{"group": group, **r} for group, stage in self.stages.items() for r in stage.records()]
        return sorted(found, key=lambda r: -r["at"])

    # Fleet

    async def observe(self) -> tuple[HostState, ...]:
        return tuple([host for stage in self.stages.values() for host in await stage.observe()])

    async def apply(self, made: Plan, group: str, others: Mapping[str, Plan]) -> None:
        await self.stages[group].apply(made)
