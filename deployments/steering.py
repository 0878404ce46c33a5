"""Steering: what a host is told to run, one change at a time in the background, and what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Literal

from budgets.snapshot import SwapRecord
from deployments.agenda import Agenda, Target, Work, direction
from deployments.api import Assignment
from deployments.slot import Slot
from deployments.swapper import Swapper
from deployments.tally import SwapTally
from variants.catalog import Catalog
from variants.errors import Unavailable

log = logging.getLogger("trimtab.host")

#: Finished swaps that are remembered.
SWAPS_KEPT = 64
#: After a parked model failed to come back, its next attempt waits this long.
WAKE_RETRY_SECONDS = 5.0
UNLOADED = "it was unloaded on request; load it to use it again"


class Steering:
    """Moves slots to what the plan, a request for a parked model, or a load or unload by hand asks for. All methods
    belong to the event loop."""

    def __init__(self, catalog: Catalog, slots: Mapping[str, Slot], swapper: Swapper, loads_at_once: int) -> None:
        self.tally = SwapTally()
        self.records: deque[SwapRecord] = deque(maxlen=SWAPS_KEPT)
        self.failed: dict[str, str] = {}
        self.swapping: set[str] = set()
        self.observed = 0
        self._catalog = catalog
        self._slots = slots
        self._swapper = swapper
        self._loads_at_once = loads_at_once
        self._agenda = Agenda(catalog)
        self._unloaded: set[str] = set()
        #: What the last order said of it, and its number.
        self._ordered: frozenset[str] = frozenset()
        self.orders = 0
        self.told: tuple[int, int] | None = None  # see `budgets.snapshot.HostState`
        self._waiters: dict[tuple[str, str], list[asyncio.Future[None]]] = {}
        self._wake_after: dict[str, float] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # What is asked for

    def apply(self, assignment: Assignment) -> None:
        """See `deployments.api.Host.apply`."""
        self.told = (assignment.generation, assignment.orders)
        self._follow(assignment)
        problems = self._agenda.assign(assignment, self._running())
        if problems is None:
            return
        for model in assignment.variants:
            self.failed.pop(model, None)
            self._wake_after.pop(model, None)
        self.failed.update(problems)
        self._tune(assignment)
        self._news.set()

    def _tune(self, assignment: Assignment) -> None:
        for model, serving in assignment.serving.items():
            if model in self._slots:
                self._slots[model].tune(serving, assignment.variants.get(model))

    def _follow(self, assignment: Assignment) -> None:
        """Load and unload what the assignment says otherwise than the last order, unless it is older."""
        if assignment.orders < self.orders:
            return
        unloaded, self.orders = assignment.unloaded, assignment.orders
        for model in unloaded ^ self._ordered:
            kind: Literal["load", "unload"] = "unload" if model in unloaded else "load"
            (self._unloaded.add if kind == "unload" else self._unloaded.discard)(model)
            if model in self._slots:
                self._agenda.by_hand(kind, model)
        self._ordered = unloaded
        self._news.set()

    def wake(self, slot: Slot) -> None:
        """A request found the model parked. While the last attempt's failure is fresh, what waits is refused."""
        left = self._wake_after.get(slot.name, 0.0) - time.monotonic()
        if left > 0:
            slot.reject(f"is {slot.reason}", left)
            return
        self._agenda.wake(slot.name)
        self._news.set()

    @property
    def unloaded(self) -> Collection[str]:
        """The models that are out of service on request."""
        return self._unloaded

    async def load(self, model: str, order: int | None = None) -> None:
        """Make a model ready. Raises Unavailable with the reason."""
        self._unloaded.discard(model)
        if order is not None:
            self.orders, self._ordered = order, self._ordered - {model}
        await self._by_hand("load", model)

    async def unload(self, model: str, order: int | None = None) -> None:
        """Free a model and refuse its requests until `load`. Raises Unavailable when its engine stays busy."""
        self._unloaded.add(model)
        if order is not None:
            self.orders, self._ordered = order, self._ordered | {model}
        await self._by_hand("unload", model)

    async def _by_hand(self, kind: Literal["load", "unload"], model: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault((kind, model), []).append(waiter)
        self._agenda.by_hand(kind, model)
        self._news.set()
        await waiter

    def _running(self) -> dict[str, str | None]:
        return {name: slot.variant for name, slot in self._slots.items()}

    # Life

    async def start(self, assignment: Assignment | None) -> None:
        """Bring every model up, a few at once, then follow what is asked for in the background."""
        if assignment is not None:
            self.failed.update(self._agenda.assign(assignment, self._running()) or {})
            self._tune(assignment)
            self._ordered, self.orders = assignment.unloaded, assignment.orders
            self.told = (assignment.generation, assignment.orders)
            self._unloaded.update(assignment.unloaded)
            while self._agenda.next() is not None:  # bringing the models up is this plan's work
                pass
        gate = asyncio.Semaphore(self._loads_at_once)

        async def bring_up(slot: Slot) -> None:
            if slot.name in self._unloaded:
                slot.refuse(UNLOADED)
                return
            target = self._agenda.assigned.get(slot.name)
            if target is not None and target.variant is None:
                slot.park("parked by the plan")
                return
            async with gate:
                await self._bring_up(slot, measure=self._loads_at_once == 1)

        await asyncio.gather(*(bring_up(slot) for slot in self._slots.values()))
        self.observed = max(0, self._agenda.generation)
        self._task = asyncio.create_task(self._work(), name="trimtab-swaps")

    async def stop(self) -> None:
        """Stop between or within swaps; whoever waits for a load or unload is told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(Unavailable("the server is shutting down"))
        self._waiters.clear()

    async def _work(self) -> None:
        while True:
            work = self._agenda.next()
            if work is None:
                self.observed = max(self.observed, self._agenda.generation)
                self._news.clear()
                await self._news.wait()
                continue
            slot, problem = self._slots[work.model], ""
            self.swapping.add(work.model)
            try:
                problem = await self._carry_out(work, slot)
            except Exception as error:
                log.exception("model %r: %s", work.model, work.kind)
                problem = self.failed[work.model] = f"{type(error).__name__}: {error}"
                _repair(slot, problem)
            finally:
                self.swapping.discard(work.model)
            self._tell(work, problem)

    def _tell(self, work: Work, problem: str) -> None:
        for waiter in self._waiters.pop((work.kind, work.model), ()):
            if waiter.done():
                continue
            if problem:
                waiter.set_exception(Unavailable(f"model {work.model!r}: {work.kind} failed: {problem}"))
            else:
                waiter.set_result(None)

    # What is done

    async def _carry_out(self, work: Work, slot: Slot) -> str:
        """Returns what went wrong, or nothing."""
        if work.kind == "load":
            return await self._bring_up(slot, measure=True) if slot.state != "READY" else ""
        if work.kind == "unload":
            return await self._take_down(work, slot)
        if work.model in self._unloaded:
            return ""
        if work.kind == "wake":
            if slot.state != "PARKED" or work.target.variant is None:
                return ""
            # Set beforehand: what waits asks again as soon as the slot is parked again.
            self._wake_after[work.model] = time.monotonic() + WAKE_RETRY_SECONDS
            record = await self._swap(slot, work.target)
            if record.outcome == "done":
                del self._wake_after[work.model]
            return record.reason
        if slot.variant == work.target.variant and slot.state in ("READY", "PARKED"):
            return ""
        if work.target.variant is None and slot.loaded is None:
            slot.park("parked by the plan")
            return ""
        return (await self._swap(slot, work.target)).reason

    async def _swap(self, slot: Slot, target: Target, *, record: bool = True, measure: bool = True) -> SwapRecord:
        done = await self._swapper.run(slot, target, measure=measure)
        if done.outcome == "done":
            self.failed.pop(slot.name, None)
        else:
            self.failed[slot.name] = f"variant {target.variant!r}: {done.reason}"
        if record:
            way = direction(slot.entry, self._catalog.device, done.from_variant, done.to_variant)
            self.records.append(done)
            self.tally.finished(slot.name, way, done.outcome, done.mode, done.seconds)
        return done

    async def _bring_up(self, slot: Slot, *, measure: bool) -> str:
        """Load the variant the plan names, by default the best; one that does not load is replaced by the next that
        does, cheaper ones first. Returns why none did, or nothing."""
        first = self._agenda.best(slot.name)
        rungs = slot.entry.ladder.rungs or tuple(slot.entry.variants)
        if first is None:
            slot.refuse(f"it has no variant that could be loaded from {slot.entry.path}")
            return slot.reason
        below = rungs[rungs.index(first) + 1 :] if first in rungs else rungs
        problems: list[str] = []
        for variant in dict.fromkeys((first, *below, *reversed(rungs))):
            target = Target(variant, "make_before_break", self._agenda.generation)
            done = await self._swap(slot, target, record=False, measure=measure)
            if done.outcome == "done":
                break
            problems.append(f"variant {variant!r}: {done.reason}")
        if problems:
            self.failed[slot.name] = "; ".join(problems)
        return "" if slot.state == "READY" else self.failed[slot.name]

    async def _take_down(self, work: Work, slot: Slot) -> str:
        if slot.loaded is not None:
            done = await self._swap(slot, work.target)
            if done.outcome != "done":
                self._unloaded.discard(slot.name)
                return done.reason
        slot.refuse(UNLOADED)
        return ""


def _repair(slot: Slot, problem: str) -> None:
    """After a fault of our own in the middle of a swap: serve with the engine that is there, or say that none is."""
    if slot.loaded is not None and slot.loaded in slot.resident:
        slot.serve(slot.loaded)
    else:
        slot.refuse(problem)
