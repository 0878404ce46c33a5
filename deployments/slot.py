"""A slot: one model's place in the host, with its queue, the engine in force and what it has counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from budgets.snapshot import Serving
from budgets.wishes import Candidate
from deployments.admission import Admission
from deployments.api import Answer, Deliver, ModelStatus, SlotState
from deployments.batching import Awaited, Pending
from deployments.calls import Batch, Loaded
from deployments.company import Company
from deployments.config import Batching, ShadowConfig
from deployments.foresight import Foresight
from deployments.holding import Holding
from deployments.lanes import Claimant, Lanes
from deployments.padding import Padding, together
from deployments.reply import Reply
from deployments.results import Results
from deployments.shadow import Sampler
from deployments.shapes import Shapes
from deployments.standing import Standing
from deployments.tally import Tally
from deployments.waiting import Waiting
from variants.catalog import Entry
from variants.engines.base import Tensors
from variants.errors import QueueFull, TrimtabError


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
        self.resident: list[Loaded] = []
        self.told: Serving | None = None  # by the plan
        self.max_batch = min(model.max_batch, batching.max_batch or model.max_batch) if model.batchable else 1
        self.standing = Standing()
        self._padding = Padding.of(model) if self.max_batch > 1 else None
        self._company = Company(self.max_batch) if self._padding is not None else None
        self.queue = Waiting(self._company)
        self._lanes = lanes
        self._wanted = wanted
        self._profiles = {name: variant.profile(device) for name, variant in entry.variants.items()}
        self._clock = clock
        self._foresight = Foresight(self.max_batch, batching, objective, clock())
        self._told_for: str | None = None  # the variant that will be in force when that holds; None: it does
        self._holding = Holding(self.name, self.queue, hold_seconds, clock, self.standing, ask=self._ask)
        self._admission = Admission(
            model,
            self.max_batch,
            batching,
            self._padding,
            self.standing,
            self._holding,
            self.queue,
            self._foresight,
            {name: None if p is None else p.quality for name, p in self._profiles.items()},
            clock,
            running=lambda: self.running > 0,
            at_hand=self._rows_at_hand,
        )
        self._results = Results(self.standing, self._foresight, self._company, self.tally, self.sampler, self.shapes)
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
                self._admission.leave(pending)
        except TrimtabError as error:
            self.tally.failed(self.standing.variant or "", type(error).__name__, protocol, self._clock() - arrival)
            raise
        except asyncio.CancelledError:
            self.tally.failed(self.standing.variant or "", "Cancelled", protocol, self._clock() - arrival)
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
            self.tally.failed(self.standing.variant or "", type(error).__name__, protocol, self._clock() - arrival)
            raise
        return reply

    def pressed(self) -> bool:
        """See `deployments.api.Host.pressed`."""
        return self._admission.pressed()

    def turn_away(self, protocol: str, timeout_seconds: float | None) -> None:
        """See `deployments.api.Host.turn_away`."""
        try:
            self._admission.turn_away(timeout_seconds)
        except QueueFull:
            self.tally.failed(self.standing.variant or "", QueueFull.__name__, protocol, 0.0)
            raise

    def answered(self, answer: Answer, pending: Pending, protocol: str) -> None:
        """See `deployments.reply.Owner`."""
        self._admission.leave(pending)
        self.tally.answered(answer.variant, protocol, self._clock() - pending.arrival, pending.rows)

    def failed(self, code: str, pending: Pending, protocol: str) -> None:
        """See `deployments.reply.Owner`."""
        self._admission.leave(pending)
        self.tally.failed(self.standing.variant or "", code, protocol, self._clock() - pending.arrival)

    def _enqueue(
        self,
        inputs: Tensors,
        timeout_seconds: float | None,
        now: float,
        priority: int,
        variants: frozenset[str] | None,
        future: Awaited,
    ) -> Pending:
        pending = self._admission.enter(inputs, timeout_seconds, now, priority, variants, future)
        if (
            self.at_hand
            and (following := self._next())
            and max(p.priority for p in following.pending) > pending.priority
        ):
            self._take_back()
        if self._holding.since is None:
            self._lanes.offer(self)
        else:
            self._holding.watch(now)
        return pending

    def candidate(self, rows: int, priority: int) -> Candidate:
        """See `deployments.api.Host.candidate`."""
        return self._admission.candidate(rows, priority)

    # Turns (deployments.lanes)

    def has_work(self) -> bool:
        """Something waits and may run."""
        return self.queue.count > 0 and self._holding.since is None

    def next_job(self) -> Batch | None:
        """The next batch, or None: nothing waits, or the oldest may still wait for company."""
        queue, now = self.queue, self._clock()
        if not queue.count or self._holding.since is not None or self.standing.loaded is None:
            return None
        foresight = self._foresight
        if foresight.delay_cap and (until := foresight.delay(queue, now)) is not None:
            if self._delay_timer is not None:
                self._delay_timer.cancel()
            self._delay_timer = asyncio.get_running_loop().call_later(until - now, self._end_delay)
            return None
        pending = self._together(foresight.room(queue), now)
        return self._call(self.standing.loaded, pending, now) if pending else None

    def full_job(self) -> Batch | None:
        """See `deployments.lanes.Claimant.full_job`."""
        queue, loaded, now = self.queue, self.standing.loaded, self._clock()
        room = self._foresight.room(queue)
        if queue.rows < room or self._holding.since is not None or loaded is None:
            return None
        pending = self._together(room, now)
        if sum([p.rows for p in pending]) < room:
            queue.put_back(pending)
            return None
        return self._call(loaded, pending, now)

    def _together(self, room: int, now: float) -> list[Pending]:
        """Take what shares the next call, of so many rows at most."""
        pending, late = self.queue.take(room, now)
        if len(pending) > 1 and self._padding is not None:
            count = together(pending, self.max_batch)
            self.queue.put_back(pending[count:])
            del pending[count:]
        for expired in late:
            self._admission.too_late(expired, "still waiting")
        return pending

    def _call(self, loaded: Loaded, pending: list[Pending], now: float) -> Batch:
        rows = sum([p.rows for p in pending]) if len(pending) > 1 else pending[0].rows
        eligible = self._foresight.begin(pending[0].arrival, rows, now)
        brief = self._foresight.pace.brief(rows, now)
        batch = Batch(
            self.name,
            loaded,
            pending,
            rows,
            self._results,
            eligible,
            self.queue.count > 0,
            self._padding,
            self._clock,
            brief,
        )
        if self._company is not None:
            self._company.made(*batch.wasted)
        return batch

    def _next(self) -> Batch | None:
        """The call that is at hand."""
        for job, _ in tuple(self.at_hand):
            assert isinstance(job, Batch)
            return job
        return None

    def _rows_at_hand(self) -> int:
        following = self._next()
        return 0 if following is None else following.rows

    def _take_back(self) -> None:
        """What is at hand waits again: another engine is to run it, or somebody more important has come."""
        with contextlib.suppress(IndexError):  # a thread may be quicker
            job, _ = self.at_hand.popleft()
            assert isinstance(job, Batch)
            job.loaded.release()
            self.queue.put_back([pending for pending in job.pending if not pending.future.done()])

    def _end_delay(self) -> None:
        self._delay_timer = None
        if self.has_work():
            self._lanes.offer(self)

    # Steering (deployments.swapper)

    def status(self) -> ModelStatus:
        """See `deployments.standing.Standing.status`."""
        return self.standing.status()

    @property
    def state(self) -> SlotState:
        """What clients see."""
        return self.standing.state

    @property
    def reason(self) -> str:
        """Why it is not READY."""
        return self.standing.reason

    @property
    def loaded(self) -> Loaded | None:
        """The engine in force."""
        return self.standing.loaded

    @property
    def variant(self) -> str | None:
        """The variant in force; between two engines the one before."""
        return self.standing.variant

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
            self._take_back()
            self.renew()
            self.width = loaded.width
            self._foresight.renew(self._profiles[loaded.variant])
            if self._company is not None:
                self._company.renew()
        self.standing.put(loaded)
        self._holding.end()
        self._foresight.resume(self._clock())
        self._admission.review()
        self.standing.tell()
        if self.queue:
            self._lanes.offer(self)

    async def in_force(self, timeout_seconds: float) -> Loaded:
        """See `deployments.holding.Holding.in_force`."""
        return await self._holding.in_force(timeout_seconds)

    def hold(self) -> None:
        """Run nothing new; what arrives waits, each request for `hold_seconds` at most. `variant` and state stay: the
        model is between two engines, and answers."""
        self._holding.begin()

    def vacate(self) -> None:
        """Held, and the engine that was in force is about to be closed: drop the reference to it."""
        self.standing.vacate()

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
        self.standing.empty(state, reason)
        self.hold()
        self.standing.tell()

    def reject(self, why: str, retry_after_seconds: float | None) -> None:
        """Refuse everything that waits."""
        self._holding.reject(why, retry_after_seconds)

    def _ask(self) -> None:
        if self.state == "PARKED":
            self._wanted(self)

    def close(self) -> None:
        """Forget the timers."""
        self._admission.close()
        self._holding.close()
        if self._delay_timer is not None:
            self._delay_timer.cancel()
