"""Requests that hear that they are late."""

from __future__ import annotations

import asyncio

import pytest

from deployments.batching import Pending
from deployments.deadlines import NEAR_SECONDS, TICKS_PER_SECOND, Deadlines


@pytest.mark.parametrize("timeout", [0.02, 0.9, 1.0, 1.03, 30.0])
def test_late_by_a_tick_at_most_and_never_early(virtual, timeout):
    async def main():
        heard = []
        deadlines = Deadlines(lambda pending: heard.append((pending, virtual.clock())))
        await asyncio.sleep(0.013)
        now = virtual.clock()
        kept, dropped = (Pending({}, 1, (), now, now + timeout, virtual.loop.create_future()) for _ in range(2))
        for pending in (kept, dropped):
            deadlines.add(pending, timeout)
        deadlines.drop(dropped)
        await asyncio.sleep(timeout + 1)
        deadlines.drop(kept)
        return kept, heard

    kept, [(pending, at)] = virtual.run(main())
    assert pending is kept
    tick = 1 / TICKS_PER_SECOND if timeout >= NEAR_SECONDS else 0.0
    assert kept.deadline - 1e-9 <= at <= kept.deadline + tick + 1e-9


def test_nothing_is_kept_of_requests_that_are_gone(virtual):
    async def main():
        deadlines = Deadlines(lambda pending: None)
        for number in range(1000):
            now = virtual.clock()
            pending = Pending({}, 1, (), now, now + 30, virtual.loop.create_future())
            deadlines.add(pending, 30)
            deadlines.drop(pending)
            await asyncio.sleep(0.001 * (number % 2))
        held = sum(map(len, deadlines._ticks.values())), len(deadlines._timers)
        deadlines.close()
        await asyncio.sleep(60)
        return held

    requests, timers = virtual.run(main())
    assert requests == 0
    assert timers <= 0.5 * TICKS_PER_SECOND + 1  # one for each tick of the half second that it took
