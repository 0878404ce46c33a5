"""A slot: one model's place in the host, with its queue, the engine in force and what it has counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from deployments.api import Answer, ModelStatus, SlotState
from deployments.batching import Pending, shape_of, take
from deployments.calls import Batch, Loaded
from deployments.config import Batching
from deployments.lanes import Claimant, Lanes
from deployments.tally import Tally
from variants.catalog import Entry
from variants.engines.base import Tensors
from variants.errors import DeadlineExceeded, QueueFull, TrimtabError, Unavailable

#: What a client is told to wait before it tries a full queue again.
QUEUE_FULL_RETRY_SECONDS = 1.0


class Slot(Claimant):
    """All methods belong to the event loop. `wanted` is called when a request finds the model parked."""

    def __init__(
        self,
        entry: Entry,
        batching: Batching,
        hold_seconds: float,
        lanes: Lanes,
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
        self.variant: str | None = None
        self.resident: list[Loaded] = []
        self.queue: deque[Pending] = deque()
        self.max_batch = min(model.max_batch, batching.max_batch or model.max_batch) if model.batchable else 1
        self._batching = batching
        self._hold_seconds = hold_seconds
        self._names = tuple(spec.name for spec in model.inputs)
        self._lanes = lanes
        self._wanted = wanted
        self._held_since: float | None = time.monotonic()
        self._hold_timer: asyncio.TimerHandle | None = None
        self._delay_timer: asyncio.TimerHandle | None = None

    # Requests

    async def infer(self, inputs: Tensors, timeout_seconds: float | None, protocol: str) -> Answer:
        """See `deployments.api.Host.infer`."""
        arrival = time.monotonic()
        try:
            pending = self._enqueue(inputs, timeout_seconds, arrival)
            try:
                answer = await pending.future
            finally:
                if pending.timer is not None:
                    pending.timer.cancel()
                if pending.waiting:  # the caller went away
                    self._forget(pending)
        except TrimtabError as error:
            self.tally.failed(self.variant or "", type(error).__name__, protocol, time.monotonic() - arrival)
            raise
        except asyncio.CancelledError:
            self.tally.failed(self.variant or "", "Cancelled", protocol, time.monotonic() - arrival)
            raise
        self.tally.answered(answer.variant, protocol, time.monotonic() - arrival, pending.rows)
        return answer

    def _enqueue(self, inputs: Tensors, timeout_seconds: float | None, now: float) -> Pending:
        rows, key = shape_of(self.entry.model, self._names, self.max_batch, inputs)
        if self.state == "UNAVAILABLE":
            raise Unavailable(f"model {self.name!r} is unavailable: {self.reason}")
        if len(self.queue) >= self._batching.queue:
            raise QueueFull(
                f"model {self.name!r}: {len(self.queue)} requests wait already, no more are accepted",
                retry_after_seconds=QUEUE_FULL_RETRY_SECONDS,
            )
        timeout = self._batching.timeout_seconds if timeout_seconds is None else timeout_seconds
        if timeout <= 0:
            raise DeadlineExceeded(f"model {self.name!r}: the deadline had passed when the request arrived")
        loop = asyncio.get_running_loop()
        pending = Pending(inputs, rows, key, now, now + timeout, loop.create_future())
        pending.timer = loop.call_later(timeout, self._expire, pending)
        pending.waiting = True
        self.queue.append(pending)
        if self._held_since is None:
            self._lanes.offer(self)
        else:
            self._wait_held(now)
        return pending

    def _forget(self, pending: Pending) -> None:
        pending.waiting = False
        self.queue.remove(pending)

    def _expire(self, pending: Pending) -> None:
        where = "still waiting" if pending.waiting else "being computed"
        if pending.waiting:
            self._forget(pending)
        if not pending.future.done():
            timeout = pending.deadline - pending.arrival
            message = f"model {self.name!r}: no result within {timeout:.3g} s; the request was {where}"
            pending.future.set_exception(DeadlineExceeded(message))

    # Turns (deployments.lanes)

    def has_work(self) -> bool:
        """Something waits and may run."""
        return bool(self.queue) and self._held_since is None

    def next_job(self) -> Batch | None:
        """The next batch, or None: nothing waits, or the oldest may still wait for company."""
        if not self.queue or self._held_since is not None or self.loaded is None:
            return None
        if self._batching.max_delay_seconds and self.max_batch > 1 and self._delay(time.monotonic()):
            return None
        return Batch(self.name, self.loaded, take(self.queue, self.max_batch), self._answer)

    def _delay(self, now: float) -> bool:
        until = self.queue[0].arrival + self._batching.max_delay_seconds
        if now >= until or sum(p.rows for p in self.queue) >= self.max_batch:
            return False
        if self._delay_timer is None:
            self._delay_timer = asyncio.get_running_loop().call_later(until - now, self._delayed)
        return True

    def _delayed(self) -> None:
        self._delay_timer = None
        if self.has_work():
            self._lanes.offer(self)

    def _answer(self, batch: Batch) -> None:
        seconds, variant, started = batch.seconds, batch.loaded.variant, batch.started
        size = sum([pending.rows for pending in batch.pending])
        queued = []
        for pending, result in zip(batch.pending, batch.results, strict=True):
            queue_seconds = started - pending.arrival
            queued.append(queue_seconds)
            future = pending.future
            if future.done():  # expired or cancelled meanwhile
                continue
            if isinstance(result, dict):
                future.set_result(Answer(result, variant, queue_seconds, seconds, size))
            else:
                future.set_exception(result)
        self.tally.executed(variant, size, queued, seconds)

    # Steering (deployments.swapper)

    def status(self) -> ModelStatus:
        """READY also while requests are held for a swap: they are answered."""
        return ModelStatus(self.state, self.variant, self.reason)

    def serve(self, loaded: Loaded) -> None:
        """Put an engine in force and let what waits run."""
        if loaded is not self.loaded:
            self.renew()
        self.loaded, self.variant = loaded, loaded.variant
        self.state, self.reason = "READY", ""
        self._held_since = None
        if self.queue:
            self._lanes.offer(self)

    def hold(self) -> None:
        """Run nothing new; what arrives waits, each request for `hold_seconds` at most. `variant` and state stay: the
        model is between two engines, and answers."""
        if self._held_since is None:
            self._held_since = time.monotonic()
        if self.queue:
            self._wait_held(time.monotonic())

    def vacate(self) -> None:
        """Held, and the engine that was in force is about to be closed: drop the reference to it."""
        self.loaded = None

    def wait_for_load(self, reason: str) -> None:
        """Nothing is in force but something will be: hold what arrives."""
        self._empty("LOADING", reason)

    def park(self, reason: str) -> None:
        """Nothing is in force; the next request asks for a load, and one that waits already does so now."""
        self._empty("PARKED", reason)

    def refuse(self, reason: str) -> None:
        """Nothing is in force and nothing will be until told otherwise: what waits and what arrives is refused."""
        self._empty("UNAVAILABLE", reason)
        self.reject(f"is unavailable: {reason}", None)

    def _empty(self, state: SlotState, reason: str) -> None:
        self.loaded = self.variant = None
        self.state, self.reason = state, reason
        self.hold()

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
        """Ask for a load where nothing else would bring one; arm the timer for the request held longest."""
        if self.state == "PARKED":
            self._wanted(self)
        if self._hold_timer is None and self.queue and self._held_since is not None:
            since = max(self.queue[0].arrival, self._held_since)
            left = max(0.0, since + self._hold_seconds - now)
            self._hold_timer = asyncio.get_running_loop().call_later(left, self._held_too_long)

    def _held_too_long(self) -> None:
        self._hold_timer = None
        if self._held_since is None:
            return
        now = time.monotonic()
        # The loop's timer may fire a clock tick early: what is due within a millisecond is due.
        while self.queue and max(self.queue[0].arrival, self._held_since) + self._hold_seconds <= now + 0.001:
            why = f"was not back within {self._hold_seconds:g} s ({self.reason or 'it is being swapped'})"
            self._reject(self.queue.popleft(), why, self._hold_seconds)
        if self.queue:
            self._wait_held(now)

    def close(self) -> None:
        """Forget the timers."""
        for timer in (self._hold_timer, self._delay_timer):
            if timer is not None:
                timer.cancel()
