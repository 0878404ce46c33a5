"""What a host exposes."""

from __future__ import annotations

import os

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from budgets import exposition as names
from deployments.api import Assignment
from deployments.gpu import GpuReading, Gpus
from deployments.tally import Histogram
from variants.errors import DeadlineExceeded, InvalidInput, Unavailable


def sample(lab, name, **labels):
    return lab.registry.get_sample_value(name, labels)


async def test_requests_engines_and_variants(lab, x):
    host = await lab.start(a={}, b={})
    await host.infer("a", x(3), protocol="http")
    await host.infer("a", x(2), protocol="grpc")
    gate = lab.gate("b")
    with pytest.raises(DeadlineExceeded):
        await host.infer("b", x(), timeout_seconds=0.05)
    gate.set()
    late = {"model": "b", "variant": "best"}
    assert sample(lab, names.REQUESTS, **late, code="DeadlineExceeded", protocol="direct") == 1
    assert sample(lab, names.REQUEST_DURATION + "_sum", **late) >= 0.05  # overload must not look fast
    with pytest.raises(InvalidInput):
        await host.infer("a", x(9), protocol="grpc")
    on = {"model": "a", "variant": "best"}
    assert sample(lab, names.REQUESTS, **on, code="ok", protocol="http") == 1
    assert sample(lab, names.REQUESTS, **on, code="ok", protocol="grpc") == 1
    assert sample(lab, names.REQUESTS, **on, code="InvalidInput", protocol="grpc") == 1
    assert sample(lab, names.REQUEST_DURATION + "_count", **on) == 2
    assert sample(lab, names.REQUEST_DURATION + "_bucket", **on, le="+Inf") == 2
    assert sample(lab, names.REQUEST_DURATION + "_sum", **on) > 0
    assert sample(lab, names.QUEUE_DURATION + "_count", model="a") == 2
    assert sample(lab, names.QUEUE_DEPTH, model="a") == 0
    assert sample(lab, names.BATCH_SIZE + "_bucket", model="a", le="2.0") == 1
    assert sample(lab, names.BATCH_SIZE + "_sum", model="a") == 5
    assert sample(lab, names.ENGINE_SAMPLES, **on) == 5
    assert sample(lab, names.ENGINE_SECONDS, **on) > 0
    assert sample(lab, names.RESIDENT, **on) == 300_000_000
    assert sample(lab, names.IN_FORCE, **on) == 1
    assert sample(lab, names.IN_FORCE, model="a", variant="cheap") == 0
    assert sample(lab, names.QUALITY, model="a") == 1.0
    assert sample(lab, names.RUNG, model="a") == 0


async def test_swaps(lab, settled):
    host = await lab.start()
    host.apply(Assignment(4, {"a": "cheap"}))
    await settled(host, 4)
    lab.load_fails = {"best": "corrupt"}
    host.apply(Assignment(5, {"a": "best"}))
    await settled(host, 5)
    assert sample(lab, names.SWAPS, model="a", direction="degrade", outcome="done") == 1
    assert sample(lab, names.SWAPS, model="a", direction="restore", outcome="rolled_back") == 1
    assert sample(lab, names.SWAP_DURATION + "_count", model="a", mode="make_before_break") == 2
    assert sample(lab, names.OBSERVED_GENERATION) == 5
    assert sample(lab, names.IN_FORCE, model="a", variant="cheap") == 1
    assert sample(lab, names.QUALITY, model="a") == 0.9
    assert sample(lab, names.RESIDENT, model="a", variant="cheap") == 100_000_000
    assert sample(lab, names.RESIDENT, model="a", variant="best") is None
    assert sample(lab, names.RUNG, model="a") == 2
    host.apply(Assignment(6, {"a": None}))
    await settled(host, 6)
    assert sample(lab, names.RUNG, model="a") == 3
    assert sample(lab, names.IN_FORCE, model="a", variant="cheap") == 0
    await host.unload("a")
    assert sample(lab, names.RUNG, model="a") is None


async def test_the_node_and_the_process(lab):
    await lab.start()
    mine = sample(lab, names.PROCESS_MEMORY, pid=str(os.getpid()), role="host")
    assert mine > 10_000_000
    assert 0 < sample(lab, names.NODE_MEMORY_USED) < sample(lab, names.NODE_MEMORY_LIMIT)
    assert 0 <= sample(lab, names.NODE_CPU) <= 1


async def test_the_exposition_parses_and_follows_the_conventions(lab, x, settled):
    host = await lab.start()
    await host.infer("a", x())
    await host.unload("a")
    with pytest.raises(Unavailable):
        await host.infer("a", x())
    families = list(text_string_to_metric_families(generate_latest(lab.registry).decode()))
    found = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    assert found >= {
        names.REQUESTS, names.REQUEST_DURATION, names.QUEUE_DURATION, names.QUEUE_DEPTH, names.BATCH_SIZE,
        names.ENGINE_SECONDS, names.ENGINE_SAMPLES, names.IN_FORCE, names.SWAPS, names.SWAP_DURATION,
        names.OBSERVED_GENERATION, names.PROCESS_MEMORY, names.NODE_MEMORY_USED, names.NODE_MEMORY_LIMIT,
        names.NODE_CPU,
    }  # fmt: skip
    assert all(f.documentation for f in families)


def test_histogram_bounds_are_inclusive_and_cumulative():
    histogram = Histogram((1, 2))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.sum == 8.0


async def test_gpus_appear_where_there_are_some(lab, monkeypatch):
    reading = GpuReading(0, 30, 100, 0.5, {os.getpid(): 20})
    monkeypatch.setattr(Gpus, "read", lambda self: (reading,))
    await lab.start()
    assert sample(lab, names.GPU_MEMORY_USED, gpu="0") == 30
    assert sample(lab, names.GPU_MEMORY_LIMIT, gpu="0") == 100
    assert sample(lab, names.GPU_UTILIZATION, gpu="0") == 0.5
    assert sample(lab, names.PROCESS_GPU_MEMORY, pid=str(os.getpid()), gpu="0") == 20
