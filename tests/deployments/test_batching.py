"""Requests: grouping, bounds, deadlines, cancellation, isolation."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from deployments.api import Host
from deployments.config import Batching, HostConfig
from variants.errors import DeadlineExceeded, EngineFailed, InvalidInput, QueueFull, UnknownModel


def config(**batching):
    return HostConfig(threads=1, concurrent_batches=2, batching=Batching(**batching))


async def blocked(lab, host, x, model="a"):
    """A request whose engine call is under way until the gate is set, so that others queue behind it."""
    gate = lab.gate(model)
    first = asyncio.create_task(host.infer(model, x()))
    await lab.entered[model].wait()
    return gate, first


async def queued(coroutines):
    tasks = [asyncio.create_task(c) for c in coroutines]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_one_request(lab, x):
    host: Host = await lab.start()
    lab.bias["best"] = 2.0
    answer = await host.infer("a", x(3))
    np.testing.assert_array_equal(answer.outputs["y"], np.full((3, 4), 3.0))
    assert (answer.variant, answer.batch) == ("best", 3)
    assert answer.queue_seconds >= 0
    assert answer.compute_seconds > 0


async def test_requests_that_arrive_together_are_one_call(lab, x):
    host = await lab.start()
    answers = await asyncio.gather(*(host.infer("a", x(value=float(i))) for i in range(5)))
    assert lab.calls("a") == [5]
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.outputs["y"], np.full((1, 4), i))


async def test_only_equal_shapes_are_joined_and_never_beyond_the_maximum(lab, x):
    host = await lab.start()
    gate, first = await blocked(lab, host, x)
    shapes = [(3, 4), (2, 5), (3, 4), (4, 4), (2, 4), (1, 5)]
    tasks = await queued(host.infer("a", x(rows, width, value=width)) for rows, width in shapes)
    gate.set()
    answers = await asyncio.gather(first, *tasks)
    # (3+3+2) x4 with the 4 rows left for the next call, (2+1) x5
    assert lab.calls("a") == [1, 8, 3, 4]
    for (rows, width), answer in zip(shapes, answers[1:], strict=True):
        np.testing.assert_array_equal(answer.outputs["y"], np.full((rows, width), width))


async def test_a_model_that_is_not_batchable_runs_one_by_one(lab, x):
    host = await lab.start(a={"max_batch": 1})
    await asyncio.gather(*(host.infer("a", x()) for _ in range(3)))
    assert lab.calls("a") == [1, 1, 1]


async def test_a_batch_above_the_maximum_is_refused(lab, x):
    host = await lab.start(config(max_batch=4))
    with pytest.raises(InvalidInput, match="batch of 5 was sent; 1 to 4"):
        await host.infer("a", x(5))
    with pytest.raises(InvalidInput, match="batch of 0"):
        await host.infer("a", x(0))


async def test_missing_inputs_and_unknown_models_are_named(lab, x):
    host = await lab.start()
    with pytest.raises(InvalidInput, match="'x' is missing"):
        await host.infer("a", {"z": np.zeros((1, 1), np.float32)})
    with pytest.raises(UnknownModel, match="no model 'b'; there are: a"):
        await host.infer("b", x())
    with pytest.raises(UnknownModel):
        host.status("b")
    with pytest.raises(UnknownModel):
        host.statistics("b")


async def test_a_full_queue_refuses_one_more_and_disturbs_nobody(lab, x):
    host = await lab.start(config(queue=2))
    gate, first = await blocked(lab, host, x)
    waiting = await queued(host.infer("a", x()) for _ in range(2))
    with pytest.raises(QueueFull, match="2 requests wait already") as refused:
        await host.infer("a", x())
    assert refused.value.retry_after_seconds
    gate.set()
    assert len(await asyncio.gather(first, *waiting)) == 3


async def test_expired_requests_are_never_run(lab, x):
    host = await lab.start()
    gate, first = await blocked(lab, host, x)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.02 s; the request was still waiting"):
        await host.infer("a", x(2), timeout_seconds=0.02)
    gate.set()
    await first
    await host.infer("a", x(3))
    assert lab.calls("a") == [1, 3]


async def test_a_deadline_passes_while_it_is_computed(lab, x):
    host = await lab.start()
    gate = lab.gate("a")
    with pytest.raises(DeadlineExceeded, match="being computed"):
        await host.infer("a", x(), timeout_seconds=0.05)
    gate.set()
    assert (await host.infer("a", x())).variant == "best"


async def test_a_deadline_that_had_passed(lab, x):
    host = await lab.start()
    with pytest.raises(DeadlineExceeded, match="had passed"):
        await host.infer("a", x(), timeout_seconds=0.0)


async def test_a_cancelled_request_leaves_the_queue(lab, x):
    host = await lab.start(config(queue=1))
    gate, first = await blocked(lab, host, x)
    (waiting,) = await queued([host.infer("a", x(2))])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (other,) = await queued([host.infer("a", x(3))])  # there is room again
    gate.set()
    await asyncio.gather(first, other)
    assert lab.calls("a") == [1, 3]


async def test_only_the_culprit_of_a_failed_batch_fails(lab, x):
    host = await lab.start()
    gate, first = await blocked(lab, host, x)
    tasks = await queued(host.infer("a", x(value=v)) for v in (1.0, 666.0, 3.0))
    gate.set()
    one, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert isinstance(bad, EngineFailed)
    assert "ValueError: poison" in str(bad)
    assert [a.outputs["y"][0, 0] for a in (one, three)] == [1.0, 3.0]
    assert (await host.infer("a", x())).variant == "best"


async def test_a_small_model_does_not_queue_behind_a_busy_one(lab, x):
    host = await lab.start(big={"max_batch": 1}, small={})
    gate = lab.gate("big")
    busy = await queued(host.infer("big", x()) for _ in range(4))
    await lab.entered["big"].wait()
    assert (await host.infer("small", x())).variant == "best"  # while all of the other's calls still wait
    gate.set()
    await asyncio.gather(*busy)


async def test_two_busy_models_take_turns(lab, x):
    host = await lab.start(
        HostConfig(threads=1, concurrent_batches=1), a={"max_batch": 1}, b={"max_batch": 1}, c={"max_batch": 1}
    )
    gate = lab.gate("c")
    tasks = await queued([host.infer("c", x())])
    await lab.entered["c"].wait()
    tasks += await queued(host.infer("a", x()) for _ in range(20))
    tasks += await queued(host.infer("b", x()) for _ in range(20))
    gate.set()
    await asyncio.gather(*tasks)
    assert lab.order.index("b") <= 2  # not behind all of a's


async def test_statistics(lab, x):
    host = await lab.start()
    gate, first = await blocked(lab, host, x)
    tasks = await queued([host.infer("a", x(2)), host.infer("a", x(3)), host.infer("a", x(value=666.0, width=9))])
    gate.set()
    await asyncio.gather(first, *tasks, return_exceptions=True)
    seen = host.statistics("a")
    assert (seen.inference_count, seen.execution_count) == (6, 3)
    assert (seen.success.count, seen.fail.count) == (3, 1)
    assert seen.success.ns > 0
    assert {size: d.count for size, d in seen.batches.items()} == {1: 2, 5: 1}
    assert seen.queue.count == seen.compute.count == 4
    assert seen.last_inference > 1_600_000_000_000
