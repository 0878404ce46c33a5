"""The embedded source against live metrics endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy, Neighbour, Slo
from budgets.snapshot import HostState, Missing, ModelReadings, Observed, Reading, Readings, Usage
from budgets.sources.scrape import ScrapeSource

MIB = 2**20
T = 1000.0
NEIGHBOUR = Neighbour(name="etl", pid=1)
BUDGETS = (
    Budget(name="own", resource="ram", scope="trimtab", limit=900 * MIB),
    Budget(name="node", resource="ram"),
    Budget(name="half", resource="ram", limit_fraction=0.5),
    Budget(name="cpu", resource="cpu", limit_fraction=0.8),
    Budget(name="gpu", resource="gpu_memory"),
    Budget(name="gpu-busy", resource="gpu_utilization"),
)
CONFIG = BudgetsConfig(
    controller=ControllerConfig(window_seconds=5),
    budgets=BUDGETS,
    models={"a": ModelPolicy(slo=Slo(latency_seconds=1, quantile=0.5))},
)
HostOf = Callable[[Any], HostState]


@pytest.fixture
async def source() -> AsyncIterator[ScrapeSource]:
    made = ScrapeSource(CONFIG)
    yield made
    await made.aclose()


def usage(readings: Readings, budget: str) -> Usage:
    return next(u for u in readings.budgets if u.budget == budget)


def model(readings: Readings, name: str) -> ModelReadings:
    return next(m for m in readings.models if m.model == name)


def value(observed: Observed) -> float:
    assert isinstance(observed, Reading), observed
    return observed.value


async def test_budgets_are_read_at_the_first_scrape(source: ScrapeSource, exporter: Any, host_of: HostOf) -> None:
    seen = await source.read(T, (host_of(exporter),))
    own, node, half = usage(seen, "own"), usage(seen, "node"), usage(seen, "half")
    assert own.usage == Reading(value=300 * MIB, at=T)
    assert own.limit == Reading(value=900 * MIB, at=T)
    assert (value(node.usage), value(node.limit)) == (700 * MIB, 1000 * MIB)
    assert (value(half.usage), value(half.limit)) == (700 * MIB, 500 * MIB)
    assert (value(usage(seen, "cpu").usage), value(usage(seen, "cpu").limit)) == (0.25, 0.8)
    assert isinstance(usage(seen, "gpu").usage, Missing)
    assert isinstance(usage(seen, "gpu-busy").usage, Missing)


async def test_rates_and_latencies_need_a_second_scrape(source: ScrapeSource, exporter: Any, host_of: HostOf) -> None:
    exporter.answered("a", "fp32", 1000, 0.9)
    first = await source.read(T, (host_of(exporter),))
    assert isinstance(model(first, "a").rate, Missing)
    exporter.answered("a", "fp32", 30, 0.1)
    exporter.answered("a", "int8", 10, 0.1)
    exporter.answered("b", "fp32", 0, 0.0)
    exporter.queue.labels("a").set(4)
    seen = await source.read(T + 2, (host_of(exporter),))
    a, b = model(seen, "a"), model(seen, "b")
    assert value(a.rate) == 20
    assert value(a.queue) == 4
    assert value(a.busy) == pytest.approx(40 * 0.05 / 2)
    assert value(a.service) == pytest.approx(0.05)
    assert value(a.latency) == pytest.approx(0.1, rel=0.25)
    assert value(b.rate) == 0
    assert isinstance(b.latency, Missing)


async def test_two_hosts_are_summed(source: ScrapeSource, exporter: Any, second_exporter: Any, host_of: HostOf) -> None:
    hosts = (host_of(exporter), host_of(second_exporter))
    for e in (exporter, second_exporter):
        e.answered("a", "fp32", 0, 0.0)
        e.queue.labels("a").set(2)
    await source.read(T, hosts)
    for e in (exporter, second_exporter):
        e.answered("a", "fp32", 10, 0.1)
    seen = await source.read(T + 1, hosts)
    assert value(model(seen, "a").rate) == 20
    assert value(model(seen, "a").queue) == 4
    assert value(usage(seen, "own").usage) == 600 * MIB
    assert value(usage(seen, "node").usage) == 700 * MIB  # one node, seen twice


async def test_a_host_that_does_not_answer_makes_sums_missing_never_partial(
    source: ScrapeSource, exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    hosts = (host_of(exporter), host_of(second_exporter))
    exporter.answered("a", "fp32", 5, 0.1)
    await source.read(T, hosts)
    second_exporter.up = False
    seen = await source.read(T + 1, hosts)
    missing = usage(seen, "own").usage
    assert isinstance(missing, Missing)
    assert second_exporter.url in missing.reason
    assert "503" in missing.reason
    assert isinstance(model(seen, "a").rate, Missing)
    second_exporter.up = True
    seen = await source.read(T + 2, hosts)
    assert value(usage(seen, "own").usage) == 600 * MIB


async def test_an_answer_that_is_no_exposition_is_missing(source: ScrapeSource, exporter: Any, host_of: HostOf) -> None:
    exporter.extra = b"trimtab_node_cpu_utilization not-a-number\n"
    seen = await source.read(T, (host_of(exporter),))
    missing = usage(seen, "cpu").usage
    assert isinstance(missing, Missing)
    assert exporter.url in missing.reason


async def test_a_host_that_left_is_forgotten(
    source: ScrapeSource, exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    await source.read(T, (host_of(exporter), host_of(second_exporter)))
    seen = await source.read(T + 1, (host_of(exporter),))
    assert value(usage(seen, "own").usage) == 300 * MIB
    seen = await source.read(T + 2, ())
    assert seen.models == ()
    assert all(isinstance(u.usage, Missing) for u in seen.budgets)


async def test_a_neighbour_counts_only_when_it_is_measured(exporter: Any, host_of: HostOf) -> None:
    budget = Budget(name="own", resource="ram", scope="trimtab", limit=900 * MIB, neighbours=(NEIGHBOUR,))
    source = ScrapeSource(BudgetsConfig(budgets=(budget,)))
    try:
        missing = usage(await source.read(T, (host_of(exporter),)), "own").usage
        assert isinstance(missing, Missing)
        assert "etl" in missing.reason
        exporter.neighbour.labels("etl").set(50 * MIB)
        exporter.neighbour.labels("somebody else's").set(70 * MIB)
        assert value(usage(await source.read(T + 1, (host_of(exporter),)), "own").usage) == 350 * MIB
    finally:
        await source.aclose()


async def test_extra_targets_bring_the_gpus_metrics(exporter: Any, second_exporter: Any, host_of: HostOf) -> None:
    """Names that NVIDIA's DCGM exporter uses: MiB and percent. The fullest GPU counts."""
    second_exporter.extra = (
        b'DCGM_FI_DEV_FB_USED{gpu="0"} 1000\nDCGM_FI_DEV_FB_FREE{gpu="0"} 3000\n'
        b'DCGM_FI_DEV_FB_USED{gpu="1"} 1500\nDCGM_FI_DEV_FB_FREE{gpu="1"} 500\n'
        b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 40\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 75\n'
    )
    source = ScrapeSource(CONFIG, extra_targets=[second_exporter.url])
    try:
        seen = await source.read(T, (host_of(exporter),))
        gpu = usage(seen, "gpu")
        assert (value(gpu.usage), value(gpu.limit)) == (1500 * MIB, 2000 * MIB)
        assert value(usage(seen, "gpu-busy").usage) == 0.75
    finally:
        await source.aclose()


async def test_our_own_gpu_readings_come_first(source: ScrapeSource, exporter: Any, host_of: HostOf) -> None:
    exporter.extra = (
        b'trimtab_gpu_memory_used_bytes{gpu="0"} 3e9\ntrimtab_gpu_memory_limit_bytes{gpu="0"} 8e10\n'
        b'trimtab_gpu_utilization{gpu="0"} 0.5\nray_node_gpus_utilization 12\n'
    )
    seen = await source.read(T, (host_of(exporter),))
    gpu = usage(seen, "gpu")
    assert (value(gpu.usage), value(gpu.limit)) == (3e9, 8e10)
    assert value(usage(seen, "gpu-busy").usage) == 0.5


async def test_a_silent_endpoint_does_not_hold_up_a_tick(
    source: ScrapeSource, exporter: Any, host_of: HostOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()

    source._client.timeout = 0.2
    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    silent = host_of(exporter).model_copy(update={"metrics_url": f"http://127.0.0.1:{port}/metrics"})
    try:
        seen = await asyncio.wait_for(source.read(T, (host_of(exporter), silent)), 5)
    finally:
        await source.aclose()
        await asyncio.wait_for(closed.wait(), 5)
        server.close()
        await server.wait_closed()
    missing = usage(seen, "own").usage
    assert isinstance(missing, Missing)
    assert "Timeout" in missing.reason


async def test_of_the_processes_on_other_endpoints_those_of_the_group_count(
    exporter: Any, second_exporter: Any, host_of: HostOf
) -> None:
    second_exporter.extra = (
        f'trimtab_process_memory_bytes{{pid="8",role="control"}} {7 * MIB}\n'
        f'trimtab_process_memory_bytes{{pid="9",role="runtime",host_group="gpu"}} {5 * MIB}\n'
    ).encode()
    for group, expected in (("default", 300 + 300 + 7), ("gpu", 5)):
        made = ScrapeSource(CONFIG, extra_targets=(second_exporter.url,), group=group)
        seen = await made.read(T, (host_of(exporter),))
        assert value(usage(seen, "own").usage) == expected * MIB
        await made.aclose()
