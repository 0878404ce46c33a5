"""The Prometheus source, and the controller on it, against a real Prometheus server that scrapes live endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budgets.batches import serving
from budgets.config import (
    Budget,
    BudgetsConfig,
    ControllerConfig,
    ModelPolicy,
    Neighbour,
    PrometheusConfig,
    Slo,
)
from budgets.controller import Controller
from budgets.journal import FileJournal
from budgets.plan import Plan
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, SwapRecord, Usage
from budgets.sources.prometheus import PrometheusSource
from budgets.sources.scrape import ScrapeSource
from variants.catalog import Catalog
from variants.errors import ConfigError

MIB = 2**20
BUDGETS = (
    Budget(name="own", resource="ram", scope="trimtab", limit=900 * MIB, neighbours=(Neighbour(name="etl", pid=1),)),
    Budget(name="node", resource="ram", limit_fraction=0.5),
    Budget(name="cpu", resource="cpu"),
    Budget(name="gpu", resource="gpu_memory"),
    Budget(name="gpu-busy", resource="gpu_utilization"),
)
MODELS = {"a": ModelPolicy(slo=Slo(latency_seconds=1, quantile=0.9))}
HostOf = Callable[[Any], HostState]
StartOf = Callable[..., Any]


def config(url: str, budgets: tuple[Budget, ...] = BUDGETS, **controller: Any) -> BudgetsConfig:
    server = PrometheusConfig(url=url, selector='app="mine"')
    settings = ControllerConfig(
        **{"window_seconds": 10, "peak_seconds": 0, "source": "prometheus", "prometheus": server, **controller}
    )
    return BudgetsConfig(controller=settings, budgets=budgets, models=MODELS)


def usage(readings: Readings, budget: str) -> Usage:
    return next(u for u in readings.budgets if u.budget == budget)


def model(readings: Readings, name: str) -> ModelReadings:
    return next(m for m in readings.models if m.model == name)


def value(observed: Observed) -> float:
    assert isinstance(observed, Reading), observed
    return observed.value


async def until(source: PrometheusSource, hosts: tuple[HostState, ...], seen: Callable[[Readings], bool]) -> Readings:
    """The first readings of which `seen` holds; scrapes are a second apart."""
    deadline = time.monotonic() + 20
    while True:
        readings = await source.read(time.time(), hosts)
        if seen(readings) or time.monotonic() > deadline:
            return readings
        await asyncio.sleep(0.3)


def present(observed: Observed) -> bool:
    return isinstance(observed, Reading)


async def test_readings_agree_with_the_scraped_ones(
    prometheus: StartOf, exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    exporter.neighbour.labels("etl").set(50 * MIB)
    second_exporter.extra = (
        b'DCGM_FI_DEV_FB_USED{gpu="0"} 1000\nDCGM_FI_DEV_FB_FREE{gpu="0"} 3000\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} 40\n'
    )
    hosts = (host_of(exporter), host_of(second_exporter))
    exporters = (exporter, second_exporter)
    for e in exporters:
        e.answered("a", "fp32", 1, 0.1)
        e.answered("b", "fp32", 0, 0.1)
    server = prometheus(*exporters)
    source, scrape = PrometheusSource(config(server.url)), ScrapeSource(config(server.url))
    try:
        first = await until(source, hosts, lambda r: present(usage(r, "own").usage) and present(model(r, "a").rate))
        assert value(model(first, "a").rate) == 0
        started = time.time()
        await scrape.read(started, hosts)
        while time.time() < started + 6:  # a steady 40 requests per second over both hosts
            for e in exporters:
                e.answered("a", "fp32", 4, 0.2)
            await asyncio.sleep(0.2)
        theirs = await source.read(time.time(), hosts)
        ours = await scrape.read(time.time(), hosts)
        for name in ("own", "node", "cpu", "gpu", "gpu-busy"):
            assert value(usage(theirs, name).usage) == pytest.approx(value(usage(ours, name).usage)), name
            assert value(usage(theirs, name).limit) == pytest.approx(value(usage(ours, name).limit)), name
        assert value(usage(theirs, "own").usage) == 650 * MIB
        assert value(usage(theirs, "node").limit) == 500 * MIB
        assert value(usage(theirs, "gpu").usage) == 1000 * MIB
        a, b = model(theirs, "a"), model(theirs, "b")
        assert value(a.latency) == pytest.approx(value(model(ours, "a").latency), rel=0.05)
        assert value(a.latency) == pytest.approx(0.2, rel=0.25)
        assert value(a.service) == pytest.approx(0.1, rel=0.02)
        assert value(a.rate) == pytest.approx(value(model(ours, "a").rate), rel=0.5)
        assert value(b.rate) == 0
        assert isinstance(b.latency, Missing)
        assert value(a.queue) == 0
    finally:
        await source.aclose()
        await scrape.aclose()


async def test_a_host_that_is_down_makes_the_sum_missing(
    prometheus: StartOf, exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    server = prometheus(exporter, second_exporter)
    exporter.neighbour.labels("etl").set(MIB)
    hosts = (host_of(exporter), host_of(second_exporter))
    source = PrometheusSource(config(server.url))
    try:
        # Hosts are scraped one after the other: in the first moment one of them may be the only one there is.
        there = await until(
            source, hosts, lambda r: isinstance(u := usage(r, "own").usage, Reading) and u.value > 301 * MIB
        )
        assert value(usage(there, "own").usage) == 601 * MIB
        second_exporter.up = False
        gone = await until(source, hosts, lambda r: not present(usage(r, "own").usage))
        missing = usage(gone, "own").usage
        assert isinstance(missing, Missing)
        assert "1 of 2 hosts" in missing.reason
    finally:
        await source.aclose()


async def test_a_selector_keeps_other_applications_out(prometheus: StartOf, exporter: Any, host_of: HostOf) -> None:
    server = prometheus(exporter)
    seen = config(server.url)
    other = PrometheusConfig(url=server.url, selector='app="other"')
    controller = seen.controller.model_copy(update={"prometheus": other})
    ours, theirs = PrometheusSource(seen), PrometheusSource(seen.model_copy(update={"controller": controller}))
    try:
        await until(ours, (host_of(exporter),), lambda r: present(usage(r, "node").usage))
        missing = usage(await theirs.read(time.time(), (host_of(exporter),)), "node").usage
        assert isinstance(missing, Missing)
        assert 'app="other"' in missing.reason
    finally:
        await ours.aclose()
        await theirs.aclose()


async def test_each_group_reads_its_own_hosts(
    prometheus: StartOf, exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    exporter.neighbour.labels("etl").set(50 * MIB)
    second_exporter.extra = (
        f'trimtab_process_memory_bytes{{pid="9",role="host",host_group="gpu"}} {90 * MIB}\n'
        f'trimtab_node_memory_used_bytes{{host_group="gpu"}} {20 * MIB}\n'
        'trimtab_queue_depth{model="b",host_group="gpu"} 7\n'
    ).encode()
    exporter.answered("a", "fp32", 1, 0.1)
    server = prometheus(exporter, second_exporter)
    one, two = (host_of(exporter), host_of(second_exporter)), (host_of(second_exporter),)
    default, gpu = PrometheusSource(config(server.url)), PrometheusSource(config(server.url), group="gpu")
    try:
        # Each target is scraped at a time of its own: what is compared must all be there.
        ours = await until(default, one, lambda r: present(usage(r, "own").usage) and bool(r.models))
        theirs = await until(
            gpu,
            two,
            lambda r: (
                all(present(usage(r, budget).usage) for budget in ("own", "node"))
                and value(usage(r, "own").usage) > 90 * MIB
                and any(present(m.queue) and present(m.rate) for m in r.models)
            ),
        )
        assert value(usage(ours, "own").usage) == 650 * MIB
        assert value(usage(theirs, "own").usage) == 140 * MIB, (
            "the neighbours a budget names are in it, whoever measures them"
        )
        assert value(usage(theirs, "node").usage) == 20 * MIB
        assert [m.model for m in ours.models] == ["a"]
        assert [(m.model, value(m.queue), value(m.rate)) for m in theirs.models] == [("b", 7, 0)]
    finally:
        await default.aclose()
        await gpu.aclose()


async def test_the_dcgm_exporter_names_pods_in_labels_of_its_own() -> None:
    server = PrometheusConfig(url="http://p", selector='job="ml/trimtab"', gpu_selector='{exported_pod=~"trimtab-.+"}')
    source = PrometheusSource(BudgetsConfig(controller=ControllerConfig(source="prometheus", prometheus=server)))
    assert source.metric("DCGM_FI_DEV_FB_USED") == 'DCGM_FI_DEV_FB_USED{exported_pod=~"trimtab-.+"}'
    assert source.metric("trimtab_pressure") == 'trimtab_pressure{job="ml/trimtab",host_group=""}'
    await source.aclose()


async def test_a_query_that_the_server_refuses_is_missing_with_its_words(
    prometheus: StartOf, exporter: Any, host_of: HostOf
) -> None:
    server = prometheus(exporter)
    wrong = PrometheusConfig(url=server.url, selector="app=mine")
    source = PrometheusSource(config(server.url, prometheus=wrong))
    try:
        missing = usage(await source.read(time.time(), (host_of(exporter),)), "node").usage
        assert isinstance(missing, Missing)
        assert "parse error" in missing.reason
    finally:
        await source.aclose()


def test_what_is_not_readable_is_named_at_the_start(tmp_path: Path) -> None:
    server = PrometheusConfig(url="http://127.0.0.1:1", bearer_token_file=str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="token: No such file"):
        PrometheusSource(config(server.url, prometheus=server))


class Actuator:
    """One host that does what a plan says, at once; its memory is what the exporter shows."""

    def __init__(self, catalog: Catalog, exporter: Any, host: HostState) -> None:
        self._sizes = {
            (n, v.name): v.profiles[0].resident_bytes for n, e in catalog.entries.items() for v in e.variants.values()
        }
        self._exporter = exporter
        self.neighbour = 0
        self.host = host.model_copy(update={"variants": {n: e.ladder.rungs[0] for n, e in catalog.entries.items()}})
        self.applied: list[Plan] = []
        self.expose()

    def expose(self) -> None:
        resident = sum(self._sizes[(m, str(v))] for m, v in self.host.variants.items())
        self._exporter.memory.labels(self._exporter.pid, "host").set(resident + self.neighbour)

    async def observe(self) -> tuple[HostState, ...]:
        return (self.host.model_copy(update={"at": time.time()}),)

    async def apply(self, plan: Plan) -> None:
        self.applied.append(plan)
        before = self.host.variants
        records = tuple(
            SwapRecord(
                generation=plan.generation,
                model=m,
                from_variant=before[m],
                to_variant=v,
                mode="make_before_break",
                started=time.time(),
                seconds=0.01,
                bytes_measured=abs(self._sizes[(m, str(before[m]))] - self._sizes[(m, str(v))]),
                outcome="done",
            )
            for m, v in plan.assignment.items()
            if before[m] != v
        )
        self.host = self.host.model_copy(
            update={
                "variants": dict(plan.assignment),
                "observed_generation": plan.generation,
                "swaps": (*self.host.swaps, *records),
            }
        )
        self.expose()


async def test_the_controller_degrades_and_restores_on_it_and_holds_still_without_it(
    prometheus: StartOf, exporter: Any, host_of: HostOf, three: Catalog, tmp_path: Path
) -> None:
    for name in three.entries:
        exporter.answered(name, "fp32", 0, 0.1)
    server = prometheus(exporter)
    ram = Budget(name="ram", resource="ram", scope="trimtab", limit=800 * MIB, enter_seconds=0, exit_seconds=1)
    seen = config(server.url, (ram,), cooldown_seconds=0, stale_seconds=5, window_seconds=4)
    actuator = Actuator(three, exporter, host_of(exporter))
    source = PrometheusSource(seen)
    controller = Controller(seen, three, source, actuator, FileJournal(tmp_path / "journal.jsonl"))
    best = dict(actuator.host.variants)
    actuator.host = actuator.host.model_copy(update={"serving": serving(three, seen, best)})

    async def ticking(done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            decision = await controller.tick(time.time())
            assert decision.error == "", decision.error
            await asyncio.sleep(0.25)
        return done()

    def reading() -> float | None:
        return next((b["ratio"] for b in controller.answers.status().get("budgets", []) if b["name"] == "ram"), None)

    try:
        assert await ticking(lambda: reading() == pytest.approx(0.75), 20)  # calm: 600 of 800 MiB
        assert actuator.applied == []
        actuator.neighbour = 170 * MIB
        actuator.expose()
        assert await ticking(lambda: bool(actuator.applied), 20)
        assert await ticking(lambda: (reading() or 9) < 0.9, 20)
        degraded = dict(actuator.host.variants)
        assert degraded != best
        actuator.neighbour = 0
        actuator.expose()
        assert await ticking(lambda: dict(actuator.host.variants) == best, 30)
        settled = len(actuator.applied)
        server.stop()
        actuator.neighbour = 300 * MIB  # nobody sees it
        actuator.expose()
        await ticking(lambda: False, 2)
        assert len(actuator.applied) == settled
        explained = controller.answers.status()["budgets"][0]
        assert explained["ratio"] is None
        assert "prometheus: ConnectError" in str(explained)
    finally:
        await source.aclose()
