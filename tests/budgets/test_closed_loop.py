"""The controller in a closed loop with a simulated machine: what hosts run decides what is read next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets import latency
from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy, Slo
from budgets.controller import Controller
from budgets.plan import Decision, Plan
from budgets.snapshot import HostState, Missing, ModelReadings, Reading, Readings, SwapRecord, Usage
from variants.catalog import (
    BatchProfile,
    Catalog,
    Entry,
    Lineage,
    Model,
    Profile,
    Source,
    TensorSpec,
    Variant,
)
from variants.pareto import ladder

MIB = 2**20
DEVICE = "machine"
Rungs = list[tuple[str, int, float, float]]  # name, MiB, quality, seconds


def catalog(models: Mapping[str, Rungs]) -> Catalog:
    entries = {}
    for name, rungs in models.items():
        spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
        model = Model(name=name, task="t", inputs=(spec,), outputs=(spec,), source=Source(onnx="m.onnx"))
        variants = {}
        for variant, mib, quality, seconds in rungs:
            profile = Profile(
                device=DEVICE,
                threads=1,
                resident_bytes=mib * MIB,
                load_seconds=0.1,
                warmup_seconds=0.0,
                batches=(
                    BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=1.2 * seconds, throughput=1 / seconds),
                ),
                quality=quality,
            )
            variants[variant] = Variant(
                name=variant,
                engine="openvino",
                precision="fp32",
                artefact="m.onnx",
                lineage=Lineage(technique=variant),
                profiles=(profile,),
            )
        entries[name] = Entry(model=model, variants=variants, ladder=ladder(name, variants, DEVICE), path=name)
    return Catalog(device=DEVICE, entries=entries)


@dataclass
class World:
    """Source, actuator and journal in one: a machine whose hosts obey at once and whose readings follow from it."""

    catalog: Catalog
    config: BudgetsConfig
    running: dict[str, str | None]
    base: int = 200 * MIB
    neighbour: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    hosts: int = 1
    missing: bool = False
    generation: int = 1
    swaps: list[SwapRecord] = field(default_factory=list)
    lines: list[Decision] = field(default_factory=list)
    refuse: set[tuple[str, str | None]] = field(default_factory=set)
    now: float = 0.0

    def resident(self) -> int:
        chosen = [self.catalog.entries[m].variants[v] for m, v in self.running.items() if v is not None]
        return sum(v.profiles[0].resident_bytes for v in chosen)

    def usage(self) -> int:
        return self.base + self.neighbour + self.hosts * self.resident()

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        self.now = now
        loads = {}
        for model, variant in self.running.items():
            if variant is not None and self.rates.get(model):
                profile = self.catalog.entries[model].variants[variant].profiles[0]
                loads[model] = latency.Load(self.rates[model] / self.hosts, *latency.service(profile))
        lines = []
        for model in self.running:
            rate = self.rates.get(model, 0.0)
            late = min(60.0, latency.quantile(loads, model, 0.99)) if model in loads else None
            service = loads[model].mean if model in loads else None
            lines.append(
                ModelReadings(
                    model=model,
                    rate=Reading(value=rate, at=now),
                    latency=Missing(reason="no traffic") if late is None else Reading(value=late, at=now),
                    queue=Reading(value=0, at=now),
                    busy=Reading(value=0, at=now),
                    service=Missing(reason="no traffic") if service is None else Reading(value=service, at=now),
                )
            )
        used = Missing(reason="endpoint down") if self.missing else Reading(value=self.usage(), at=now)
        budgets = tuple(
            Usage(budget=b.name, usage=used, limit=Reading(value=float(b.limit or 0), at=now))
            for b in self.config.budgets
        )
        return Readings(at=now, budgets=budgets, models=tuple(lines))

    async def aclose(self) -> None:
        pass

    async def observe(self) -> tuple[HostState, ...]:
        return tuple(
            HostState(
                host=f"h{i}",
                pid=i,
                at=0,
                observed_generation=self.generation,
                variants=dict(self.running),
                swaps=tuple(self.swaps[-20:]) if i == 0 else (),
            )
            for i in range(self.hosts)
        )

    async def apply(self, plan: Plan) -> None:
        assert plan.generation > self.generation
        self.generation = plan.generation
        for swap in plan.swaps:
            failed = (swap.model, swap.to_variant) in self.refuse
            self.swaps.append(
                SwapRecord(
                    generation=plan.generation,
                    model=swap.model,
                    from_variant=swap.from_variant,
                    to_variant=swap.to_variant,
                    mode=swap.mode,
                    started=self.now,
                    seconds=0.1,
                    bytes_measured=0 if failed else swap.bytes_planned,
                    outcome="rolled_back" if failed else "done",
                    reason="canary" if failed else "",
                )
            )
            if not failed:
                self.running[swap.model] = swap.to_variant

    def append(self, decision: Decision) -> None:
        self.lines.append(decision)

    def last(self) -> Decision | None:
        return self.lines[-1] if self.lines else None


class Run:
    """A controller in its world, tick by tick."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 1000.0
        self.controller = Controller(world.config, world.catalog, world, world, world)
        self.decisions: list[Decision] = []

    def ticks(self, count: int) -> list[Decision]:
        async def go() -> list[Decision]:
            made = []
            for _ in range(count):
                self.now += 1.0
                made.append(await self.controller.tick(self.now))
            return made

        made = asyncio.run(go())
        self.decisions += made
        assert not [d.error for d in made if d.error]
        return made


def config(limit_mib: int = 1000, **models: ModelPolicy) -> BudgetsConfig:
    ram = Budget(
        name="ram",
        resource="ram",
        scope="trimtab",
        limit=limit_mib * MIB,
        enter=0.9,
        exit=0.75,
        enter_seconds=1,
        exit_seconds=5,
    )
    controller = ControllerConfig(cooldown_seconds=3, window_seconds=5)
    return BudgetsConfig(controller=controller, budgets=(ram,), models=models)


LADDER: Rungs = [("fp32", 200, 1.0, 0.02), ("int8", 70, 0.98, 0.005), ("tiny", 30, 0.9, 0.002)]


def world(cfg: BudgetsConfig, models: Mapping[str, Rungs] | None = None, **fields: object) -> World:
    made = catalog(models or {"a": LADDER, "b": LADDER, "c": LADDER})
    running: dict[str, str | None] = {name: e.ladder.rungs[0] for name, e in made.entries.items()}
    return World(made, cfg, running, **fields)  # type: ignore[arg-type]


def test_a_neighbour_comes_and_goes() -> None:
    run = Run(world(config(), rates={"a": 5.0, "b": 5.0, "c": 5.0}))
    assert run.ticks(5)[-1].plan.swaps == ()
    run.world.neighbour = 150 * MIB
    run.ticks(15)
    assert run.world.usage() <= 0.9 * 1000 * MIB
    degraded = [s for d in run.decisions for s in d.plan.swaps]
    assert degraded
    assert {s.direction for s in degraded} == {"degrade"}
    run.world.neighbour = 0
    run.ticks(60)
    assert run.world.running == {"a": "fp32", "b": "fp32", "c": "fp32"}
    restored = [s for d in run.decisions for s in d.plan.swaps if s.direction == "restore"]
    assert [s.model for s in restored] == [s.model for s in reversed(degraded)]
    assert all(len(d.plan.swaps) <= 1 for d in run.decisions if d.plan.swaps and d.plan.swaps[0].direction == "restore")


def test_the_least_weighty_model_pays_first() -> None:
    run = Run(world(config(a=ModelPolicy(weight=10), b=ModelPolicy(weight=1), c=ModelPolicy(weight=10))))
    run.world.neighbour = 120 * MIB
    run.ticks(10)
    first = next(d.plan.swaps for d in run.decisions if d.plan.swaps)
    assert {s.model for s in first} == {"b"}


def test_a_rate_that_breaks_the_slo_and_falls_again() -> None:
    slo = Slo(latency_seconds=0.08, enter_seconds=1, exit_seconds=5)
    run = Run(world(config(2000, a=ModelPolicy(slo=slo)), rates={"a": 5.0, "b": 2.0}))
    run.ticks(10)
    assert run.world.running["a"] == "fp32"
    run.world.rates["a"] = 48.0
    run.ticks(20)
    assert run.world.running["a"] == "int8", "the nearest rung that is fast enough, not the cheapest"
    assert run.world.running["b"] == "fp32", "the late model is helped by its own step alone"
    run.ticks(60)
    assert run.world.running["a"] == "int8", "restoring would break the objective at this rate"
    run.world.rates["a"] = 2.0
    run.ticks(40)
    assert run.world.running["a"] == "fp32"


def test_a_model_that_started_below_its_best_rung_is_restored() -> None:
    made = world(config())
    made.running["b"] = "int8"
    run = Run(made)
    run.ticks(30)
    assert run.world.running == {"a": "fp32", "b": "fp32", "c": "fp32"}


def test_missing_readings_justify_nothing() -> None:
    run = Run(world(config()))
    run.ticks(3)
    run.world.neighbour, run.world.missing = 500 * MIB, True
    assert not [d for d in run.ticks(30) if d.plan.swaps]
    run.world.missing = False
    run.ticks(10)
    run.world.neighbour, run.world.missing = 0, True
    before = dict(run.world.running)
    assert before != {"a": "fp32", "b": "fp32", "c": "fp32"}
    assert not [d for d in run.ticks(60) if d.plan.swaps]
    assert run.world.running == before


def test_a_variant_that_fails_is_left_alone_and_another_one_taken() -> None:
    run = Run(world(config(), {"a": LADDER, "b": [("fp32", 200, 1.0, 0.02)]}))
    run.world.refuse = {("a", "int8")}
    run.world.base = 500 * MIB
    run.ticks(30)
    tried = [(s.model, s.to_variant) for d in run.decisions for s in d.plan.swaps]
    assert tried.count(("a", "int8")) == 1
    assert run.world.running["a"] == "tiny"
    assert any("canary" in q.reason for q in run.decisions[-1].memory.quarantined)


def test_pins_outrank_pressure_and_survive_a_new_controller() -> None:
    run = Run(world(config()))
    run.ticks(2)
    run.controller.pin("a", "int8")
    run.ticks(3)
    assert run.world.running["a"] == "int8"
    again = Run(run.world)
    again.now = run.now
    again.ticks(5)
    assert again.controller.pins == {"a": "int8"}
    again.world.neighbour = 400 * MIB
    again.ticks(20)
    assert again.world.running["a"] == "int8"
    again.world.neighbour = 0
    again.controller.unpin("a")
    again.ticks(60)
    assert again.world.running == {"a": "fp32", "b": "fp32", "c": "fp32"}


rungs = st.lists(
    st.tuples(st.integers(20, 300), st.floats(0.5, 1.0), st.floats(0.0005, 0.03)), min_size=1, max_size=4
).map(lambda items: [(f"v{i}", *item) for i, item in enumerate(items)])


@settings(max_examples=60, deadline=None)
@given(
    models=st.dictionaries(st.sampled_from("abcdef"), rungs, min_size=1, max_size=5),
    neighbour=st.integers(0, 900),
    floors=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.0, 1.0), max_size=3),
    hosts=st.integers(1, 2),
)
def test_constant_pressure(models: dict[str, Rungs], neighbour: int, floors: dict[str, float], hosts: int) -> None:
    """Under constant input: no flapping, no budget exceeded that a feasible choice keeps, no floor broken."""
    policies = {name: ModelPolicy(floor=floor) for name, floor in floors.items() if name in models}
    made = world(config(1500, **policies), models, neighbour=neighbour * MIB, hosts=hosts)
    start = dict(made.running)
    run = Run(made)
    run.ticks(40)
    swaps = [s for d in run.decisions for s in d.plan.swaps]
    for swap in swaps:
        assert swap.quality_to >= policies.get(swap.model, ModelPolicy()).floor
        assert swap.direction == "degrade", "nothing changed, so nothing may be taken back"
    seen = [(s.model, s.to_variant) for s in swaps]
    assert len(seen) == len(set(seen))
    enter = 0.9 * 1500 * MIB
    lowest = 0
    for name, entry in made.catalog.entries.items():
        sizes = [
            entry.variants[v].profiles[0].resident_bytes
            for v in {*entry.ladder.rungs, start[name]}
            if v == start[name] or entry.variants[str(v)].profiles[0].quality >= policies.get(name, ModelPolicy()).floor
        ]
        lowest += min(sizes)
    if made.base + made.neighbour + hosts * lowest < enter:
        assert made.usage() <= enter
    steady = run.ticks(30)
    assert not [d for d in steady if d.plan.swaps]


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(1.0, 400.0), objective=st.floats(0.01, 0.5))
def test_constant_rate_does_not_flap(rate: float, objective: float) -> None:
    slo = Slo(latency_seconds=objective, enter_seconds=1, exit_seconds=5)
    run = Run(world(config(3000, a=ModelPolicy(slo=slo)), rates={"a": rate, "b": 1.0}))
    run.ticks(200)
    moves = [(s.model, s.to_variant) for d in run.decisions for s in d.plan.swaps]
    assert len(moves) == len(set(moves))


@pytest.mark.parametrize("hosts", [1, 2])
def test_bytes_planned_are_what_a_host_gives_back(hosts: int) -> None:
    run = Run(world(config(1000 * hosts), hosts=hosts))
    run.world.neighbour = 200 * hosts * MIB
    run.ticks(10)
    for swap in (s for d in run.decisions for s in d.plan.swaps):
        sizes = {v: p.profiles[0].resident_bytes for v, p in run.world.catalog.entries[swap.model].variants.items()}
        assert swap.bytes_planned == sizes[str(swap.from_variant)] - sizes[str(swap.to_variant)]
