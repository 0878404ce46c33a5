"""ModelHost: all models of one accelerator in one process. Plain asyncio, no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from budgets.config import DEFAULT_GROUP
from budgets.snapshot import HostState
from budgets.wishes import Candidate
from deployments.api import Answer, Assignment, Deliver, ModelStatus, Statistics
from deployments.artefacts import Artefacts
from deployments.canary import Canary, Distance
from deployments.config import HostConfig
from deployments.gpu import GpuMemory, Gpus
from deployments.host_metrics import HostCollector
from deployments.lanes import Lanes, default_lanes
from deployments.memory import Memory, ProcessMemory
from deployments.node_metrics import NodeCollector
from deployments.reply import Reply
from deployments.slot import Slot
from deployments.steering import Steering
from deployments.streams import Streams
from deployments.swapper import Swapper
from variants import device, engines, quality, repository
from variants.catalog import Catalog, Profile, Variant
from variants.engines.base import Engine, LoadRequest, Tensors
from variants.errors import Unavailable, UnknownModel

log = logging.getLogger("trimtab.host")

#: At most this many models are loaded at once: each load takes more memory for a moment than it keeps.
MOST_LOADS_AT_ONCE = 4
#: Objects made, and not freed, between two looks for cycles among the youngest (Python's own: 700). Requests leave none.
YOUNG_OBJECTS = 20_000
#: How often `stop` looks whether accepted requests have ended.
STOP_POLL_SECONDS = 0.005


class ModelHost:
    """See `deployments.api.Host`. Everything belongs to the event loop that `start` is called on.

    What touches files, engines and the process's memory can be replaced: `load`, `check`, `read_canary`, `distance`
    (`deployments.artefacts.Artefacts` says what they do) and `memory`. `trace_id`: the current request's trace, where there
    are traces.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: HostConfig,
        *,
        registry: CollectorRegistry,
        host_id: str,
        group: str = DEFAULT_GROUP,
        load: Callable[[LoadRequest], Engine] = engines.load,
        check: Callable[[Path, Variant], None] = repository.verify,
        compiled: Callable[[Path, Profile | None], Path | None] = repository.compiled,
        read_canary: Callable[[Path], Canary | None] = repository.read_canary,
        distance: Distance = quality.distance,
        memory: Memory | None = None,
        trace_id: Callable[[], str | None] | None = None,
    ) -> None:
        cpus = device.cpu_share()
        threads = config.threads or device.call_threads(config.device)
        loads_at_once = max(1, min(MOST_LOADS_AT_ONCE, int(cpus)))
        gpus = Gpus()
        self._catalog = catalog
        self._config = config
        self._id = host_id
        self._group = group
        self._abreast = abreast = device.calls_at_once(threads)
        self._lanes = Lanes(config.concurrent_batches or default_lanes(abreast), abreast)
        self._swapper = Swapper(
            Artefacts(load, check, compiled, read_canary, distance),
            memory or (ProcessMemory() if config.device == "cpu" else GpuMemory(gpus, config.device)),
            fingerprint=catalog.device,
            device=config.device,
            threads=threads,
            calls=min(abreast, self._lanes.each),
            drain_seconds=config.drain_seconds,
            margin_bytes=config.margin_bytes,
            loads_at_once=loads_at_once,
            shadow_seconds=config.shadow.seconds,
            live=lambda: self._lanes.live,
        )
        self._slots = {
            name: Slot(
                entry,
                config.batching_of(name),
                config.hold_seconds,
                self._lanes,
                self._wake,
                device=catalog.device,
                weight=config.weights.get(name, 1.0),
                objective=config.objectives.get(name),
                trace_id=trace_id,
                shadow=config.shadow,
            )
            for name, entry in catalog.entries.items()
        }
        self._streams = Streams(self._lanes)
        self._steering = Steering(catalog, self._slots, self._swapper, loads_at_once)
        self._stopping = False
        registry.register(HostCollector(catalog, self._slots, self._steering))
        registry.register(NodeCollector(gpus, role="host"))

    @property
    def catalog(self) -> Catalog:
        """What can run here."""
        return self._catalog

    # Life

    async def start(self, assignment: Assignment | None = None) -> None:
        """Load every model's variant (the assignment's, by default the best rung) and return when each model is ready,
        parked or unavailable. A variant that does not load is replaced by another rung that does, and
        `observe().failed` says why. Call it once."""
        # What was imported until now stays: later collections, one per swap, need not walk it.
        await asyncio.to_thread(_settle)
        await self._steering.start(None if assignment is None else assignment.on(self._id, self._group))
        await asyncio.to_thread(self._swapper.memory.trim)  # what several loads at once left behind

    async def stop(self) -> None:
        """Refuse new requests, let those accepted end (`drain_seconds` at most), and close every engine."""
        if self._stopping:
            return
        self._stopping = True
        end = time.monotonic() + self._config.drain_seconds
        while self._busy() and time.monotonic() < end:  # noqa: ASYNC110 - many slots, once in a process's life
            await asyncio.sleep(STOP_POLL_SECONDS)
        await self._steering.stop()
        for slot in self._slots.values():
            slot.refuse("the server is shutting down")
            slot.close()
            for loaded in tuple(slot.resident):
                if loaded.calls:
                    log.warning("model %r: variant %r is busy still and is left open", slot.name, loaded.variant)
                    continue
                try:
                    await self._swapper.free(slot, loaded)
                except Exception:
                    log.exception("model %r: variant %r did not close", slot.name, loaded.variant)
        self._lanes.close()
        self._swapper.close()

    def _busy(self) -> bool:
        return any(slot.queue or any(x.calls for x in slot.resident) for slot in self._slots.values())

    # Requests

    def _slot(self, model: str) -> Slot:
        try:
            return self._slots[model]
        except KeyError:
            known = ", ".join(sorted(self._slots))
            raise UnknownModel(f"no model {model!r}; there are: {known}") from None

    def _wake(self, slot: Slot) -> None:
        self._steering.wake(slot)

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Answer:
        """See `deployments.api.Host.infer`."""
        slot = self._slots.get(model) or self._slot(model)
        if self._stopping:
            raise Unavailable("the server is shutting down", retry_after_seconds=1.0)
        return await slot.infer(inputs, timeout_seconds, protocol, priority, variants)

    def submit(
        self,
        model: str,
        inputs: Tensors,
        deliver: Deliver,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Reply:
        """See `deployments.api.Host.submit`."""
        slot = self._slots.get(model) or self._slot(model)
        if self._stopping:
            raise Unavailable("the server is shutting down", retry_after_seconds=1.0)
        return slot.submit(inputs, timeout_seconds, protocol, deliver, priority, variants)

    def pressed(self, model: str) -> bool:
        """See `deployments.api.Host.pressed`."""
        slot = self._slots.get(model)
        return slot is not None and slot.pressed()

    def turn_away(self, model: str, protocol: str, timeout_seconds: float | None) -> None:
        """See `deployments.api.Host.turn_away`."""
        self._slot(model).turn_away(protocol, timeout_seconds)

    def candidate(self, model: str, rows: int = 1, priority: int = 0) -> Candidate:
        """See `deployments.api.Host.candidate`."""
        return self._slot(model).candidate(rows, priority)

    async def stream(
        self, model: str, inputs: Tensors, *, timeout_seconds: float | None = None, protocol: str = "direct"
    ) -> AsyncGenerator[Answer, None]:
        """See `deployments.api.Host.stream`."""
        slot = self._slot(model)
        if self._stopping:
            raise Unavailable("the server is shutting down", retry_after_seconds=1.0)
        batching = self._config.batching_of(model)
        answers = self._streams.stream(
            slot,
            inputs,
            timeout_seconds=batching.timeout_seconds if timeout_seconds is None else timeout_seconds,
            hold_seconds=self._config.hold_seconds,
            most=batching.queue,
            protocol=protocol,
        )
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    def watch(self, model: str, changed: Callable[[], None]) -> None:
        """See `deployments.api.Host.watch`."""
        self._slot(model).standing.watchers.append(changed)

    def status(self, model: str) -> ModelStatus:
        """See `deployments.api.Host.status`."""
        status = self._slot(model).status()
        return replace(status, unloaded=True) if model in self._steering.unloaded else status

    def statistics(self, model: str) -> Statistics:
        """See `deployments.api.Host.statistics`."""
        return self._slot(model).tally.statistics()

    # Steering

    async def load(self, model: str, order: int | None = None) -> None:
        """See `deployments.api.Host.load`. `order`: the number of an order that all hosts get (`Assignment.orders`)."""
        self._slot(model)
        await self._steering.load(model, order)

    async def unload(self, model: str, order: int | None = None) -> None:
        """See `deployments.api.Host.unload`, and `load`."""
        self._slot(model)
        await self._steering.unload(model, order)

    def apply(self, assignment: Assignment) -> None:
        """See `deployments.api.Host.apply`."""
        self._steering.apply(assignment.on(self._id, self._group))

    def observe(self) -> HostState:
        """See `deployments.api.Host.observe`."""
        steering = self._steering
        return HostState(
            host=self._id,
            group=self._group,
            pid=os.getpid(),
            at=time.time(),
            observed_generation=steering.observed,
            variants={name: slot.variant for name, slot in self._slots.items()},
            swapping=tuple(sorted(steering.swapping)),
            failed=dict(steering.failed),
            swaps=tuple(steering.records),
            device=self.catalog.device,
            unloaded=tuple(sorted(steering.unloaded)),
            orders=steering.orders,
            told=steering.told,
            serving={n: s.told for n, s in self._slots.items() if s.told is not None},
            counts={n: s.tally.counted(s.variant) for n, s in self._slots.items() if s.variant is not None},
            shapes={n: len(s.shapes) for n, s in self._slots.items()},
            streams=self._abreast,
        )


def _settle() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
