"""What a slot expects: when a request would be answered, how large the next call may be, whether to wait for company.

No asyncio and no clock: `now` is of the monotonic clock, in seconds.
"""

from __future__ import annotations

from budgets.latency import OVERHEAD
from deployments.calls import Batch
from deployments.config import Batching
from deployments.pace import DELAY_SHARE, Pace, Rate, company, largest
from deployments.waiting import Waiting
from variants.catalog import Profile

#: A request is admitted when it is expected to take this share of its time at most. Under overload every admitted request
#: is near the bound: with none to spare, half of what is computed would come too late. How much to spare depends on how
#: much calls vary, so each miss takes a tenth from the share, and each answer in time gives some back: a few in a hundred
#: are missed then.
SHARE, LEAST_SHARE = 0.8, 0.2
MISSED, KEPT = 0.9, 0.001


class Foresight:
    """One model's. `delay_cap`: seconds that a request may wait for company, 0 where none ever does. `share`: of a
    request's time, what its answer may be expected to take for it to be admitted."""

    def __init__(self, max_batch: int, batching: Batching, objective: float | None, now: float) -> None:
        self._largest = max_batch
        self._max_delay = batching.max_delay_seconds
        self.delay_cap = 0.0
        self.pace = Pace(None, max_batch)
        self._rate = Rate(now)
        self._started = self._finished = now
        self.share = SHARE
        self._flight = 1  # rows of the call that began last
        self._delayed = False
        self.tune(None, objective)

    def tune(self, limit: int | None, objective: float | None) -> None:
        """Join at most `limit` rows (None: as many as there may be) in a call, and keep this objective (seconds)."""
        self._max_batch = self._largest if limit is None else min(limit, self._largest)
        self._objective = objective
        longest = DELAY_SHARE * (objective or 0.0) if self._max_delay is None else self._max_delay
        self.delay_cap = 0.0 if self._max_batch == 1 else longest
        self._within = self._max_batch  # rows of a call that leaves room within the objective
        self._limit()

    def renew(self, profile: Profile | None) -> None:
        """Another variant comes into force; its profile is what is known of it."""
        self.pace = Pace(profile, self._max_batch)
        self._within = self._max_batch
        self._limit()

    def resume(self, now: float) -> None:
        """Calls may begin now: what held them up before says nothing of their pace."""
        self._finished = now

    def arrived(self, rows: int) -> None:
        """A request came."""
        self._rate.arrived(rows)

    def expected(self, ahead: int, rows: int, now: float, *, running: bool) -> float | None:
        """Seconds until a request that came now would be answered, behind so many rows `ahead` of it that do not run yet; None
        while nothing is known.

        One that has to wait will share its call with others, so that it takes as long as those before.
        """
        pace = self.pace
        own = pace.seconds(rows)
        if own is None:
            return None
        if not running:
            return ahead * pace.drain + own
        flight = pace.seconds(self._flight) or own
        return ahead * pace.drain + max(0.0, self._started + flight - now) + max(own, flight)

    def latency(self, rows: int, expected: float | None) -> tuple[float | None, float | None]:
        """What a client may count on: the `expected` seconds with a slow call for the request's own, and the same with
        nothing waiting. None where nothing is known."""
        mean, slow = self.pace.seconds(rows), self.pace.tail_seconds(rows)
        if mean is None or slow is None:
            return None, None
        idle = slow + OVERHEAD
        return None if expected is None else expected - mean + idle, idle

    def missed(self) -> None:
        """A request that had been admitted although its deadline was near was not answered in time."""
        self.share = max(LEAST_SHARE, self.share * MISSED)

    def kept(self) -> None:
        """Such a request was."""
        self.share = min(SHARE, self.share + KEPT)

    def room(self, queue: Waiting) -> int:
        """Rows of the next call: as many as leave room within the latency objective, or all that fit where the queue is
        so long that the objective is lost, and only throughput helps."""
        if self._objective is None or queue.rows * self.pace.drain > self._objective:
            return self._max_batch
        return self._within

    def delay(self, queue: Waiting, now: float) -> float | None:
        """Until when the next call should wait for company; None: it should not.

        It waits when single calls would not keep up with the arrivals, so that an idle model never does; a busy engine
        needs no delay, the queue grows meanwhile. It does not wait past the cap of any request, nor so long that one
        would miss its deadline.
        """
        wanted = company(self._rate.at(now), self.pace.seconds, self._within)
        if queue.rows >= wanted:
            return None
        call = 2 * (self.pace.seconds(wanted) or 0.0)
        until = min(min(p.arrival + self.delay_cap, p.deadline - call) for p in queue)
        if until <= now:
            return None
        self._delayed = True
        return until

    def begin(self, oldest: float, rows: int, now: float) -> float:
        """A call begins for requests of which the first came at `oldest`; returns when it could have begun."""
        self._started, self._flight = now, rows
        if self._delayed:
            self._delayed = False
            return now
        return self._finished if self._finished > oldest else oldest

    def ended(self, batch: Batch, *, in_force: bool) -> None:
        """A call has ended; only one of the variant in force tells its pace."""
        ended = batch.started + batch.seconds
        if in_force:
            since = self._finished if self._finished > batch.eligible else batch.eligible
            elapsed = ended - since if ended > since else 0.0  # one that ended earlier may be heard of later
            self.pace.called(batch.rows, batch.seconds, elapsed, batch.backlog, batch.blocked, ended)
            self._limit()
        if ended > self._finished:
            self._finished = ended

    def _limit(self) -> None:
        if self._objective is not None:
            self._within = largest(self._objective, self.pace.seconds, self._max_batch)
