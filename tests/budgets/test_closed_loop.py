"""The controller in a closed loop with a simulated machine: what hosts run decides what is read next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budgets import latency
from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy, Slo
from budgets.controller import Controller
from budgets.journal import FileJournal, records
from budgets.plan import Decision, Plan
from budgets.rerun import replay_journal
from budgets.snapshot import (
    Counted,
    HostState,
    Missing,
    ModelReadings,
    Reading,
    Readings,
    Staged,
    SwapRecord,
    Usage,
)
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
    staged: dict[str, Staged] = field(default_factory=dict)
    slow: dict[tuple[str, str], float] = field(default_factory=dict)  # factor on a variant's profiled seconds
    broken: set[tuple[str, str]] = field(default_factory=set)  # variants whose every call fails
    counts: dict[tuple[int, str, str], Counted] = field(default_factory=dict)

    def on(self, host: int) -> dict[str, str | None]:
        """What one host runs."""
        trials = {m: s.variant for m, s in self.staged.items() if f"h{host}" in s.hosts}
        return {**self.running, **trials}

    def resident(self, host: int = 0) -> int:
        chosen = [self.catalog.entries[m].variants[v] for m, v in self.on(host).items() if v is not None]
        return sum(v.profiles[0].resident_bytes for v in chosen)

    def usage(self) -> int:
        return self.base + self.neighbour + sum(self.resident(i) for i in range(self.hosts))

    def seconds(self, model: str, variant: str) -> float:
        profile = self.catalog.entries[model].variants[variant].profiles[0]
        return self.slow.get((model, variant), 1.0) * profile.batches[0].p50_seconds

    def serve(self) -> None:
        """One second of requests."""
        for host in range(self.hosts):
            for model, variant in self.on(host).items():
                requests = round(self.rates.get(model, 0.0) / self.hosts)
                if variant is None or not requests:
                    continue
                before = self.counts.get((host, model, variant), Counted(variant=variant))
                bad = requests if (model, variant) in self.broken else 0
                self.counts[(host, model, variant)] = Counted(
                    variant=variant,
                    answered=before.answered + requests - bad,
                    errors=before.errors + bad,
                    engine_seconds=before.engine_seconds + requests * self.seconds(model, variant),
                    samples=before.samples + requests,
                )

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        self.now = now
        loads = {}
        for model, variant in self.running.items():
            if variant is not None and self.rates.get(model):
                profile = self.catalog.entries[model].variants[variant].profiles[0]
                factor = self.slow.get((model, variant), 1.0)
                loads[model] = latency.Load(self.rates[model] / self.hosts, *latency.service(profile, factor=factor))
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
                variants=self.on(i),
                swaps=tuple(self.swaps[-20:]) if i == 0 else (),
                counts={
                    m: self.counts.get((i, m, v), Counted(variant=v)) for m, v in self.on(i).items() if v is not None
                },
            )
            for i in range(self.hosts)
        )

    async def apply(self, plan: Plan) -> None:
        assert plan.generation > self.generation
        self.generation = plan.generation
        self.staged = dict(plan.staged)
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
            if failed:
                self.staged.pop(swap.model, None)
            elif swap.stage != "first":
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
                self.world.serve()
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
    controller = ControllerConfig(cooldown_seconds=3, window_seconds=5, peak_seconds=8, verify_tolerance=0.5)
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
    run.controller.orders.pin("a", "int8")
    run.ticks(3)
    assert run.world.running["a"] == "int8"
    again = Run(run.world)
    again.now = run.now
    again.ticks(5)
    assert again.controller.orders.pins == {"a": "int8"}
    again.world.neighbour = 400 * MIB
    again.ticks(20)
    assert again.world.running["a"] == "int8"
    again.world.neighbour = 0
    again.controller.orders.unpin("a")
    again.ticks(60)
    assert again.world.running == {"a": "fp32", "b": "fp32", "c": "fp32"}


rungs = st.lists(
    st.tuples(st.integers(20, 300), st.floats(0.5, 1.0), st.floats(0.0005, 0.03)), min_size=1, max_size=4
).map(lambda items: [(f"v{i}", *item) for i, item in enumerate(items)])


QUICK_STEP_WENT_TOO_FAR = {
    "a": [("v0", 20, 0.5, 0.015625), ("v1", 105, 0.75, 0.015625), ("v2", 255, 1.0, 0.015625)],
    "b": [("v0", 58, 1.0, 0.015625)],
    "c": [("v0", 61, 1.0, 0.015625)],
    "d": [("v0", 20, 0.875, 0.015625), ("v1", 170, 1.0, 0.015625)],
}


@settings(max_examples=60, deadline=None)
@given(
    models=st.dictionaries(st.sampled_from("abcdef"), rungs, min_size=1, max_size=5),
    neighbour=st.integers(0, 900),
    floors=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.0, 1.0), max_size=3),
    hosts=st.integers(1, 2),
)
@example(models=QUICK_STEP_WENT_TOO_FAR, neighbour=288, floors={}, hosts=2)
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
        # Nothing changed, so nothing may be taken back; the joint plan after a quick step may find it went too far.
        assert swap.direction == "degrade" or swap.reason.startswith("reconsidered")
        assert swap.to_variant != start[swap.model]
    seen = [(s.model, s.to_variant) for s in swaps if s.stage != "rest"]
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
        assert swap.bytes_planned == abs(sizes[str(swap.from_variant)] - sizes[str(swap.to_variant)])


def verdicts(run: Run) -> list[tuple[str, str | None, str]]:
    return [(v.model, v.to_variant, v.result) for d in run.decisions for v in d.verdicts]


def pressed_world(**fields: object) -> World:
    """`a` must step down; nothing else can."""
    fields.setdefault("rates", {"a": 20.0, "b": 5.0})
    return world(config(), {"a": LADDER, "b": [("fp32", 200, 1.0, 0.001)]}, base=520 * MIB, **fields)


def test_a_swap_that_holds_is_kept_with_prediction_and_measurement() -> None:
    run = Run(pressed_world())
    run.ticks(50)
    assert verdicts(run) == [("a", "int8", "kept")]
    (kept,) = (v for d in run.decisions for v in d.verdicts)
    assert kept.bytes_predicted == kept.bytes_measured == 130 * MIB
    assert kept.usage_before["ram"] - kept.usage_after["ram"] == 130 * MIB
    assert (kept.service_before, kept.service_predicted) == (0.02, 0.005)
    assert kept.service_observed == pytest.approx(0.005)
    assert kept.latency_observed == pytest.approx(kept.latency_predicted)
    assert kept.errors == 0.0
    assert run.decisions[-1].memory.verifying == ()


@pytest.mark.parametrize("fault", ["errors", "latency"])
def test_a_variant_that_does_not_hold_is_rolled_back_and_put_aside_for_good(fault: str) -> None:
    made = pressed_world()
    if fault == "errors":
        made.broken = {("a", "int8")}
    else:
        made.slow = {("a", "int8"): 8.0}  # 40 ms a call, slower than the 20 ms of fp32
    run = Run(made)
    run.ticks(60)
    assert run.world.running["a"] == "tiny", "the next rung gives the relief"
    assert verdicts(run)[0] == ("a", "int8", "rolled_back")
    back = next(s for d in run.decisions for s in d.plan.swaps if s.direction == "rollback")
    assert (back.from_variant, back.to_variant) == ("int8", "fp32")
    assert fault in back.reason
    (put_aside,) = run.decisions[-1].memory.quarantined
    assert (put_aside.model, put_aside.variant, put_aside.until) == ("a", "int8", None)
    assert put_aside.reason == back.reason
    again = Run(run.world)  # a new controller remembers
    again.now = run.now + 10_000.0
    again.ticks(60)
    assert ("a", "int8") not in [(s.model, s.to_variant) for d in again.decisions for s in d.plan.swaps]


def test_a_slowdown_that_everyone_sees_is_not_the_variants_fault() -> None:
    run = Run(pressed_world())
    run.ticks(3)
    assert run.world.running["a"] == "int8"
    for model, entry in run.world.catalog.entries.items():
        run.world.slow.update({(model, variant): 8.0 for variant in entry.variants})
    run.ticks(40)
    assert [v for v in verdicts(run) if v[2] == "rolled_back"] == []
    assert run.world.running["a"] == "int8"


def test_one_host_goes_first() -> None:
    made = world(
        config(2000, a=ModelPolicy(weight=0.1)), hosts=2, base=660 * MIB, rates={"a": 20.0, "b": 20.0, "c": 20.0}
    )
    run = Run(made)
    run.ticks(40)
    swaps = [s for d in run.decisions for s in d.plan.swaps]
    assert [(s.model, s.to_variant, s.stage, s.hosts) for s in swaps] == [
        ("a", "int8", "first", ("h0",)),
        ("a", "int8", "rest", ()),
    ]
    assert [v[2] for v in verdicts(run)] == ["promoted", "kept"]
    assert run.world.staged == {}
    assert run.world.running["a"] == "int8"


def test_what_fails_on_the_first_host_never_reaches_the_others() -> None:
    made = world(
        config(2000, a=ModelPolicy(weight=0.1)), hosts=2, base=660 * MIB, rates={"a": 20.0, "b": 20.0, "c": 20.0}
    )
    made.broken = {("a", "int8")}
    run = Run(made)
    before = 0
    for _ in range(40):
        run.ticks(1)
        before += run.world.on(1)["a"] == "int8"
    assert before == 0
    assert verdicts(run)[0] == ("a", "int8", "rolled_back")
    assert run.world.usage() <= 0.9 * 2000 * MIB


def test_a_used_up_budget_does_not_wait_for_trials() -> None:
    made = world(config(2000), hosts=2, base=660 * MIB)
    run = Run(made)
    run.ticks(3)
    assert run.world.staged
    run.world.neighbour = 200 * MIB
    run.ticks(3)
    assert run.world.staged == {}
    assert run.world.usage() < 2000 * MIB


def swaps_of(run: Run) -> list[tuple[str, str | None, str]]:
    return [(s.model, s.to_variant, s.direction) for d in run.decisions for s in d.plan.swaps]


def sawtooth(run: Run, periods: int, period: int, height: int) -> None:
    for _ in range(periods):
        for second in range(period):
            run.world.neighbour = height * second // period * MIB
            run.ticks(1)


@pytest.mark.parametrize("period", [20, 90])
def test_a_sawtooth_at_the_threshold_does_not_flap(period: int) -> None:
    """It crosses the threshold once a period. Without looking ahead every period would cost two swaps; with it, swaps
    end once the season is known or regrets have made the lookback longer than it."""
    run = Run(world(config(), rates={"a": 5.0, "b": 5.0, "c": 5.0}))
    sawtooth(run, 5, period, 160)
    before = len(swaps_of(run))
    assert before <= 6
    sawtooth(run, 8, period, 160)
    assert len(swaps_of(run)) == before
    assert run.world.usage() <= 1000 * MIB
    run.world.neighbour = 0
    run.ticks(900)
    assert run.world.running == {"a": "fp32", "b": "fp32", "c": "fp32"}, "when it has ended, all is restored"


def test_a_slow_leak_is_met_before_the_budget_is_used_up() -> None:
    """30 MiB/s goes from the threshold to the limit within three ticks."""
    run = Run(world(config(), base=0))
    most = 0
    for second in range(18):
        run.world.neighbour = 30 * second * MIB
        run.ticks(1)
        most = max(most, run.world.usage())
    assert most < 1000 * MIB
    first = next(s for d in run.decisions for s in d.plan.swaps)
    assert first.ahead


def test_a_single_spike_changes_nothing() -> None:
    run = Run(world(config()))
    for second in range(60):
        run.world.neighbour = 150 * MIB if second in (20, 40) else 0
        run.ticks(1)
    assert swaps_of(run) == []


def test_the_journal_of_a_run_replays_byte_for_byte(tmp_path: Path) -> None:
    made = world(config(a=ModelPolicy(slo=Slo(latency_seconds=0.08))), rates={"a": 5.0, "b": 5.0, "c": 5.0})
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path)
    made.append = journal.append  # type: ignore[method-assign]
    run = Run(made)
    run.ticks(20)
    made.neighbour = 250 * MIB
    run.ticks(30)
    made.rates["a"] = 48.0
    run.ticks(30)
    made.neighbour, made.rates["a"] = 0, 3.0
    run.controller.orders.pin("c", "tiny")
    run.ticks(60)
    lines = list(replay_journal(path, made.catalog))
    assert len(lines) > 10
    assert {line.same for line in lines} == {True}
    assert len({s.direction for d in records(path) for s in d.plan.swaps}) >= 3
    assert sum(d.config is not None for d in records(path)) == 1
    other = catalog({"a": LADDER})
    assert {line.why for line in replay_journal(path, other)} == {"configuration or catalog are not those of then"}
