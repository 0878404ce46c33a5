"""Small catalogs and snapshots to decide over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy
from budgets.plan import Memory, Plan, Pressure, Trigger
from budgets.planner import plan
from budgets.pressure import History, assess
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, Snapshot, Usage
from variants.catalog import BatchProfile, Catalog, Entry, Ladder, Lineage, Model, Profile, Source, TensorSpec, Variant

MIB = 2**20
DEVICE = "machine"
NOW = 1_000.0

#: name, MiB resident, quality, seconds of a call; best rung first
Rung = tuple[str, int, float, float]
CatalogOf = Callable[[Mapping[str, list[Rung]]], Catalog]


def _variant(name: str, mib: int, quality: float, seconds: float) -> Variant:
    profile = Profile(
        device=DEVICE,
        threads=1,
        resident_bytes=mib * MIB,
        load_seconds=0.1,
        warmup_seconds=0.0,
        batches=(BatchProfile(batch=1, p50_seconds=seconds, p99_seconds=1.2 * seconds, throughput=1 / seconds),),
        quality=quality,
    )
    lineage = Lineage(technique=name)
    return Variant(
        name=name, engine="openvino", precision="fp32", artefact="m.onnx", lineage=lineage, profiles=(profile,)
    )


def _catalog(models: Mapping[str, list[Rung]]) -> Catalog:
    entries = {}
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    for name, rungs in models.items():
        entries[name] = Entry(
            model=Model(name=name, task="t", inputs=(spec,), outputs=(spec,), source=Source(onnx="m.onnx")),
            variants={rung[0]: _variant(*rung) for rung in rungs},
            ladder=Ladder(model=name, rungs=tuple(rung[0] for rung in rungs)),
            path=name,
        )
    return Catalog(device=DEVICE, entries=entries)


@pytest.fixture(scope="session")
def catalog_of() -> CatalogOf:
    """A catalog whose ladders are the rungs as given."""
    return _catalog


@pytest.fixture(scope="session")
def three() -> Catalog:
    """Three models, `a`, `b` and `c`, of the same ladder: fp32 (200 MiB), int8 (70 MiB), tiny (30 MiB)."""
    ladder: list[Rung] = [("fp32", 200, 1.0, 0.02), ("int8", 70, 0.98, 0.005), ("tiny", 30, 0.9, 0.002)]
    return _catalog({"a": ladder, "b": ladder, "c": ladder})


class Desk:
    """One decision at a time: set what is seen, then `plan()`."""

    def __init__(self, catalog: Catalog, **policies: ModelPolicy) -> None:
        self.catalog = catalog
        self.ram = Budget(name="ram", resource="ram", scope="trimtab", limit=1000 * MIB, enter=0.9, exit=0.75)
        self.controller = ControllerConfig(cooldown_seconds=3, window_seconds=5)
        self.policies = policies
        self.assignment: dict[str, str | None] = {n: e.ladder.rungs[0] for n, e in catalog.entries.items()}
        self.running: list[dict[str, str | None]] | None = None
        self.usage: Observed = Reading(value=600 * MIB, at=NOW)
        self.rates: dict[str, Observed] = {}
        self.latencies: dict[str, Observed] = {}
        self.states: dict[str, str] = {}
        self.memory = Memory()
        self.pins: dict[str, str | None] = {}
        self.observed = 7
        self.swapping: tuple[str, ...] = ()
        self.shapes: dict[str, int] = {}

    @property
    def config(self) -> BudgetsConfig:
        return BudgetsConfig(controller=self.controller, budgets=(self.ram,), models=self.policies)

    @property
    def snapshot(self) -> Snapshot:
        hosts = tuple(
            HostState(
                host=f"h{i}",
                pid=i,
                at=NOW,
                observed_generation=self.observed,
                variants=variants,
                swapping=self.swapping,
                shapes=self.shapes,
            )
            for i, variants in enumerate(self.running if self.running is not None else [self.assignment])
        )
        lines = tuple(
            ModelReadings(
                model=model,
                rate=self.rates.get(model, Reading(value=0.0, at=NOW)),
                latency=self.latencies.get(model, Missing(reason="no traffic")),
                queue=Reading(value=0, at=NOW),
                busy=Reading(value=0, at=NOW),
                service=Missing(reason="no traffic"),
            )
            for model in self.catalog.entries
        )
        usage = Usage(budget="ram", usage=self.usage, limit=Reading(value=float(self.ram.limit or 0), at=NOW))
        readings = Readings(at=NOW, budgets=(usage,), models=lines)
        return Snapshot(
            at=NOW, readings=readings, hosts=hosts, generation=7, assignment=self.assignment, pins=self.pins
        )

    @property
    def pressures(self) -> tuple[Pressure, ...]:
        return assess(self.snapshot.readings, self.config, History())

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        return tuple(
            Trigger.model_validate({"name": name, "state": self.states.get(name, "calm")})
            for name in self.config.thresholds()
        )

    def plan(self) -> Plan:
        return plan(self.catalog, self.snapshot, self.pressures, self.triggers, self.config, self.memory, NOW)

    def holds(self, made: Plan | None = None) -> str:
        """All reasons of a plan's holds, one a line."""
        made = made or self.plan()
        return "\n".join(f"{h.model} {h.variant}: {h.reason}" for h in made.holds)


@pytest.fixture
def desk(three: Catalog) -> Callable[..., Desk]:
    """A desk over a catalog (default: `three`) with the policies given."""

    def make(catalog: Catalog | None = None, **policies: Any) -> Desk:
        return Desk(catalog or three, **policies)

    return make


@pytest.fixture
def pressed(desk: Callable[..., Any]) -> Any:
    d = desk()
    d.usage, d.states = Reading(value=985 * MIB, at=NOW), {"ram": "scaling"}
    return d
