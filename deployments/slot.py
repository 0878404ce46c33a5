"""A slot: one model's place in the host, with its queue, the engine in force and what it has counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from budgets.snapshot import Serving
from budgets.wishes import Candidate, refusal
from deployments import admission
from deployments.api import Answer, Deliver, ModelStatus, SlotState
from deployments.batching import Awaited, Pending, shape_of
from deployments.calls import Batch, Loaded
from deployments.company import Company
from deployments.config import Batching, ShadowConfig
from deployments.deadlines import Deadlines
from deployments.foresight import Foresight
from deployments.holding import Holding
from deployments.lanes import Claimant, Lanes
from deployments.padding import Padding, together, wasted
from deployments.reply import Reply
from deployments.shadow import Sampler
from deployments.shapes import Shapes
from deployments.tally import Tally
from deployments.waiting import Waiting
from variants.catalog import Entry
from variants.engines.base import Tensors
from variants.errors import DeadlineExceeded, TrimtabError, Unavailable, WishUnmet
from variants.lengths import bucket


class Slot(Claimant):
    """All methods belong to the event loop. `wanted` is called when a request finds the model parked. `device`: whose
    profiles count. `objective`: the model's latency objective in seconds."""

    def __init__(
        self,
        entry: Entry,
        batching: Batching,
        hold_seconds: float,
        lanes: Lanes,
        wanted: Callable[[Slot], None],
        *,
        device: str = "",
        weight: float = 1.0,
        objective: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        trace_id: Callable[[], str | None] | None = None,
        shadow: ShadowConfig | None = None,
    ) -> None:
        super().__init__(weight)
        model = entry.model
        self.entry = entry
        self.name = model.name
        self.tally = Tally(trace_id)
        self.sampler = Sampler(shadow or ShadowConfig())
        self.shapes = Shapes()
        self.state: SlotState = "LOADING"
        self.reason = "not started"
        self.loaded: Loaded | None = None
        self.variant: str | None = None
        self.resident: list[Loaded] = []
        self.told: Serving | None = None  # by the plan
        self.watchers: list[Callable[[], None]] = []  # called when another engine, or none, has come into force
        self.max_batch = min(model.max_batch, batching.max_batch or model.max_batch) if model.batchable else 1
        self._batching = batching
        self._names = tuple(spec.name for spec in model.inputs)
        self._padding = Padding.of(model) if self.max_batch > 1 else None
        self._company = Company(self.max_batch) if self._padding is not None else None
        self.queue = Waiting(self._company)
        self._lanes = lanes
        self._wanted = wanted
        self._profiles = {name: variant.profile(device) for name, variant in entry.variants.items()}
        self._qualities = {name: None if p is None else p.quality for name, p in self._profiles.items()}
        self._clock = clock
        self._deadlines = Deadlines(self._expire)
        self._foresight = Foresight(self.max_batch, batching, objective, clock())
        self._told_for: str | None = None  # the variant that will be in force when that holds; None: it does
        self._holding = Holding(self.name, self.queue, hold_seconds, clock, ask=self._ask, reason=lambda: self.reason)
        self._delay_timer: asyncio.TimerHandle | None = None

    # Requests

    async def infer(
        self,
        inputs: Tensors,
        timeout_seconds: float | None,
        protocol: str,
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Answer:
        """See `deployments.api.Host.infer`."""
        arrival = self._clock()
        try:
            future = asyncio.get_running_loop().create_future()
            pending = self._enqueue(inputs, timeout_seconds, arrival, priority, variants, future)
            try:
                answer: Answer = await pending.future
            finally:
                self._deadlines.drop(pending)
                if pending.waiting:  # the caller went away
                    self.queue.remove(pending)
        except TrimtabError as error:
            self.tally.failed(self.variant or "", type(error).__name__, protocol, self._clock() - arrival)
            raise
        except asyncio.CancelledError:
            self.tally.failed(self.variant or "", "Cancelled", protocol, self._clock() - arrival)
            raise
        self.tally.answered(answer.variant, protocol, self._clock() - arrival, pending.rows)
        return answer

    def submit(
        self,
        inputs: Tensors,
        timeout_seconds: float | None,
        protocol: str,
        deliver: Deliver,
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Reply:
        """As `infer`, for a caller that is called back. What is refused at once is raised, and not delivered."""
        arrival = self._clock()
        reply = Reply(self, protocol, deliver)
        try:
            reply.pending = self._enqueue(inputs, timeout_seconds, arrival, priority, variants, reply)
        except TrimtabError as error:
            self.tally.failed(self.variant or "", type(error).__name__, protocol, self._clock() - arrival)
            raise
        return reply

    def answered(self, answer: Answer, pending: Pending, protocol: str) -> None:
        """See `deployments.reply.Owner`."""
        self._deadlines.drop(pending)
        self.tally.answered(answer.variant, protocol, self._clock() - pending.arrival, pending.rows)

    def failed(self, code: str, pending: Pending, protocol: str) -> None:
        """See `deployments.reply.Owner`."""
        self._deadlines.drop(pending)
        if pending.waiting:  # the caller went away
            self.queue.remove(pending)
        self.tally.failed(self.variant or "", code, protocol, self._clock() - pending.arrival)

    def _enqueue(
        self,
        inputs: Tensors,
        timeout_seconds: float | None,
        now: float,
        priority: int,
        variants: frozenset[str] | None,
        future: Awaited,
    ) -> Pending:
        priority = priority or self._batching.default_priority
        rows, key = shape_of(self.entry.model, self._names, self.max_batch, inputs)
        length = 0
        if self._padding is not None and (found := self._padding.length(inputs)):
            key, length = bucket(found), found
        if self.state == "UNAVAILABLE":
            raise Unavailable(f"model {self.name!r} is unavailable: {self.reason}")
        if variants is not None and self.variant is not None and self.variant not in variants:
            raise self._unmet(variants)
        timeout = self._batching.timeout_seconds if timeout_seconds is None else timeout_seconds
        if timeout <= 0:
            raise DeadlineExceeded(f"model {self.name!r}: the deadline had passed when the request arrived")
        queue, foresight = self.queue, self._foresight
        pace = foresight.pace
        # Most deadlines are far away and most queues have room: then nothing needs to be predicted.
        tight = queue.count > 0 and (
            queue.rows * pace.drain + 2 * pace.longest > foresight.share * timeout
            or queue.count >= self._batching.queue
        )
        if tight:
            self._admit(rows, priority, timeout, now)
        pending = Pending(inputs, rows, key, now, now + timeout, future, priority, length, variants)
        pending.tight = tight
        self._deadlines.add(pending, timeout)
        queue.append(pending)
        if foresight.delay_cap:
            foresight.arrived(rows)
        if self._holding.since is None:
            self._lanes.offer(self)
        else:
            self._holding.watch(now)
        return pending

    def _admit(self, rows: int, priority: int, timeout: float, now: float) -> None:
        """Refuse what could not be answered in time; make room in a full queue. Raises QueueFull."""
        admission.in_time(
            self.name, self._foresight, self.queue, self._expected(rows, priority, now), priority, timeout
        )
        if self.queue.count >= self._batching.queue:
            least = admission.gives_way(self.name, self._foresight, self.queue, priority)
            self.queue.remove(least)
            if not least.future.done():
                least.future.set_exception(admission.displaced(self.name, self._foresight, self.queue))

    def _expected(self, rows: int, priority: int, now: float) -> float | None:
        """None also while no engine is in force."""
        if self._holding.since is not None:
            return None
        return self._foresight.expected(self.queue, rows, priority, now, running=self.running > 0)

    def candidate(self, rows: int, priority: int) -> Candidate:
        """See `deployments.api.Host.candidate`."""
        rows = min(rows, self.max_batch)
        expected = self._expected(rows, priority or self._batching.default_priority, self._clock())
        latency, idle = self._foresight.latency(rows, expected) if self.variant is not None else (None, None)
        return Candidate(self.name, self.variant, self._qualities, latency, idle)

    def _unmet(self, variants: frozenset[str]) -> WishUnmet:
        offers = [self.candidate(1, 0).offer()]
        return WishUnmet(refusal(f"one of the variants {', '.join(sorted(variants))}", offers), available=offers)

    def _expire(self, pending: Pending) -> None:
        where = "still waiting" if pending.waiting else "being computed"
        if pending.waiting:
            self.queue.remove(pending)
        if pending.tight and self._holding.since is None:
            self._foresight.missed()
        self._too_late(pending, where)

    def _too_late(self, pending: Pending, where: str) -> None:
        if not pending.future.done():
            timeout = pending.deadline - pending.arrival
            message = f"model {self.name!r}: no result within {timeout:.3g} s; the request was {where}"
            pending.future.set_exception(DeadlineExceeded(message))

    # Turns (deployments.lanes)

    def has_work(self) -> bool:
        """Something waits and may run."""
        return self.queue.count > 0 and self._holding.since is None

    def next_job(self) -> Batch | None:
        """The next batch, or None: nothing waits, or the oldest may still wait for company."""
        queue = self.queue
        if not queue.count or self._holding.since is not None or self.loaded is None:
            return None
        now = self._clock()
        foresight = self._foresight
        if foresight.delay_cap and (until := foresight.delay(queue, now)) is not None:
            if self._delay_timer is not None:
                self._delay_timer.cancel()
            self._delay_timer = asyncio.get_running_loop().call_later(until - now, self._end_delay)
            return None
        room = foresight.room(queue)
        pending, late = queue.take(room, now)
        if len(pending) > 1 and self._padding is not None:
            count = together(pending, self.max_batch)
            queue.put_back(pending[count:])
            del pending[count:]
        for expired in late:
            self._too_late(expired, "still waiting")
        if not pending:
            return None
        rows = sum([p.rows for p in pending]) if len(pending) > 1 else pending[0].rows
        eligible = foresight.begin(pending[0].arrival, rows, now)
        brief = foresight.pace.brief(rows, now)
        return Batch(
            self.name, self.loaded, pending, rows, self, eligible, queue.count > 0, self._padding, self._clock, brief
        )

    def _end_delay(self) -> None:
        self._delay_timer = None
        if self.has_work():
            self._lanes.offer(self)

    def call_ended(self, batch: Batch) -> None:
        """See `deployments.calls.Owner`."""
        self._foresight.ended(batch, in_force=batch.loaded is self.loaded)

    def hand_out(self, batch: Batch) -> None:
        """See `deployments.calls.Owner`."""
        seconds, variant, started, size = batch.seconds, batch.loaded.variant, batch.started, batch.rows
        queued = []
        for pending, result in zip(batch.pending, batch.results, strict=True):
            queue_seconds = started - pending.arrival
            queued.append(queue_seconds)
            future = pending.future
            if future.done():  # expired or cancelled meanwhile
                continue
            if isinstance(result, dict):
                future.set_result(Answer(result, variant, queue_seconds, seconds, size))
                if pending.tight:
                    self._foresight.kept()
            else:
                future.set_exception(result)
        self.tally.executed(variant, size, queued, seconds, batch.around)
        self.shapes.ran(batch.shape)
        if self._company is not None:
            padded, positions = wasted(batch.pending)
            self.tally.padded(padded, positions)
            if batch.loaded is self.loaded:
                self._company.overhead.took(positions, seconds)
        if started >= self.sampler.due and isinstance(batch.results[0], dict):
            self.sampler.take(batch.pending[0].inputs, batch.results[0], variant, started)

    # Steering (deployments.swapper)

    def status(self) -> ModelStatus:
        """READY also while requests are held for a swap: they are answered."""
        return ModelStatus(self.state, self.variant, self.reason)

    def tune(self, serving: Serving, variant: str | None) -> None:
        """Serve as the plan says, from the next call on; where another variant is to run then, from when it does."""
        self.told, self._told_for = serving, variant
        if variant is None or variant == self.variant:
            self._follow(serving)

    def _follow(self, serving: Serving) -> None:
        self._told_for = None
        self.weight = serving.weight
        self._foresight.tune(serving.batch, serving.objective)

    def serve(self, loaded: Loaded) -> None:
        """Put an engine in force and let what waits run."""
        if self.told is not None and self._told_for == loaded.variant:
            self._follow(self.told)
        if loaded is not self.loaded:
            self.renew()
            self._foresight.renew(self._profiles[loaded.variant])
            if self._company is not None:
                self._company.renew()
        self.loaded, self.variant = loaded, loaded.variant
        self.state, self.reason = "READY", ""
        self._holding.end()
        self._foresight.resume(self._clock())
        for pending in list(self.queue):
            if pending.variants is not None and loaded.variant not in pending.variants:
                self.queue.remove(pending)
                if not pending.future.done():
                    pending.future.set_exception(self._unmet(pending.variants))
        self._changed()
        if self.queue:
            self._lanes.offer(self)

    def _changed(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()

    async def in_force(self, timeout_seconds: float) -> Loaded:
        """The engine in force, as soon as there is one; a parked model is asked for. Raises Unavailable."""
        changed = asyncio.Event()
        self.watchers.append(changed.set)
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.loaded is None or self._holding.since is not None:
                    if self.state == "UNAVAILABLE":
                        raise Unavailable(f"model {self.name!r} is unavailable: {self.reason}")
                    if self.state == "PARKED":
                        self._wanted(self)
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise Unavailable(
                f"model {self.name!r} was not back within {timeout_seconds:g} s", retry_after_seconds=timeout_seconds
            ) from None
        finally:
            self.watchers.remove(changed.set)
        return self.loaded

    def hold(self) -> None:
        """Run nothing new; what arrives waits, each request for `hold_seconds` at most. `variant` and state stay: the
        model is between two engines, and answers."""
        self._holding.begin()

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
        self._changed()

    def reject(self, why: str, retry_after_seconds: float | None) -> None:
        """Refuse everything that waits."""
        self._holding.reject(why, retry_after_seconds)

    def _ask(self) -> None:
        if self.state == "PARKED":
            self._wanted(self)

    def close(self) -> None:
        """Forget the timers."""
        self._deadlines.close()
        self._holding.close()
        if self._delay_timer is not None:
            self._delay_timer.cancel()
