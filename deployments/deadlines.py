"""Calls back for requests whose deadline has passed while they waited or ran.

A timer of the event loop for each request costs more than queueing it. Deadlines further away than `NEAR_SECONDS` are
kept in sets, one for each tick, with one timer for the whole set: such a request hears at most a tick late that it is
late. Whether it may still run is not decided here (`deployments.waiting` compares deadlines with the clock).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deployments.batching import Pending

NEAR_SECONDS = 1.0
TICKS_PER_SECOND = 20


class Deadlines:
    """All methods belong to the event loop. `expire` is called once for each request that is not dropped before."""

    def __init__(self, expire: Callable[[Pending], None]) -> None:
        self._expire = expire
        self._ticks: dict[int, set[Pending]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, pending: Pending, timeout: float) -> None:
        """A request with `timeout` seconds left."""
        if timeout < NEAR_SECONDS:
            pending.timer = asyncio.get_running_loop().call_later(timeout, self._expire, pending)
            return
        tick = int(pending.deadline * TICKS_PER_SECOND) + 1
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = set()
            late = tick / TICKS_PER_SECOND - pending.deadline
            self._timers[tick] = asyncio.get_running_loop().call_later(timeout + late, self._end, tick)
        pending.due = due
        due.add(pending)

    def drop(self, pending: Pending) -> None:
        """The request has its answer, or nobody waits for one."""
        if pending.due is not None:
            pending.due.discard(pending)
        elif pending.timer is not None:
            pending.timer.cancel()

    def _end(self, tick: int) -> None:
        del self._timers[tick]
        for pending in tuple(self._ticks.pop(tick)):
            self._expire(pending)

    def close(self) -> None:
        """Call back no more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ticks.clear()
