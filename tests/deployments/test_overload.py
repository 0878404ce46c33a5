"""A slot under load, in virtual time: goodput, refusals, priorities, delays, fair shares."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from deployments.calls import Loaded
from deployments.config import Batching
from variants.errors import DeadlineExceeded, QueueFull

ROW = {"x": np.zeros((1, 1), np.float32)}


def cost(rows: int) -> float:
    """At most 800 rows a second, in calls of 8."""
    return 0.002 + 0.001 * rows


async def offer(virtual, slot, rate, seconds, timeout, priorities=(0,)):
    """Requests at an even rate; (priority, outcome, arrival, end, retry after) of each."""
    seen = []

    async def one(priority):
        arrival = virtual.clock()
        try:
            await slot.infer(ROW, timeout, "test", priority)
            outcome, after = "ok", None
        except (QueueFull, DeadlineExceeded) as error:
            outcome, after = type(error).__name__, getattr(error, "retry_after_seconds", None)
        seen.append((priority, outcome, arrival, virtual.clock(), after))

    tasks = []
    for i in range(int(rate * seconds)):
        tasks.append(asyncio.create_task(one(priorities[i % len(priorities)])))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    return seen


async def flood(virtual, seconds, timeout, *, lanes=2, cost=cost, queue=10_000, priorities=(0,)):
    """What `offer` says of 4000 requests a second, some times what one lane or two can do."""
    slot = virtual.slot("a", virtual.lanes(lanes), cost, Batching(queue=queue))
    seen = await offer(virtual, slot, 4000, seconds, timeout, priorities)
    slot.close()
    return seen


def goodput(seen, seconds, warmup=0.5):
    """Answers per second to requests that came after the first half second."""
    return sum(1 for _, outcome, arrival, *_ in seen if outcome == "ok" and arrival >= warmup) / (seconds - warmup)


@pytest.mark.parametrize("queue", [256, 100_000])
def test_overload_costs_no_goodput_and_what_cannot_be_answered_in_time_is_refused_at_once(virtual, queue):
    async def main():
        slot = virtual.slot("a", virtual.lanes(2), cost, Batching(queue=queue))
        longest = 0

        async def watch():
            nonlocal longest
            while True:
                longest = max(longest, len(slot.queue))
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        seen = await offer(virtual, slot, 4000, 3.0, timeout=0.1)
        watching.cancel()
        slot.close()
        return seen, longest

    seen, longest = virtual.run(main())
    assert goodput(seen, 3.0) >= 0.9 * 800
    outcomes = Counter(outcome for _, outcome, *_ in seen)
    assert outcomes["DeadlineExceeded"] <= 0.01 * outcomes["ok"]
    refused = [(end - arrival, after) for _, outcome, arrival, end, after in seen if outcome == "QueueFull"]
    assert len(refused) > 8000
    assert {waited for waited, _ in refused} == {0.0}
    assert all(after > 0 for _, after in refused)
    assert longest <= 90  # a tenth of a second's work, whatever the queue's bound


def test_what_two_calls_at_once_can_answer_in_time_is_let_in(virtual):
    seen = virtual.run(flood(virtual, 2.0, timeout=0.1, lanes=3))
    took = [end - arrival for _, outcome, arrival, end, _ in seen if outcome == "ok" and arrival > 0.5]
    assert 0.06 <= np.median(took) <= max(took) <= 0.1


def test_calls_that_vary_cost_a_little_goodput(virtual):
    rng = np.random.default_rng(0)
    # The mean is the same; one call in a hundred takes four times as long.
    seen = virtual.run(flood(virtual, 4.0, timeout=0.1, cost=lambda rows: cost(rows) * rng.lognormal(-0.245, 0.7)))
    assert goodput(seen, 4.0) >= 0.95 * 800
    outcomes = Counter(outcome for _, outcome, *_ in seen)
    assert outcomes["DeadlineExceeded"] <= 0.08 * outcomes["ok"]


def test_a_full_queue_keeps_goodput_where_deadlines_are_far(virtual):
    seen = virtual.run(flood(virtual, 2.0, timeout=10.0, queue=64))
    assert goodput(seen, 2.0) >= 0.98 * 800
    # 64 rows that wait, a call at hand and one under way
    assert all(end - arrival <= 80 / 800 + 0.001 for _, outcome, arrival, end, _ in seen if outcome == "ok")


def test_the_important_are_answered_and_the_least_important_shed_first(virtual):
    # An eighth at 1, an eighth at the default (4), the rest at 9; together the first two are 1000/s
    seen = virtual.run(flood(virtual, 2.0, timeout=10.0, queue=64, priorities=(1, 9, 9, 9, 0, 9, 9, 9)))
    seen = [line for line in seen if line[2] >= 0.5]
    share = {p: np.mean([outcome == "ok" for priority, outcome, *_ in seen if priority == p]) for p in (1, 0, 9)}
    assert share[1] == 1.0
    assert 0.55 <= share[0] <= 0.7  # 800 - 500 of 500
    assert share[9] <= 0.01
    assert max(end - arrival for p, _, arrival, end, _ in seen if p == 1) <= 0.025  # a call under way, and its own


def test_what_is_at_hand_when_another_engine_comes_into_force_is_answered_by_that(virtual):
    async def main():
        slot = virtual.slot("a", virtual.lanes(2), cost, Batching(queue=64))
        asked = [asyncio.create_task(slot.infer(ROW, 30.0, "test")) for _ in range(24)]
        await asyncio.sleep(0.001)  # eight run, eight are at hand
        before = len(slot.at_hand), slot.queue.rows
        old = slot.loaded
        slot.serve(Loaded("best", old.engine, 2))
        between = len(slot.at_hand), slot.queue.rows, old.calls
        answers = await asyncio.gather(*asked)
        await asyncio.sleep(0.001)
        slot.close()
        return before, between, [answer.batch for answer in answers], old.calls

    before, between, batches, calls = virtual.run(main())
    assert before == (1, 8)
    assert between == (0, 16, 1)
    assert batches == [8] * 24
    assert calls == 0


def test_no_delay_when_idle_and_company_when_single_calls_would_not_keep_up(virtual):
    async def main():
        def slow_start(rows):
            return 0.010 + 0.0001 * rows  # one by one at most 99 a second

        slot = virtual.slot("a", virtual.lanes(2), slow_start, Batching(max_delay_seconds=0.05), max_batch=64)
        first = await slot.infer(ROW, 30.0, "test")
        rare = await offer(virtual, slot, 5, 2.0, timeout=30.0)
        often = await offer(virtual, slot, 300, 6.0, timeout=30.0)
        slot.close()
        return first, rare, often, [rows for _, at, rows in virtual.calls if at > virtual.clock() - 2.0]

    first, rare, often, sizes = virtual.run(main())
    assert first.queue_seconds == 0.0
    assert max(end - arrival for _, _, arrival, end, _ in rare) == pytest.approx(0.0101)
    assert len(often) == 1800
    # By itself a queue would keep the engine busy with calls of three rows; with eight it rests most of the time.
    assert set(sizes[:-1]) == {8}
    assert max(end - arrival for _, _, arrival, end, _ in often) <= 0.05 + 2 * 0.0164


def test_the_delay_makes_nobody_late(virtual):
    async def main():
        slot = virtual.slot("a", virtual.lanes(2), lambda rows: 0.010, Batching(max_delay_seconds=1.0), max_batch=64)
        await offer(virtual, slot, 300, 1.0, timeout=30.0)
        seen = await offer(virtual, slot, 300, 1.0, timeout=0.045)
        slot.close()
        return seen

    assert {outcome for _, outcome, *_ in virtual.run(main())} == {"ok"}


def test_batches_leave_room_within_the_objective_until_it_is_lost(virtual):
    async def main():
        batching = Batching(max_delay_seconds=0)
        slot = virtual.slot("a", virtual.lanes(2), lambda rows: 0.01 * rows, batching, max_batch=32, objective=0.1)
        for burst in (8, 8, 8, 100):
            await asyncio.gather(*(slot.infer(ROW, 30.0, "test") for _ in range(burst)))
        slot.close()

    virtual.run(main())
    sizes = [rows for _, _, rows in virtual.calls]
    assert sizes[0] == 8  # nothing was known
    # Half of the objective is 0.05 s; what a smaller call takes is tried, and the next one is at hand before that is known.
    assert sizes[1:5] == [1, 1, 4, 2]
    assert sizes[5:7] == [4, 4]
    assert sizes[7:10] == [32, 32, 32]  # a second of work waits: the objective is lost


def test_busy_models_share_the_engines_by_weight(virtual):
    async def main():
        lanes = virtual.lanes(2, abreast=1)
        slots = [
            virtual.slot(name, lanes, lambda rows, s=seconds: s, Batching(queue=10_000), max_batch=1, weight=weight)
            for name, weight, seconds in (("heavy", 3.0, 0.005), ("light", 1.0, 0.02))
        ]
        tasks = [asyncio.create_task(slot.infer(ROW, 1e6, "test")) for slot in slots for _ in range(5000)]
        await asyncio.sleep(10.0)
        seconds = {slot.name: slot.tally.engine["best"].seconds for slot in slots}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in slots:
            slot.close()
        return seconds

    seconds = virtual.run(main())
    assert seconds["heavy"] / seconds["light"] == pytest.approx(3.0, rel=0.05)
    assert seconds["heavy"] >= 9.9  # work-conserving for the one that is behind its share
