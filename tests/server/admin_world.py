"""A real control loop on hosts and readings of plain Python, for tests of what is built on it. No Ray, no ports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgets.batches import serving
from budgets.config import BudgetsConfig
from budgets.controller import Controller
from budgets.groups import Groups
from budgets.journal import FileJournal, journal_of
from budgets.plan import Plan
from budgets.ports import Actuator
from budgets.snapshot import HostState, Missing, ModelReadings, Reading, Readings, SwapRecord, Usage
from budgets.sources.neighbours import NeighbourCollector
from deployments.control import ControlLoop
from deployments.endpoint import Endpoint
from server.settings import Settings
from variants.catalog import (
    BatchProfile,
    Catalog,
    Entry,
    Ladder,
    Lineage,
    Model,
    Profile,
    Source,
    TensorSpec,
    Variant,
)

MIB = 2**20
DEVICE = "test"
SIZES = {"fp32": (100, 1.0), "int8": (40, 0.97)}


def entry(name: str) -> Entry:
    """A model of two rungs: fp32 (100 MiB) and int8 (40 MiB)."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    model = Model(name=name, task="test", inputs=(spec,), outputs=(spec,), source=Source(onnx="none"))
    variants = {}
    for variant, (mib, quality) in SIZES.items():
        batch = BatchProfile(batch=1, p50_seconds=0.001, p99_seconds=0.002, throughput=1000)
        profile = Profile(
            device=DEVICE,
            threads=1,
            resident_bytes=mib * MIB,
            load_seconds=0.1,
            warmup_seconds=0.1,
            batches=(batch,),
            quality=quality,
        )
        variants[variant] = Variant(
            name=variant,
            engine="onnx",
            precision="fp32",
            artefact="none",
            files={"none": ""},
            lineage=Lineage(technique=variant),
            profiles=(profile,),
        )
    return Entry(model=model, variants=variants, ladder=Ladder(model=name, rungs=tuple(SIZES)), path="/nonexistent")


class World:
    """Source and actuator of one host that follows every plan at once. `fails`: what does not load."""

    def __init__(self, catalog: Catalog, config: BudgetsConfig) -> None:
        self.config = config
        self.generation = 1
        self.variants: dict[str, str | None] = dict.fromkeys(catalog.entries, "fp32")
        self.serving = serving(catalog, config, self.variants)
        self.used_mib = 100.0
        self.fails: set[tuple[str, str | None]] = set()
        self.records: list[SwapRecord] = []
        self.clock = 0.0
        self.orders: list[tuple[str, str]] = []

    async def read(self, now: float, hosts: tuple[HostState, ...]) -> Readings:
        self.clock = now
        used, none, idle = (
            Reading(value=self.used_mib * MIB, at=now),
            Missing(reason="no traffic"),
            Reading(value=0, at=now),
        )
        budgets = tuple(
            Usage(budget=b.name, usage=used, limit=Reading(value=b.limit or 1000 * MIB, at=now))
            for b in self.config.budgets
        )
        models = tuple(
            ModelReadings(model=m, rate=idle, latency=none, queue=idle, busy=idle, service=none) for m in self.variants
        )
        return Readings(at=now, budgets=budgets, models=models)

    def reconfigure(self, config: BudgetsConfig) -> None:
        self.config = config

    async def aclose(self) -> None:
        pass

    async def observe(self) -> tuple[HostState, ...]:
        return (
            HostState(
                host="h0",
                pid=1,
                at=self.clock,
                observed_generation=self.generation,
                variants=dict(self.variants),
                swaps=tuple(self.records),
                serving=self.serving,
            ),
        )

    async def order(self, action: str, model: str) -> None:
        self.orders.append((action, model))

    async def apply(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        self.generation = plan.generation
        self.serving = {**self.serving, **plan.serving}
        for model, variant in plan.assignment.items():
            if self.variants[model] == variant:
                continue
            failed = (model, variant) in self.fails
            self.records.append(
                SwapRecord(
                    generation=plan.generation,
                    model=model,
                    from_variant=self.variants[model],
                    to_variant=variant,
                    mode="make_before_break",
                    started=self.clock + 0.001,
                    seconds=0.001,
                    bytes_measured=MIB,
                    outcome="rolled_back" if failed else "done",
                    reason="canary" if failed else "",
                )
            )
            if not failed:
                self.variants[model] = variant


class Rig:
    """A control loop over a `World`; start it inside an event loop with `async with`."""

    def __init__(self, settings: Settings, world: type[World] = World) -> None:
        self.catalog = Catalog(device=DEVICE, entries={name: entry(name) for name in ("minilm", "wine")})
        config = settings.budgets_config()
        self.world = world(self.catalog, config)
        self.journal = Path(config.controller.journal)

        def controller(group: str, budgets: BudgetsConfig, arm: Actuator) -> Controller:
            journal = FileJournal(journal_of(self.journal, group))
            return Controller(budgets, self.catalog, self.world, arm, journal)

        groups = Groups(config, controller, self.world)
        endpoint = Endpoint("http://127.0.0.1:1/metrics", lambda: None)
        self.control = ControlLoop(groups, endpoint, NeighbourCollector(config.budgets), self.catalog, self.world)

    async def __aenter__(self) -> Rig:
        self.control.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.control.close()

    async def until(self, condition: Any, seconds: float = 20.0) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def document(folder: Path, **server: Any) -> dict[str, Any]:
    """A configuration: a RAM budget of 1000 MiB, quick ticks, two models."""
    return {
        "repository": str(folder / "models"),
        "server": server,
        "controller": {"tick_seconds": 0.05, "cooldown_seconds": 0.2, "journal": str(folder / "journal.jsonl")},
        "budgets": [
            {
                "name": "ram",
                "resource": "ram",
                "scope": "trimtab",
                "limit": 1000 * MIB,
                "enter_seconds": 0,
                "exit_seconds": 0,
            }
        ],
        "models": {"minilm": {"weight": 3}},
    }
