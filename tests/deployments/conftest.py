"""A host on fake engines whose behaviour each test sets: what they answer, when, and how they fail."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from deployments.api import Assignment
from deployments.calls import Loaded
from deployments.config import Batching, HostConfig
from deployments.host import ModelHost
from deployments.lanes import Lanes
from deployments.slot import Slot
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
from variants.engines.base import LoadRequest, Residency
from variants.errors import ArtefactRefused, EngineFailed

MB = 1_000_000
#: variant -> bytes, quality; the ladder's order.
RUNGS = {"best": (300 * MB, 1.0), "mid": (200 * MB, 0.95), "cheap": (100 * MB, 0.9)}
POISON = 666.0


class FakeEngine:
    """y = x + bias. A sample of POISON makes the whole call raise."""

    def __init__(self, lab: Lab, request: LoadRequest) -> None:
        self.lab = lab
        self.model = request.model.name
        self.variant = request.variant.name
        self.threads = request.threads
        self.at_once = request.calls
        self.calls: list[int] = []
        self.closed = False

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self.closed:
            raise EngineFailed("closed")
        gate = self.lab.gates.get(self.model)
        array = np.asarray(inputs["x"])
        if threading.current_thread().name.startswith("engine"):  # traffic; not warm-up and canary calls
            self.calls.append(len(array))
            self.lab.order.append(self.model)
            if gate is not None:
                self.lab.enter[self.model]()
                assert gate.wait(20)
        else:
            self.lab.canary_calls.append(len(array))
        if (array == POISON).any():
            raise ValueError("poison")
        if self.closed:
            raise AssertionError("closed while a call was under way")
        return {"y": array + np.float32(self.lab.bias.get(self.variant, 0.0))}

    def resident(self) -> Residency:
        return Residency(RUNGS[self.variant][0])

    def close(self) -> None:
        self.closed = True


class FakeMemory:
    """In use: a base, and what the engines that are not closed hold."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.free = 10_000 * MB
        self.trims = 0

    def used(self) -> int:
        return 50 * MB + sum(RUNGS[e.variant][0] for e in self.lab.engines if not e.closed)

    def headroom(self) -> int:
        return self.free

    def trim(self) -> None:
        self.trims += 1


class Lab:
    """The knobs. `gates`: model -> event that its engine calls wait for (`entered` tells that one does)."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.engines: list[FakeEngine] = []
        self.gates: dict[str, threading.Event] = {}
        self.entered: dict[str, asyncio.Event] = {}
        self.enter: dict[str, Callable[[], Any]] = {}
        self.bias: dict[str, float] = {}
        self.load_fails: dict[str, str] = {}
        self.compiled: Path | None = None
        self.corrupt: set[str] = set()
        self.checked: list[str] = []
        self.load_gate: threading.Event | None = None
        self.loads: list[tuple[str, str]] = []
        self.order: list[str] = []
        self.canary_calls: list[int] = []
        self.canary: tuple[dict[str, Any], dict[str, Any]] | None = None
        self.memory = FakeMemory(self)
        self.registry = CollectorRegistry()
        self.host: ModelHost | None = None

    def load(self, request: LoadRequest) -> FakeEngine:
        if request.compiled is not None and not request.compiled.is_file():
            raise EngineFailed(f"cannot load {request.compiled}")
        self.loads.append((request.model.name, request.variant.name))
        if self.load_gate is not None:
            assert self.load_gate.wait(20)
        if request.variant.name in self.load_fails:
            raise EngineFailed(self.load_fails[request.variant.name])
        engine = FakeEngine(self, request)
        self.engines.append(engine)
        return engine

    def check(self, folder: Path, variant: Variant) -> None:
        self.checked.append(variant.name)
        if variant.name in self.corrupt:
            raise ArtefactRefused(f"{folder / variant.artefact}: corrupt")

    def gate(self, model: str) -> threading.Event:
        """Make the model's engine calls wait; await `entered[model]` for the first."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        self.entered[model] = event
        self.enter[model] = lambda: loop.call_soon_threadsafe(event.set)
        self.gates[model] = threading.Event()
        return self.gates[model]

    def open(self) -> list[tuple[str, str]]:
        return [(e.model, e.variant) for e in self.engines if not e.closed]

    def calls(self, model: str) -> list[int]:
        return [size for e in self.engines if e.model == model for size in e.calls]

    def catalog(self, models: Mapping[str, Mapping[str, Any]]) -> Catalog:
        entries = {}
        for name, changes in models.items():
            spec = {"datatype": "FP32", "shape": (-1, -1)}
            model = Model(
                name=name,
                task="test",
                metric="relative_error",
                inputs=(TensorSpec(name="x", **spec),),
                outputs=(TensorSpec(name="y", **spec),),
                source=Source(onnx="m.onnx"),
                **changes,
            )
            variants = {v: fake_variant(v, size, quality) for v, (size, quality) in RUNGS.items()}
            ladder = Ladder(model=name, rungs=tuple(RUNGS))
            entries[name] = Entry(model=model, variants=variants, ladder=ladder, path=str(self.path / name))
        return Catalog(device="test", entries=entries)

    def build(self, config: HostConfig | None = None, host_id: str = "h", **models: Mapping[str, Any]) -> ModelHost:
        self.host = ModelHost(
            self.catalog(models or {"a": {}}),
            config or HostConfig(threads=1, concurrent_batches=2),
            registry=self.registry,
            host_id=host_id,
            load=self.load,
            check=self.check,
            compiled=lambda folder, profile: self.compiled,
            read_canary=lambda folder: self.canary,
            distance=relative_error,
            memory=self.memory,
        )
        return self.host

    async def start(
        self, config: HostConfig | None = None, assignment: Assignment | None = None, **models: Mapping[str, Any]
    ) -> ModelHost:
        host = self.build(config, **models)
        await host.start(assignment)
        return host


def relative_error(metric: str, outputs: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    assert metric == "relative_error"
    scale = max(float(np.abs(r).max()) for r in reference.values()) or 1.0
    return max(float(np.abs(outputs[name] - r).max()) for name, r in reference.items()) / scale


def fake_variant(name: str, size: int, quality: float) -> Variant:
    profile = Profile(
        device="test",
        threads=1,
        resident_bytes=size,
        load_seconds=0.1,
        warmup_seconds=0.1,
        batches=(BatchProfile(batch=1, p50_seconds=0.01, p99_seconds=0.02, throughput=100),),
        quality=quality,
    )
    return Variant(
        name=name,
        engine="openvino",
        precision="fp32",
        artefact="m.onnx",
        lineage=Lineage(technique="test"),
        profiles=(profile,),
    )


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    for gate in lab.gates.values():
        gate.set()
    if lab.load_gate is not None:
        lab.load_gate.set()
    if lab.host is not None:
        await lab.host.stop()


@pytest.fixture
def x() -> Callable[..., dict[str, Any]]:
    """x(rows, width=4, value=1.0): the inputs of one request."""

    def make(rows: int = 1, width: int = 4, value: float = 1.0) -> dict[str, Any]:
        return {"x": np.full((rows, width), value, np.float32)}

    return make


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the test's own timeout bounds it
        await asyncio.sleep(0.002)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Any]:
    """until(condition): wait for something that happens in the background; the test's timeout bounds it."""
    return _until


@pytest.fixture
def settled() -> Callable[[ModelHost, int], Any]:
    """settled(host, generation): wait until the host has observed it."""

    async def wait(host: ModelHost, generation: int) -> None:
        await _until(lambda: host.observe().observed_generation >= generation)

    return wait


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer whenever nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.now = max(self.now, timers[0].when())
        super()._run_once()  # type: ignore[misc]


class Ran:
    """A job that was carried out already."""

    def __init__(self, job: Any) -> None:
        self.seconds = job.seconds
        self.ended = job.ended
        self.finish = job.finish

    def run(self) -> None:
        pass


class Virtual:
    """Lanes and slots in virtual time: an engine call costs what `cost(rows)` says (`cost(rows, length)` where the model is
    padded), and no time passes else."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.ahead = 0.0
        self.calls: list[tuple[str, float, int]] = []  # model, start, rows

    def clock(self) -> float:
        return self.loop.now + self.ahead

    def submit(self, work: Callable[..., Any], claimant: Any, job: Any, *rest: Any) -> None:
        job.run()
        cost, self.ahead = self.ahead or job.seconds, 0.0
        self.loop.call_later(cost, self.over, work, claimant, Ran(job), *rest)

    def over(self, work: Callable[..., Any], *arguments: Any) -> None:
        if (following := work(*arguments)) is not None:
            self.submit(following[0], *following[1])

    def close(self) -> None:
        """Of the pool."""

    def lanes(self, count: int, abreast: int | None = None) -> Lanes:
        return Lanes(count, abreast, pool=self, clock=self.clock)

    def slot(self, name: str, lanes: Lanes, cost: Callable[..., float], batching: Batching, **options: Any) -> Slot:
        model = Model(
            name=name,
            task="test",
            inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),),
            max_batch=options.pop("max_batch", 8),
            pad=options.pop("pad", {}),
            source=Source(onnx="m.onnx"),
        )
        entry = Entry(
            model=model,
            variants={"best": fake_variant("best", 1, 1.0)},
            ladder=Ladder(model=name, rungs=("best",)),
            path=name,
        )
        slot = Slot(entry, batching, 20.0, lanes, lambda slot: None, clock=self.clock, **options)
        slot.serve(Loaded("best", VirtualEngine(self, name, cost, bool(model.pad)), 1))
        return slot

    def run(self, main: Any) -> Any:
        try:
            return self.loop.run_until_complete(main)
        finally:
            self.loop.close()


class VirtualEngine:
    """y = x, at a cost."""

    def __init__(self, virtual: Virtual, name: str, cost: Callable[..., float], padded: bool) -> None:
        self.virtual, self.name, self.cost, self.padded = virtual, name, cost, padded

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(inputs["x"])
        self.virtual.calls.append((self.name, self.virtual.clock(), rows))
        self.virtual.ahead += self.cost(*inputs["x"].shape) if self.padded else self.cost(rows)
        return {"y": inputs["x"]}

    def resident(self) -> Residency:
        return Residency(1)

    def close(self) -> None:
        pass


@pytest.fixture
def virtual() -> Virtual:
    """Virtual time; `virtual.run(coroutine)` runs a test's body in it."""
    return Virtual()
