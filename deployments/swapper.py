"""Carries out the instructions of `deployments.swap` on a slot, off the event loop, and measures what they cost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from budgets.reality import words
from budgets.snapshot import Counted, Mode, Shadow, SwapRecord
from deployments import canary, shadow, shapes
from deployments.agenda import Target, direction, needs
from deployments.artefacts import Artefacts
from deployments.calls import Loaded
from deployments.canary import Refuted
from deployments.memory import Memory
from deployments.meter import Meter
from deployments.slot import Slot
from deployments.swap import Event, Failed, Ok, Step, advance, begin, choose_mode
from deployments.yielding import Yielding
from variants.engines.base import Engine, LoadRequest

log = logging.getLogger("trimtab.swap")
T = TypeVar("T")


class Swapper:
    """`threads`: for each call of an engine; `calls`: of a model at once. `fingerprint`: whose profiles count.
    `drain_seconds`, `margin_bytes`, `shadow_seconds`: HostConfig. `live`: whether requests are answered now; called from
    threads."""

    def __init__(
        self,
        artefacts: Artefacts,
        memory: Memory,
        *,
        fingerprint: str,
        device: str,
        threads: int,
        calls: int,
        drain_seconds: float,
        margin_bytes: int,
        loads_at_once: int,
        shadow_seconds: float,
        live: Callable[[], bool],
    ) -> None:
        self.artefacts = artefacts
        self.memory = memory
        self.fingerprint = fingerprint
        self.device = device
        self.threads = threads
        self.calls = calls
        self.drain_seconds = drain_seconds
        self.margin_bytes = margin_bytes
        self.shadow_seconds = shadow_seconds
        self.live = live
        self.closed = False
        # One more than loads, so that closing engines never waits for a load.
        self._pool = ThreadPoolExecutor(loads_at_once + 1, thread_name_prefix="swap")
        self._leftover: set[asyncio.Task[None]] = set()

    async def thread(self, function: Callable[..., T], *args: object) -> T:
        """Run something that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def run(self, slot: Slot, target: Target, *, measure: bool = True) -> SwapRecord:
        """Bring a slot to its target and say how it went; never raises for what the target does wrong. `measure` False
        where other loads run at the same time: then no bytes are measured."""
        return await _Run(self, slot, target, measure).carry_out()

    async def free(self, slot: Slot, loaded: Loaded) -> None:
        """Close an engine that has no calls under way. Raises what the engine raises."""
        try:
            await self.thread(loaded.engine.close)
        finally:
            slot.resident.remove(loaded)

    def free_when_idle(self, slot: Slot, loaded: Loaded) -> None:
        """Close an engine when its last call has ended, however long that takes."""

        async def later() -> None:
            await loaded.idle.wait()
            try:
                await self.free(slot, loaded)
                await self.thread(self.memory.trim)
            except Exception:
                log.exception("model %r: variant %r did not close", slot.name, loaded.variant)

        task = asyncio.get_running_loop().create_task(later())
        self._leftover.add(task)
        task.add_done_callback(self._leftover.discard)

    def close(self) -> None:
        """Take no more work. Engines still being loaded are closed as soon as they are there."""
        self.closed = True
        for task in tuple(self._leftover):
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Run:
    """One swap. `old` and `new` are the engines it holds; a freed one is None."""

    def __init__(self, swapper: Swapper, slot: Slot, target: Target, measure: bool) -> None:
        self.swapper = swapper
        self.slot = slot
        self.target = target
        self.before = slot.status()
        self.old = slot.loaded
        self.new: Loaded | None = None
        self.canary: canary.Canary | None = None
        self.shadow: Shadow | None = None
        self.counted: Counted | None = None
        self.refuted = False
        self.meter = Meter(swapper.memory, swapper.thread, measure)
        # Slots that are vacated keep `variant`; what runs is decided by the engine that is there.
        self.from_variant = None if self.old is None else self.old.variant

    async def carry_out(self) -> SwapRecord:
        """Begin, and do what `advance` says until it says that the swap is over."""
        started, clock = time.time(), time.monotonic()
        to = self.target.variant
        mode = await self._mode()
        state = begin(self.from_variant, to, mode)
        if self.from_variant is None:
            self.slot.wait_for_load(f"variant {to!r} is being loaded")
        await self.meter.look()
        while state.outcome is None:
            event: Event
            try:
                await self._do(state.step, state.reason)
                event = Ok()
            except Exception as error:
                log.warning("model %r: swap to %r: %s: %s", self.slot.name, to, state.step, error)
                self.refuted = self.refuted or isinstance(error, Refuted)
                event = Failed(str(error) or type(error).__name__)
            state = advance(state, event)
        if state.outcome != "done" and self.from_variant is None:
            self._back_to_nothing(state.reason)
        return SwapRecord(
            generation=self.target.generation,
            model=self.slot.name,
            from_variant=self.from_variant,
            to_variant=to,
            mode=mode,
            started=started,
            seconds=time.monotonic() - clock,
            bytes_measured=self._bytes() if state.outcome == "done" else 0,
            outcome=state.outcome,
            reason=state.reason,
            refuted=self.refuted,
            shadow=self.shadow,
            counted=self.counted,
        )

    async def _mode(self) -> Mode:
        swapper, to = self.swapper, self.target.variant
        if to is None or self.from_variant is None:
            return self.target.mode
        profile = self.slot.entry.variants[to].profile(swapper.fingerprint)
        needed: int | None = None
        if profile is not None:
            needed = profile.device_bytes or max(profile.resident_bytes, profile.peak_bytes)
        try:
            headroom = await swapper.thread(swapper.memory.headroom)
        except OSError as error:
            log.warning("headroom is unknown (%s): the plan's mode is kept", error)
            return self.target.mode
        mode = choose_mode(self.target.mode, needed, headroom, swapper.margin_bytes)
        if mode != self.target.mode:
            log.info("model %r: %d bytes of headroom do not hold two variants: %s", self.slot.name, headroom, mode)
        return mode

    async def _do(self, step: Step, reason: str) -> None:
        """Carry out one instruction. Raises what went wrong."""
        slot, swapper = self.slot, self.swapper
        match step:
            case Step.LOAD:
                self.new = await self._load(self.target.variant)
            case Step.WARM:
                self.canary = await swapper.thread(swapper.artefacts.read_canary, Path(slot.entry.path))
                await swapper.thread(canary.warm, self._tried(), slot.entry.model, self.canary)
            case Step.VERIFY:
                await self._verify(self._loaded(self.new))
                await self.meter.account(self._loaded(self.new))
                await self._shape()
                self.canary = None
            case Step.SWITCH:
                self.counted = slot.tally.counted(self._loaded(self.new).variant)
                slot.serve(self._loaded(self.new))
            case Step.DRAIN:
                old = self._loaded(self.old)
                if slot.loaded is old:
                    slot.hold()
                await self._drain(old)
            case Step.FREE:
                old, self.old = self._loaded(self.old), None
                if slot.loaded is old:
                    slot.vacate()
                try:
                    await swapper.free(slot, old)
                finally:
                    del old  # what is measured next is without it
                    if self.target.variant is None:
                        slot.park("parked to free memory")
                await self.meter.look()
            case Step.DISCARD:
                new, self.new = self._loaded(self.new), None
                await swapper.free(slot, new)
                del new
                await self.meter.look()
            case Step.RELOAD:
                self.old = await self._load(self.from_variant)
            case Step.RESUME:
                slot.serve(self._loaded(self.old))
            case Step.ABANDON:
                swapper.free_when_idle(slot, self._loaded(self.old))
            case Step.GIVE_UP:
                slot.refuse(reason)
            case Step.DONE | Step.ROLLED_BACK | Step.FAILED:
                raise AssertionError(f"{step} is an end, not an instruction")

    @staticmethod
    def _loaded(loaded: Loaded | None) -> Loaded:
        assert loaded is not None, "the state machine asked for an engine that is not there"
        return loaded

    def _tried(self) -> Yielding:
        """The new engine, for checks."""
        new, calls = self._loaded(self.new), self.swapper.calls
        return Yielding(new.engine, self.slot.entry.model, self.swapper.live, calls // new.width)

    async def _load(self, name: str | None) -> Loaded:
        assert name is not None
        slot, swapper = self.slot, self.swapper
        variant = slot.entry.variants[name]
        folder = Path(slot.entry.path) / "variants" / name
        request = LoadRequest(slot.entry.model, variant, folder, swapper.threads, swapper.device, swapper.calls)
        engine = await swapper.thread(_load, swapper, request)
        resident = needs(slot.entry, swapper.fingerprint, name)
        kept = resident or engine.resident().host_bytes
        loaded = Loaded(name, engine, kept, width=variant.width(swapper.calls))
        slot.resident.append(loaded)
        return loaded

    async def _verify(self, new: Loaded) -> None:
        entry, artefacts = self.slot.entry, self.swapper.artefacts
        variant = entry.variants[new.variant]
        await self.swapper.thread(canary.verify, self._tried(), entry.model, variant, self.canary, artefacts.distance)
        if self.from_variant is None:  # nothing is in force that it could be compared with
            return
        self.shadow = await self.swapper.thread(
            partial(
                shadow.compare,
                self._tried(),
                entry,
                new.variant,
                self.slot.sampler.of(self.from_variant),
                fingerprint=self.swapper.fingerprint,
                distance=artefacts.distance,
                canary_passed=self.canary is not None,
                seconds=self.swapper.shadow_seconds,
            )
        )
        if self.shadow is not None and self.shadow.suspect == new.variant:
            raise Refuted(f"shadow: {words(self.shadow)}")

    async def _shape(self) -> None:
        """Have the new engine run the shapes that requests have, where others answer them meanwhile."""
        if self.slot.loaded is None or self.canary is None:
            return
        await self.swapper.thread(
            shapes.warm,
            self._tried(),
            self.slot.entry.model,
            self.slot.shapes.usual(),
            self.canary[0],
        )

    async def _drain(self, old: Loaded) -> None:
        try:
            await asyncio.wait_for(old.idle.wait(), self.swapper.drain_seconds)
        except TimeoutError:
            raise TimeoutError(
                f"{old.calls} calls of variant {old.variant!r} still run after {self.swapper.drain_seconds:g} s"
            ) from None

    def _bytes(self) -> int:
        """From the start to now, positive in the swap's own direction."""
        way = direction(self.slot.entry, self.swapper.fingerprint, self.from_variant, self.target.variant)
        return -self.meter.taken if way == "degrade" else self.meter.taken

    def _back_to_nothing(self, reason: str) -> None:
        """What ran before was nothing: parked again, or unavailable with the new reason."""
        if self.before.state == "PARKED":
            self.slot.park(f"parked, and did not come back: {reason}")
        else:
            self.slot.refuse(reason)


def _load(swapper: Swapper, request: LoadRequest) -> Engine:
    """In a thread, which cannot be stopped: an engine that arrives after the host was closed is closed at once."""
    engine = swapper.artefacts.engine(request, swapper.fingerprint)
    if swapper.closed:
        engine.close()
        raise RuntimeError("the host was stopped while the variant was loaded")
    return engine
