"""Answers in several steps: turns, ends, failures, swaps, and callers who leave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.api import Assignment
from deployments.config import Batching, HostConfig
from variants.errors import DeadlineExceeded, EngineFailed, QueueFull, Unavailable


def streaming(host, steps, model="a"):
    """Give the engine in force a `stream`: what `steps(inputs)` yields. Says when it was closed, and in which threads."""
    seen = SimpleNamespace(closed=threading.Event(), threads=set())

    def stream(inputs):
        try:
            for value in steps(inputs):
                seen.threads.add(threading.current_thread().name)
                yield {"y": np.asarray(value)}
        finally:
            seen.closed.set()

    host._slots[model].loaded.engine.stream = stream
    return seen


async def collect(host, x, **options):
    return [int(a.outputs["y"]) async for a in host.stream("a", x, **options)]


async def test_answers_come_one_by_one_from_the_engine_threads(lab, x):
    host = await lab.start(a={})
    seen = streaming(host, lambda inputs: range(3))
    assert await collect(host, x()) == [0, 1, 2]
    assert all(name.startswith("engine") for name in seen.threads)
    assert host._slots["a"].loaded.calls == 0
    s = host.statistics("a")
    assert (s.success.count, s.fail.count, s.execution_count) == (1, 0, 4)  # the fourth finds that there is no more


async def test_a_stream_without_answers_is_an_answer(lab, x):
    host = await lab.start(a={})
    streaming(host, lambda inputs: ())
    assert await collect(host, x()) == []


async def test_what_the_engine_raises_reaches_the_caller_after_its_answers(lab, x):
    host = await lab.start(a={})

    def steps(inputs):
        yield 1
        raise ZeroDivisionError("inside")

    streaming(host, steps)
    answers = host.stream("a", x())
    assert int((await anext(answers)).outputs["y"]) == 1
    with pytest.raises(EngineFailed, match="ZeroDivisionError: inside"):
        await anext(answers)
    assert host.statistics("a").fail.count == 1
    assert host._slots["a"].loaded.calls == 0


async def test_an_engine_that_cannot_stream_says_so(lab, x):
    host = await lab.start(a={})
    with pytest.raises(EngineFailed, match="variant 'best' cannot stream"):
        await collect(host, x())


async def test_a_caller_who_leaves_ends_the_computation(lab, x, until):
    host = await lab.start(a={})
    seen = streaming(host, lambda inputs: range(1_000_000))
    answers = host.stream("a", x())
    async with contextlib.aclosing(answers):
        assert int((await anext(answers)).outputs["y"]) == 0
    await until(seen.closed.is_set)
    await until(lambda: host._slots["a"].loaded.calls == 0)
    assert host.statistics("a").fail.count == 1


async def test_a_step_that_takes_too_long(lab, x, until):
    host = await lab.start(a={})
    gate = threading.Event()

    def steps(inputs):
        yield 1
        gate.wait(20)
        yield 2

    seen = streaming(host, steps)
    with pytest.raises(DeadlineExceeded, match="no further answer within"):
        await collect(host, x(), timeout_seconds=0.05)
    assert host._slots["a"].loaded.calls == 1, "the engine still computes, and must not be closed"
    gate.set()
    await until(seen.closed.is_set)
    await until(lambda: host._slots["a"].loaded.calls == 0)


async def test_streams_and_requests_of_others_take_turns(lab, x):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=1), a={}, b={})
    first = threading.Event()

    def steps(inputs):
        for number in range(200):
            first.set()
            yield number

    streaming(host, steps)
    task = asyncio.ensure_future(collect(host, x()))
    await asyncio.to_thread(first.wait, 20)
    await host.infer("b", x())
    assert not task.done(), "the other model's request went in between"
    assert len(await task) == 200


async def test_a_bounded_number_of_streams(lab, x):
    host = await lab.start(HostConfig(models={"a": Batching(queue=1)}), a={})
    streaming(host, lambda inputs: range(10))
    first = host.stream("a", x())
    async with contextlib.aclosing(first):
        await anext(first)
        with pytest.raises(QueueFull, match="1 streams are open"):
            await collect(host, x())
    assert await collect(host, x()) == list(range(10))


async def test_a_stream_ends_on_the_engine_it_began_on(lab, x, until):
    host = await lab.start(a={})
    old = host._slots["a"].loaded
    streaming(host, lambda inputs: range(3))
    answers = host.stream("a", x())
    got = [await anext(answers)]
    host.apply(Assignment(2, {"a": "cheap"}))
    await until(lambda: host.status("a").variant == "cheap")
    assert not old.engine.closed
    got += [a async for a in answers]
    assert [a.variant for a in got] == ["best"] * 3
    await until(lambda: old.engine.closed)


async def test_a_parked_model_is_loaded_for_a_stream_and_an_unavailable_one_refuses(lab, x, until):
    host = await lab.start(assignment=Assignment(1, {"a": None}), a={})
    task = asyncio.ensure_future(collect(host, x()))
    with pytest.raises(EngineFailed, match="cannot stream"):  # it came back, and its engine has no `stream`
        await task
    await host.unload("a")
    with pytest.raises(Unavailable, match="unloaded"):
        await collect(host, x())


async def test_a_watcher_hears_of_every_change(lab, x, until):
    host = await lab.start(a={})
    heard = []
    host.watch("a", lambda: heard.append(host.status("a").variant))
    host.apply(Assignment(2, {"a": "cheap"}))
    await until(lambda: host.status("a").variant == "cheap")
    await host.unload("a")
    assert heard[0] == "cheap"
    assert heard[-1] is None
