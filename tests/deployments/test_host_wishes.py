"""Requests that only some variants may answer, and what a host says it could do now."""

from __future__ import annotations

import asyncio

import pytest

from budgets.latency import OVERHEAD
from deployments.api import Assignment
from deployments.config import Batching, HostConfig
from variants.errors import QueueFull, UnknownModel, WishUnmet

QUALITIES = {"best": 1.0, "mid": 0.95, "cheap": 0.9}


async def queued(lab, host, *coroutines):
    """The coroutines as tasks that wait behind a call under way; and that call's gate."""
    gate = lab.gate("a")
    tasks = [asyncio.create_task(coroutines[0])]
    await lab.entered["a"].wait()
    tasks += [asyncio.create_task(c) for c in coroutines[1:]]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return gate, tasks


async def test_a_candidate_is_what_runs_and_how_fast(lab, x):
    host = await lab.start()
    found = host.candidate("a")
    assert (found.model, found.variant, found.qualities) == ("a", "best", QUALITIES)
    # the profile: 10 ms, 20 ms at the tail
    assert found.latency_seconds == found.idle_seconds == pytest.approx(0.02 + OVERHEAD)
    gate, tasks = await queued(lab, host, *(host.infer("a", x()) for _ in range(11)))
    busy = host.candidate("a")
    assert busy.idle_seconds == found.idle_seconds
    assert busy.latency_seconds == pytest.approx(found.latency_seconds + 10 * 0.01, abs=0.011)  # ten rows wait
    assert host.candidate("a", 1, priority=1).latency_seconds < found.latency_seconds + 0.011  # none goes before it
    gate.set()
    await asyncio.gather(*tasks)
    with pytest.raises(UnknownModel):
        host.candidate("b")


async def test_a_parked_model_has_no_variant_in_force(lab):
    host = await lab.start(assignment=Assignment(0, {"a": None}))
    found = host.candidate("a")
    assert (found.variant, found.latency_seconds, found.idle_seconds) == (None, None, None)
    assert found.qualities == QUALITIES


async def test_only_the_variants_that_are_wished_for_answer(lab, x):
    host = await lab.start()
    assert (await host.infer("a", x(), variants=frozenset({"best", "mid"}))).variant == "best"
    with pytest.raises(WishUnmet, match="nothing in force meets one of the variants cheap, mid") as refused:
        await host.infer("a", x(), variants=frozenset({"mid", "cheap"}))
    (offer,) = refused.value.available
    assert (offer["model"], offer["variant"], offer["quality"]) == ("a", "best", 1.0)


async def test_a_swap_while_a_request_waits(lab, x, settled):
    host = await lab.start()
    gate, tasks = await queued(
        lab,
        host,
        host.infer("a", x()),
        host.infer("a", x(), variants=frozenset({"best"})),
        host.infer("a", x(), variants=frozenset({"best", "mid"})),
        host.infer("a", x()),
    )
    host.apply(Assignment(1, {"a": "mid"}))
    with pytest.raises(WishUnmet, match="what can be had now: a by mid"):
        await tasks.pop(1)
    gate.set()
    answers = await asyncio.gather(*tasks)
    await settled(host, 1)
    assert [answer.variant for answer in answers] == ["best", "mid", "mid"]


async def test_a_parked_model_is_woken_and_the_wish_compared_with_what_comes(lab, x):
    host = await lab.start(assignment=Assignment(0, {"a": None}))
    bad, good = await asyncio.gather(
        host.infer("a", x(), variants=frozenset({"best"})),
        host.infer("a", x(), variants=frozenset({"cheap"})),
        return_exceptions=True,
    )
    assert good.variant == "cheap"  # what a parked model is woken with
    assert isinstance(bad, WishUnmet)


async def test_a_full_queue_sheds_the_youngest_of_the_least_important(lab, x):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=2, batching=Batching(queue=3)))
    gate, (first, old, young, normal) = await queued(
        lab,
        host,
        host.infer("a", x()),
        host.infer("a", x(2), priority=9),
        host.infer("a", x(3), priority=9),
        host.infer("a", x()),
    )
    high = asyncio.create_task(host.infer("a", x(), priority=1))
    with pytest.raises(QueueFull, match="a request of higher priority came") as shed:
        await young
    assert shed.value.retry_after_seconds >= 1
    with pytest.raises(QueueFull, match="3 requests wait already"):
        await host.infer("a", x(), priority=9)
    gate.set()
    answers = await asyncio.gather(first, old, normal, high)
    assert [a.batch for a in answers] == [1, 4, 4, 4]
    assert host.statistics("a").fail.count == 2


async def test_an_answer_that_would_come_too_late_is_refused_at_arrival(lab, x):
    host = await lab.start()  # 10 ms a row, says the profile
    gate, tasks = await queued(lab, host, *(host.infer("a", x()) for _ in range(21)))
    with pytest.raises(QueueFull, match="behind 20 rows that wait, too near to the deadline") as refused:
        await host.infer("a", x(), timeout_seconds=0.2)
    assert 0.04 <= refused.value.retry_after_seconds <= 0.08
    urgent = asyncio.create_task(host.infer("a", x(), timeout_seconds=5.0, priority=1))
    await asyncio.sleep(0)
    gate.set()
    assert (await urgent).variant == "best"
    await asyncio.gather(*tasks)
