"""What trimtab's own collectors expose after some traffic and a swap: the real ones, in one process, without Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from budgets.config import Budget, BudgetsConfig, ModelPolicy, Neighbour, Slo
from budgets.metrics import ControllerMetrics
from budgets.plan import Decision, Memory, Plan, Pressure, Quarantine, Swap, Trigger
from budgets.snapshot import SwapRecord
from budgets.sources.neighbours import NeighbourCollector
from deployments.api import Assignment
from deployments.config import HostConfig
from deployments.gpu import GpuReading, Gpus
from deployments.host import ModelHost
from deployments.runtime_memory import RuntimeMemoryCollector
from variants.repository import load_catalog

CONFIG = BudgetsConfig(
    budgets=(
        Budget(name="ram", resource="ram", scope="trimtab", neighbours=(Neighbour(name="job", pid=os.getpid()),)),
    ),
    models={"alpha": ModelPolicy(slo=Slo(latency_seconds=0.5))},
)
SWAP = Swap(
    model="alpha", from_variant="full", to_variant="lite", direction="degrade", mode="make_before_break",
    bytes_planned=1, quality_from=1.0, quality_to=0.99, trigger="ram", reason="-",
)  # fmt: skip
RECORD = SwapRecord(
    generation=2, model="alpha", from_variant="full", to_variant="lite", mode="make_before_break", started=1.0,
    seconds=1.0, bytes_measured=1, outcome="done",
)  # fmt: skip
DECISION = Decision(
    at=1.0,
    snapshot=None,
    pressures=(Pressure(name="ram", ratio=0.5), Pressure(name="slo:alpha", ratio=0.5)),
    triggers=(Trigger(name="ram"), Trigger(name="slo:alpha")),
    plan=Plan(generation=2, assignment={"alpha": "lite"}, swaps=(SWAP,)),
    outcomes=(RECORD,),
    memory=Memory(quarantined=(Quarantine(model="alpha", variant="broken", reason="-", until=9.0),)),
)


async def _host(repository: Path) -> list[Sample]:
    """What a host exposes while it runs."""
    registry = CollectorRegistry()
    host = ModelHost(load_catalog(repository), HostConfig(threads=1), registry=registry, host_id="h")
    await host.start()
    try:
        await host.infer("alpha", {"x": np.zeros((1, 256), np.float32)}, protocol="http")
        host.apply(Assignment(2, {"alpha": "lite"}))
        while host.observe().observed_generation < 2:  # noqa: ASYNC110 - the test's own timeout bounds it
            await asyncio.sleep(0.01)
        return _samples(registry)
    finally:
        await host.stop()


def _controller() -> list[Sample]:
    """What a controller exposes after a tick."""
    registry = CollectorRegistry()
    registry.register(NeighbourCollector(CONFIG.budgets))
    registry.register(RuntimeMemoryCollector(os.getpid()))
    ControllerMetrics(registry, CONFIG).tick(DECISION, 0.1, {"ram": 1.0})
    return _samples(registry)


def _samples(registry: CollectorRegistry) -> list[Sample]:
    return [sample for family in registry.collect() for sample in family.samples]


@pytest.fixture(scope="session")
def exposed(affine_repository: Path) -> Mapping[str, set[str]]:
    """Sample name -> its labels, of every series that a host with a GPU and a controller expose."""
    gpu = GpuReading(0, 30, 100, 0.5, {os.getpid(): 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gpus, "read", lambda self: (gpu,))
        samples = [*asyncio.run(_host(affine_repository)), *_controller()]
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    return found
