"""ModelHost: all models of one accelerator in one process. Plain asyncio, no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from budgets.snapshot import HostState, SwapRecord
from deployments.agenda import Agenda, Target, Work, direction
from deployments.api import Answer, Assignment, ModelStatus, Statistics
from deployments.calls import Loaded
from deployments.canary import Canary, Distance
from deployments.config import HostConfig
from deployments.gpu import GpuMemory, Gpus
from deployments.host_metrics import HostCollector
from deployments.lanes import Lanes, default_lanes
from deployments.memory import Memory, ProcessMemory
from deployments.node_metrics import NodeCollector
from deployments.slot import Slot
from deployments.swapper import Artefacts, Swapper
from deployments.tally import SwapTally
from variants import device, engines, quality, repository
from variants.catalog import Catalog, Variant
from variants.engines.base import Engine, LoadRequest, Tensors
from variants.errors import Unavailable, UnknownModel

log = logging.getLogger("trimtab.host")

#: Finished swaps that `observe` remembers.
SWAPS_KEPT = 64
#: After a parked model failed to come back, its next attempt waits this long.
WAKE_RETRY_SECONDS = 5.0


class ModelHost:
    """See `deployments.api.Host`. Everything belongs to the event loop that `start` was called on.

    What touches files, engines and the process's memory can be replaced: `load`, `check`, `read_canary`, `distance`
    (see `deployments.swapper.Artefacts`) and `memory`.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: HostConfig,
        *,
        registry: CollectorRegistry,
        host_id: str,
        load: Callable[[LoadRequest], Engine] = engines.load,
        check: Callable[[Path, Variant], None] = repository.verify,
        read_canary: Callable[[Path], Canary | None] = repository.read_canary,
        distance: Distance = quality.distance,
        memory: Memory | None = None,
    ) -> None:
        self._catalog = catalog
        self._config = config
        self._id = host_id
        gpus = Gpus()
        self._memory = memory or _memory_of(config.device, gpus)
        self._artefacts = Artefacts(load, check, read_canary, distance)
        self.slots: dict[str, Slot] = {}
        self.swaps = SwapTally()
        self._agenda = Agenda(catalog)
        self._records: deque[SwapRecord] = deque(maxlen=SWAPS_KEPT)
        self._failed: dict[str, str] = {}
        self._swapping: set[str] = set()
        self._unloaded: set[str] = set()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._wake_after: dict[str, float] = {}
        self._observed = 0
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._stopping = False
        registry.register(HostCollector(self))
        registry.register(NodeCollector(gpus, role="host"))

    @property
    def catalog(self) -> Catalog:
        """What can run here."""
        return self._catalog

    @property
    def observed_generation(self) -> int:
        """The last plan whose swaps have all ended, one way or another."""
        return self._observed

    # Life

    async def start(self, assignment: Assignment | None = None) -> None:
        """Load every model's variant (the assignment's, by default the best rung) and return when all are ready, parked
        or unavailable; a variant that does not load is replaced by the next rung that does. Call it once."""
        loop = asyncio.get_running_loop()
        config = self._config
        threads = config.threads or device.default_threads()
        self._lanes = Lanes(config.concurrent_batches or default_lanes(device.cpu_share(), threads), loop)
        at_once = max(1, min(4, int(device.cpu_share())))
        self._swapper = Swapper(
            self._artefacts,
            self._memory,
            fingerprint=self._catalog.device,
            device=config.device,
            threads=threads,
            drain_seconds=config.drain_seconds,
            margin_bytes=config.margin_bytes,
            loads_at_once=at_once,
        )
        for name, entry in self._catalog.entries.items():
            batching = config.batching_of(name)
            self.slots[name] = Slot(entry, batching, config.hold_seconds, self._lanes, loop, self._wake)
        if assignment is not None:
            self._failed.update(self._agenda.assign(assignment, self._variants()) or {})
            while self._agenda.next() is not None:  # the start itself is this plan's work
                pass
        # What was imported until now stays: later collections (one per swap) need not walk it.
        await asyncio.to_thread(_settle)
        gate = asyncio.Semaphore(at_once)
        await asyncio.gather(*(self._start_model(slot, gate) for slot in self.slots.values()))
        self._observed = max(0, self._agenda.generation)
        self._worker = loop.create_task(self._work(), name="trimtab-swaps")

    async def _start_model(self, slot: Slot, gate: asyncio.Semaphore) -> None:
        target = self._agenda.assigned.get(slot.name)
        if target is not None and target.variant is None:
            slot.park("parked by the plan")
            return
        first = self._agenda.best(slot.name)
        rungs = slot.entry.ladder.rungs or tuple(slot.entry.variants)
        if first is None:
            slot.refuse(f"no variant of it can be loaded from {slot.entry.path}")
            return
        # Cheaper ones before dearer ones: they are the ones that surely fit.
        below = rungs[rungs.index(first) + 1 :] if first in rungs else rungs
        async with gate:
            for variant in dict.fromkeys((first, *below, *reversed(rungs))):
                record = await self._swapper.run(
                    slot, Target(variant, "make_before_break", self._agenda.generation), measure=False
                )
                if record.outcome == "done":
                    return
                self._failed.setdefault(slot.name, f"variant {variant!r}: {record.reason}")

    async def stop(self) -> None:
        """Refuse new requests, let those accepted end (`drain_seconds` at most), and close every engine."""
        if self._stopping or not hasattr(self, "_lanes"):
            return
        self._stopping = True
        end = time.monotonic() + self._config.drain_seconds
        while time.monotonic() < end and any(
            loaded.calls or (slot.queue and slot.loaded is not None) for slot in self.slots.values() for loaded in slot.resident
        ):
            await asyncio.sleep(0.005)
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for slot in self.slots.values():
            slot.refuse("the server is shutting down")
            slot.close()
            for loaded in tuple(slot.resident):
                await self._close(slot, loaded)
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(Unavailable("the server is shutting down"))
        self._lanes.close()
        self._swapper.close()

    async def _close(self, slot: Slot, loaded: Loaded) -> None:
        if loaded.calls:
            log.warning("model %r: variant %r is still busy and is left to the end of the process", slot.name, loaded.variant)
            return
        try:
            await self._swapper.free(slot, loaded)
        except Exception:
            log.exception("model %r: variant %r did not close", slot.name, loaded.variant)

    # Requests

    def _slot(self, model: str) -> Slot:
        try:
            return self.slots[model]
        except KeyError:
            known = ", ".join(sorted(self._catalog.entries))
            raise UnknownModel(f"no model {model!r}; there are: {known}") from None

    async def infer(
        self, model: str, inputs: Tensors, *, timeout_seconds: float | None = None, protocol: str = "direct"
    ) -> Answer:
        """See `deployments.api.Host.infer`."""
        slot = self.slots.get(model) or self._slot(model)
        if self._stopping:
            raise Unavailable("the server is shutting down", retry_after_seconds=1.0)
        return await slot.infer(inputs, timeout_seconds, protocol)

    def status(self, model: str) -> ModelStatus:
        """See `deployments.api.Host.status`."""
        return self._slot(model).status()

    def statistics(self, model: str) -> Statistics:
        """See `deployments.api.Host.statistics`."""
        return self._slot(model).tally.statistics()

    # Steering

    async def load(self, model: str) -> None:
        """See `deployments.api.Host.load`."""
        slot = self._slot(model)
        self._unloaded.discard(model)
        if slot.state != "READY" or model in self._waiters:
            await self._by_hand("load", model)

    async def unload(self, model: str) -> None:
        """See `deployments.api.Host.unload`."""
        self._slot(model)
        self._unloaded.add(model)
        await self._by_hand("unload", model)

    async def _by_hand(self, kind: Work.Kind, model: str) -> None:
        waiter = asyncio.get_running_loop().create_future()
        ...

    def apply(self, assignment: Assignment) -> None:
        """See `deployments.api.Host.apply`."""
        problems = self._agenda.assign(assignment, self._variants())
        if problems is not None:
            self._failed = {m: r for m, r in self._failed.items() if m not in assignment.variants} | problems
            self._news.set()
