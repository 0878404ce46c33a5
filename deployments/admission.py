"""Who is let into a queue, who is not, and who has to leave it: displaced by a more important request, or too late."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from budgets.wishes import Candidate, refusal
from deployments.batching import Awaited, Pending, shape_of
from deployments.config import Batching
from deployments.deadlines import Deadlines
from deployments.foresight import Foresight
from deployments.holding import Holding
from deployments.padding import Padding
from deployments.standing import Standing
from deployments.waiting import Waiting
from variants.catalog import Model
from variants.engines.base import Tensors
from variants.errors import DeadlineExceeded, QueueFull, Unavailable, WishUnmet
from variants.lengths import bucket

#: What a client is told to wait before it tries a full queue again, where the queue's pace is not known.
QUEUE_FULL_RETRY_SECONDS = 1.0


class Admission:
    """One model's. Belongs to the event loop. `qualities`: of its variants, by name. `running`: whether calls of its are under way."""

    def __init__(
        self,
        model: Model,
        max_batch: int,
        batching: Batching,
        padding: Padding | None,
        standing: Standing,
        holding: Holding,
        queue: Waiting,
        foresight: Foresight,
        qualities: Mapping[str, float | None],
        clock: Callable[[], float],
        *,
        running: Callable[[], bool],
        at_hand: Callable[[], int],
    ) -> None:
        self._model = model
        self._name = model.name
        self._names = tuple(spec.name for spec in model.inputs)
        self._max_batch = max_batch
        self._batching = batching
        self._padding = padding
        self._standing = standing
        self._holding = holding
        self._queue = queue
        self._foresight = foresight
        self._qualities = qualities
        self._clock = clock
        self._running = running
        self._at_hand = at_hand
        self._deadlines = Deadlines(self._expire)

    # Arrivals

    def enter(
        self,
        inputs: Tensors,
        timeout_seconds: float | None,
        now: float,
        priority: int,
        variants: frozenset[str] | None,
        future: Awaited,
    ) -> Pending:
        """Queue a request. Raises InvalidInput, Unavailable, WishUnmet, DeadlineExceeded, QueueFull."""
        priority = priority or self._batching.default_priority
        rows, key = shape_of(self._model, self._names, self._max_batch, inputs)
        length = 0
        if self._padding is not None and (found := self._padding.length(inputs)):
            key, length = bucket(found), found
        standing = self._standing
        if standing.state == "UNAVAILABLE":
            raise Unavailable(f"model {self._name!r} is unavailable: {standing.reason}")
        if variants is not None and standing.variant is not None and standing.variant not in variants:
            raise self._unmet(variants)
        timeout = self._batching.timeout_seconds if timeout_seconds is None else timeout_seconds
        if timeout <= 0:
            raise DeadlineExceeded(f"model {self._name!r}: the deadline had passed when the request arrived")
        queue, foresight = self._queue, self._foresight
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
        return pending

    def _admit(self, rows: int, priority: int, timeout: float, now: float) -> None:
        """Refuse what could not be answered in time; make room in a full queue. Raises QueueFull."""
        queue = self._queue
        self._in_time(rows, priority, timeout, now)
        if queue.count < self._batching.queue:
            return
        least = self._least(priority)
        queue.remove(least)
        if not least.future.done():
            message = f"model {self._name!r}: the queue is full, and a request of higher priority came"
            least.future.set_exception(QueueFull(message, retry_after_seconds=self._retry()))

    def _in_time(self, rows: int, priority: int, timeout: float, now: float) -> None:
        """Raises QueueFull where the answer would come too late."""
        expected, share = self._expected(rows, priority, now), self._foresight.share
        if expected is not None and expected > share * timeout:
            raise QueueFull(
                f"model {self._name!r}: an answer is expected in {expected:.3g} s behind {self._queue.ahead(priority)} rows "
                f"that wait, too near to the deadline of {timeout:.3g} s or beyond it",
                retry_after_seconds=expected - share * timeout,
            )

    def _least(self, priority: int) -> Pending:
        """Who makes room in a full queue for one of that priority. Raises QueueFull where nobody is less important."""
        least = self._queue.least()
        if least is None or least.priority <= priority:
            raise QueueFull(
                f"model {self._name!r}: {self._queue.count} requests wait already, no more are accepted",
                retry_after_seconds=self._retry(),
            )
        return least

    def pressed(self) -> bool:
        """See `deployments.api.Host.pressed`: more waits than the next two calls can take, or all that may."""
        queue = self._queue
        return queue.rows > 2 * self._max_batch or queue.count >= self._batching.queue

    def turn_away(self, timeout_seconds: float | None) -> None:
        """See `deployments.api.Host.turn_away`."""
        priority = self._batching.default_priority
        if self._queue.count >= self._batching.queue:
            self._least(priority)
        timeout = self._batching.timeout_seconds if timeout_seconds is None else timeout_seconds
        if timeout > 0:  # whose time was up on arrival is told so, which is not this
            self._in_time(1, priority, timeout, self._clock())  # a request has a row at least

    def _retry(self) -> float:
        """When half of what waits will be gone."""
        return max(QUEUE_FULL_RETRY_SECONDS, self._queue.rows * self._foresight.pace.drain / 2)

    # What one that came now could expect

    def _expected(self, rows: int, priority: int, now: float) -> float | None:
        """Seconds until it would be answered; None while that is not known, or no engine is in force."""
        if self._holding.since is not None:
            return None
        ahead = self._queue.ahead(priority) + self._at_hand()
        return self._foresight.expected(ahead, rows, now, running=self._running())

    def candidate(self, rows: int, priority: int) -> Candidate:
        """See `deployments.api.Host.candidate`."""
        rows = min(rows, self._max_batch)
        variant = self._standing.variant
        expected = self._expected(rows, priority or self._batching.default_priority, self._clock())
        latency, idle = self._foresight.latency(rows, expected) if variant is not None else (None, None)
        return Candidate(self._name, variant, self._qualities, latency, idle)

    def _unmet(self, variants: frozenset[str]) -> WishUnmet:
        offers = [self.candidate(1, 0).offer()]
        return WishUnmet(refusal(f"one of the variants {', '.join(sorted(variants))}", offers), available=offers)

    # Departures

    def review(self) -> None:
        """Another variant is in force: whoever waits for others is told."""
        variant = self._standing.variant
        for pending in list(self._queue):
            if pending.variants is not None and variant not in pending.variants:
                self._queue.remove(pending)
                if not pending.future.done():
                    pending.future.set_exception(self._unmet(pending.variants))

    def leave(self, pending: Pending) -> None:
        """The request has its answer, or nobody waits for one any more."""
        self._deadlines.drop(pending)
        if pending.waiting:
            self._queue.remove(pending)

    def _expire(self, pending: Pending) -> None:
        where = "still waiting" if pending.waiting else "being computed"
        if pending.waiting:
            self._queue.remove(pending)
        if pending.tight and self._holding.since is None:
            self._foresight.missed()
        self.too_late(pending, where)

    def too_late(self, pending: Pending, where: str) -> None:
        """Tell one whose time is up `where` it was."""
        if not pending.future.done():
            timeout = pending.deadline - pending.arrival
            message = f"model {self._name!r}: no result within {timeout:.3g} s; the request was {where}"
            pending.future.set_exception(DeadlineExceeded(message))

    def close(self) -> None:
        """Forget the timers."""
        self._deadlines.close()
