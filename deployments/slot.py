"""A slot: one model's place in the host, with its queue, the engine in force and what it has counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.api import Answer, ModelStatus, SlotState
from deployments.batching import Pending, Result, run, shape_of, take
from deployments.config import Batching
from deployments.lanes import Claimant, Lanes
from deployments.tally import Tally
from variants.catalog import Entry
from variants.engines.base import Engine, Tensors
from variants.errors import DeadlineExceeded, QueueFull, Unavailable


@dataclass(eq=False)
class Loaded:
    """A variant that is resident. `calls` counts the engine calls under way: it is closed only when there are none."""

    variant: str
    engine: Engine
    resident_bytes: int
    measured: bool = False
    calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def acquire(self) -> None:
        """An engine call starts."""
        self.calls += 1
        if self.calls == 1:
            self.idle.clear()

    def release(self) -> None:
        """An engine call has ended."""
        self.calls -= 1
        if self.calls == 0:
            self.idle.set()


class Batch:
    """One engine call for requests of one slot (a `deployments.lanes.Job`)."""

    __slots__ = ("finished", "loaded", "pending", "results", "seconds", "slot", "started")

    def __init__(self, slot: Slot, loaded: Loaded, pending: list[Pending], now: float) -> None:
        self.slot = slot
        self.loaded = loaded
        self.pending = pending
        self.started = now
        self.finished = now
        self.seconds = 0.0
        self.results: list[Result] = []

    def run(self) -> None:
        """In a worker thread. The clock starts here: waiting for the thread is queueing."""
        self.started = time.monotonic()
        try:
            self.results = run(self.loaded.engine, self.pending, self.slot.name)
        finally:
            self.finished = time.monotonic()
            self.seconds = self.finished - self.started

    def finish(self) -> None:
        """On the event loop."""
        self.slot.finish(self)


class Slot(Claimant):
    """All methods belong to the event loop. `wanted` is called when a request finds the model parked."""

    def __init__(
        self,
        entry: Entry,
        batching: Batching,
        hold_seconds: float,
        lanes: Lanes,
        loop: asyncio.AbstractEventLoop,
        wanted: Callable[[Slot], None],
    ) -> None:
        super().__init__()
        model = entry.model
        self.entry = entry
        self.name = model.name
        self.tally = Tally()
        self.state: SlotState = "LOADING"
        self.reason = "not started"
        self.loaded: Loaded | None = None
        self.queue: deque[Pending] = deque()
        self.resident: list[Loaded] = []
        self.max_batch = min(model.max_batch, batching.max_batch or model.max_batch) if model.batchable else 1
        self._batching = batching
        self._hold_seconds = hold_seconds
        self._names = tuple(spec.name for spec in model.inputs)
        self._lanes = lanes
        self._loop = loop
        self._wanted = wanted
        self._held_since: float | None = 0.0
        self._hold_timer: asyncio.TimerHandle | None = None
        self._delay_timer: asyncio.TimerHandle | None = None

    # Requests

    async def infer(self, inputs: Tensors, timeout_seconds: float | None) -> Answer:
        """See `deployments.api.Host.infer`."""
        rows, key = shape_of(self.entry.model, self._names, self.max_batch, inputs)
        if self.state == "UNAVAILABLE":
            raise Unavailable(f"model {self.name!r} is unavailable: {self.reason}")
        if len(self.queue) >= self._batching.queue:
            raise QueueFull(
                f"model {self.name!r}: {len(self.queue)} requests wait already, no more are accepted",
                retry_after_seconds=1.0,
            )
        now = time.monotonic()
        timeout = self._batching.timeout_seconds if timeout_seconds is None else timeout_seconds
        if timeout <= 0:
            raise DeadlineExceeded(f"model {self.name!r}: the deadline had passed when the request arrived")
        future = self._loop.create_future()
        pending = Pending(inputs, rows, key, now, now + timeout, future)
        pending.timer = self._loop.call_later(timeout, self._expire, pending, timeout)
        pending.waiting = True
        self.queue.append(pending)
        if self._held_since is None:
            self._lanes.offer(self)
        else:
            self._wait_held(now)
        try:
            answer: Answer = await future
        finally:
            pending.timer.cancel()
            if pending.waiting:  # the caller went away
                self._forget(pending)
        return answer

    def _forget(self, pending: Pending) -> None:
        pending.waiting = False
        self.queue.remove(pending)

    def _expire(self, pending: Pending, timeout: float) -> None:
        where = "waiting in the queue" if pending.waiting else "being computed"
        if pending.waiting:
            self._forget(pending)
        if not pending.future.done():
            message = f"model {self.name!r}: no result within {timeout:g} s; the request was {where}"
            pending.future.set_exception(DeadlineExceeded(message))

    # Turns (deployments.lanes)

    def has_work(self) -> bool:
        """Something waits and may run."""
        return bool(self.queue) and self._held_since is None

    def next_job(self) -> Batch | None:
        """The next batch, or None: nothing waits, or the oldest may still wait for company."""
        if not self.queue or self._held_since is not None or self.loaded is None:
            return None
        now = time.monotonic()
        if self._batching.max_delay_seconds and self.max_batch > 1 and self._delay(now):
            return None
        pending = take(self.queue, self.max_batch)
        self.loaded.acquire()
        return Batch(self, self.loaded, pending, now)

    def _delay(self, now: float) -> bool:
        until = self.queue[0].arrival + self._batching.max_delay_seconds
        if now >= until or sum(p.rows for p in self.queue) >= self.max_batch:
            return False
        if self._delay_timer is None:
            self._delay_timer = self._loop.call_later(until - now, self._delayed)
        return True

    def _delayed(self) -> None:
        self._delay_timer = None
        if self.has_work():
            self._lanes.offer(self)

    def finish(self, batch: Batch) -> None:
        """Answer a batch's requests and count them."""
        loaded, size = batch.loaded, 0
        loaded.release()
        seconds, variant = batch.seconds, loaded.variant
        results = batch.results
        for pending in batch.pending:
            size += pending.rows
        for pending, result in zip(batch.pending, results, strict=True):
            future = pending.future
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(Answer(result, variant, batch.started - pending.arrival, seconds, size))
        self.tally.executed(variant, size, [batch.started - p.arrival for p in batch.pending], seconds)

    # Steering (deployments.swapper)

    @property
    def variant(self) -> str | None:
        """The variant in force; while a model is swapped break-before-make, the one that was."""
        return None if self.loaded is None else self.loaded.variant

    def status(self) -> ModelStatus:
        """READY also while requests are held for a swap: they are answered."""
        return ModelStatus(self.state, self.variant, "" if self.state == "READY" else self.reason)

    def hold(self) -> None:
        """Run nothing new; what arrives waits, each request for `hold_seconds` at most."""
        if self._held_since is None:
            self._held_since = time.monotonic()
            self._wait_held(self._held_since)

    def serve(self, loaded: Loaded) -> None:
        """Put an engine in force and let what waits run."""
        self.loaded = loaded
        self.state, self.reason = "READY", ""
        self._held_since = None
        if self.queue:
            self._lanes.offer(self)

    def wait_for_load(self, reason: str) -> None:
        """Nothing is in force but something will be: hold what arrives."""
        self.loaded = None
        self.state, self.reason = "LOADING", reason
        self._held_since = self._held_since or time.monotonic()
        self._wait_held(time.monotonic())

    def park(self, reason: str) -> None:
        """Nothing is in force; the next request asks for a load, and one that waits already does so now."""
        self.loaded = None
        self.state, self.reason = "PARKED", reason
        self._held_since = self._held_since or time.monotonic()
        if self.queue:
            self._wait_held(time.monotonic())

    def refuse(self, reason: str) -> None:
        """Nothing is in force and nothing will be until told otherwise: what waits and what arrives is refused."""
        self.loaded = None
        self.state, self.reason = "UNAVAILABLE", reason
        self._held_since = self._held_since or time.monotonic()
        self.reject(f"is unavailable: {reason}", None)

    def reject(self, why: str, retry_after_seconds: float | None) -> None:
        """Refuse everything that waits."""
        while self.queue:
            self._reject(self.queue.popleft(), why, retry_after_seconds)

    def _reject(self, pending: Pending, why: str, retry_after_seconds: float | None) -> None:
        pending.waiting = False
        if not pending.future.done():
            message = f"model {self.name!r} {why}"
            pending.future.set_exception(Unavailable(message, retry_after_seconds=retry_after_seconds))

    def _wait_held(self, now: float) -> None:
        """Arm the timer for the request that has been held longest; ask for a load where nothing else would come."""
        if self.state == "PARKED":
            self._wanted(self)
        if self._hold_timer is None and self.queue and self._held_since is not None:
            since = max(self.queue[0].arrival, self._held_since)
            self._hold_timer = self._loop.call_later(max(0.0, since + self._hold_seconds - now), self._held_too_long)

    def _held_too_long(self) -> None:
        self._hold_timer = None
        if self._held_since is None:
            return
        now = time.monotonic()
        while self.queue and max(self.queue[0].arrival, self._held_since) + self._hold_seconds <= now:
            why = f"was not back within {self._hold_seconds:g} s ({self.reason or 'it is being swapped'})"
            self._reject(self.queue.popleft(), why, self._hold_seconds)
        self._wait_held(now)

    def close(self) -> None:
        """Forget the timers."""
        for timer in (self._hold_timer, self._delay_timer):
            if timer is not None:
                timer.cancel()
