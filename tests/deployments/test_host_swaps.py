"""Swaps on a running host: under load, failing, superseded."""

from __future__ import annotations

import asyncio
import itertools
import threading

import numpy as np
import pytest

from budgets.snapshot import Serving
from deployments.api import Assignment
from deployments.config import HostConfig
from variants.errors import Unavailable

MB = 1_000_000
MAKE, BREAK = "make_before_break", "break_before_make"


def plan(generation, mode=MAKE, **variants):
    return Assignment(generation, variants, dict.fromkeys(variants, mode))


class Load:
    """Requests of several clients until stopped; every failure is kept."""

    def __init__(self, host, make, models, clients=4):
        self.host, self.make = host, make
        self.failures, self.variants, self.answers = [], set(), 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._client(m)) for m in models for _ in range(clients)]

    async def _client(self, model):
        while not self._stop:
            try:
                answer = await self.host.infer(model, self.make())
                np.testing.assert_array_equal(answer.outputs["y"].shape, (1, 4))
            except Exception as error:
                self.failures.append(error)
            else:
                self.answers += 1
                self.variants.add(answer.variant)
            await asyncio.sleep(0)

    async def stop(self):
        self._stop = True
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("mode", [MAKE, BREAK])
async def test_swaps_under_load_fail_no_request(lab, x, settled, until, mode):
    host = await lab.start(a={}, b={})
    load = Load(host, x, ["a", "b"])
    for generation, variant in enumerate(["cheap", "best", "mid", "cheap"], start=1):
        host.apply(plan(generation, mode, a=variant, b=variant))
        await settled(host, generation)
        before = load.answers
        await until(lambda before=before: load.answers > before + 20)
    await load.stop()
    assert load.failures == []
    assert load.variants == {"best", "mid", "cheap"}
    assert sorted(lab.open()) == [("a", "cheap"), ("b", "cheap")]
    swaps = host.observe().swaps
    assert len(swaps) == 8
    assert {(s.outcome, s.mode) for s in swaps} == {("done", mode)}
    assert [(s.from_variant, s.to_variant, s.bytes_measured) for s in swaps if s.model == "a"] == [
        ("best", "cheap", 200 * MB),
        ("cheap", "best", 200 * MB),
        ("best", "mid", 100 * MB),
        ("mid", "cheap", 100 * MB),
    ]


async def test_apply_returns_at_once_and_in_flight_requests_end_on_the_old_engine(lab, x, settled, until):
    host = await lab.start()
    gate = lab.gate("a")
    first = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    host.apply(plan(1, a="cheap"))
    assert host.observe().observed_generation == 0
    assert host.status("a").variant == "best"
    await until(lambda: host.status("a").variant == "cheap")
    assert host.observe().swapping == ("a",)
    assert lab.open() == [("a", "best"), ("a", "cheap")]  # the call still runs on it
    gate.set()
    assert (await first).variant == "best"
    await settled(host, 1)
    assert lab.open() == [("a", "cheap")]
    assert host.observe().swapping == ()


async def test_a_call_that_does_not_end_is_left_behind_and_closed_later(lab, x, settled, until):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=2, drain_seconds=0.05))
    gate = lab.gate("a")
    first = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    host.apply(plan(1, a="cheap"))
    await settled(host, 1)
    (swap,) = host.observe().swaps
    assert swap.outcome == "done"
    assert "drain: 1 calls of variant 'best' still run after 0.05 s" in swap.reason
    del lab.gates["a"]
    assert (await host.infer("a", x())).variant == "cheap"  # it does not wait for its predecessor
    gate.set()
    assert (await first).variant == "best"
    await until(lambda: lab.open() == [("a", "cheap")])


async def test_break_before_make_on_a_call_that_does_not_end_keeps_the_old_engine(lab, x, settled):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=2, drain_seconds=0.05))
    gate = lab.gate("a")
    first = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    host.apply(plan(1, BREAK, a="cheap"))
    waiting = asyncio.create_task(host.infer("a", x()))
    await settled(host, 1)
    assert host.observe().swaps[-1].outcome == "rolled_back"
    gate.set()
    assert [(await t).variant for t in (first, waiting)] == ["best", "best"]


@pytest.mark.parametrize("mode", [MAKE, BREAK])
@pytest.mark.parametrize("fault", ["load", "canary", "nan", "warm"])
async def test_a_failure_rolls_back_and_keeps_serving(lab, x, settled, mode, fault):
    host = await lab.start()
    load = Load(host, x, ["a"])
    inputs = x(3)
    lab.canary = (inputs, {"y": inputs["x"].copy()})
    match fault:
        case "load":
            lab.load_fails["cheap"] = "no such weights"
            why = "load: no such weights"
        case "canary":
            lab.bias["cheap"] = 0.5
            why = "verify: canary: relative_error distance 0.5 is above the tolerated 0.1"
        case "nan":
            lab.bias["cheap"] = float("nan")
            why = "verify: canary: output 'y' holds NaN"
        case "warm":
            lab.canary = ({"x": x(1, value=666.0)["x"]}, {"y": inputs["x"]})
            lab.bias["best"] = 0.0
            why = "warm: poison"
    host.apply(plan(1, mode, a="cheap"))
    await settled(host, 1)
    await host.infer("a", x())
    await load.stop()
    assert load.failures == []
    assert load.variants == {"best"}
    state = host.observe()
    assert state.variants == {"a": "best"}
    assert why in state.failed["a"]
    (swap,) = state.swaps
    assert (swap.outcome, swap.bytes_measured) == ("rolled_back", 0)
    assert why in swap.reason
    assert lab.open() == [("a", "best")]
    host.apply(plan(2, mode, a="best"))
    await settled(host, 2)
    assert host.observe().failed == {}


async def test_a_canary_within_tolerance_passes_in_parts(lab, x, settled):
    host = await lab.start(a={"max_batch": 2})
    inputs = x(5)
    lab.canary = (inputs, {"y": inputs["x"].copy()})
    lab.bias["cheap"] = 0.05
    host.apply(plan(1, a="cheap"))
    await settled(host, 1)
    assert host.status("a").variant == "cheap"


async def test_a_model_that_takes_one_sample_at_a_time_gets_its_canary_so(lab, x, settled):
    host = await lab.start(a={"max_batch": 1})
    inputs = x(5)
    lab.canary = (inputs, {"y": inputs["x"].copy()})
    lab.canary_calls.clear()
    host.apply(plan(1, a="cheap"))
    await settled(host, 1)
    assert host.status("a").variant == "cheap"
    assert lab.canary_calls == [1] * 6, "once to warm up, then each sample"


@pytest.mark.parametrize("reference", [{"z": np.ones((3, 4), np.float32)}, {"y": np.ones((3, 5), np.float32)}])
async def test_a_canary_of_other_outputs_rolls_back(lab, x, settled, reference):
    host = await lab.start()
    lab.canary = (x(3), reference)
    host.apply(plan(1, a="cheap"))
    await settled(host, 1)
    assert host.status("a").variant == "best"
    assert "canary: output" in host.observe().failed["a"]


async def test_when_nothing_loads_any_more_requests_are_refused_with_the_reason(lab, x, settled, until):
    host = await lab.start()
    lab.load_fails = {"cheap": "broken", "best": "gone"}
    gate = lab.gate("a")
    running = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    host.apply(plan(1, BREAK, a="cheap"))
    await until(lambda: host.observe().swapping == ("a",))
    waiting = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0.02)  # it is held while the running one ends
    gate.set()
    assert (await running).variant == "best"
    await settled(host, 1)
    with pytest.raises(Unavailable, match="load: broken; reload: gone"):
        await waiting
    with pytest.raises(Unavailable, match="reload: gone"):
        await host.infer("a", x())
    assert host.status("a").state == "UNAVAILABLE"
    assert host.observe().swaps[-1].outcome == "failed"
    assert lab.open() == []
    lab.load_fails = {}
    host.apply(plan(2, a="mid"))  # a later plan brings it back
    await settled(host, 2)
    assert (await host.infer("a", x())).variant == "mid"
    assert host.observe().failed == {}


async def test_short_headroom_turns_a_swap_into_break_before_make(lab, x, settled):
    host = await lab.start(HostConfig(threads=1, margin_bytes=10 * MB), assignment=plan(1, a="cheap"))
    lab.memory.free = 209 * MB
    host.apply(plan(2, a="mid"))
    await settled(host, 2)
    lab.memory.free = 310 * MB
    host.apply(plan(3, a="best"))
    await settled(host, 3)
    assert [s.mode for s in host.observe().swaps] == [BREAK, MAKE]


async def test_degrades_come_first_and_one_swap_runs_at_a_time(lab, settled):
    host = await lab.start(assignment=plan(1, a="cheap", b="best", c="mid"), a={}, b={}, c={})
    lab.loads.clear()
    host.apply(plan(2, a="best", b="cheap", c="cheap"))
    await settled(host, 2)
    assert lab.loads == [("b", "cheap"), ("c", "cheap"), ("a", "best")]
    swaps = host.observe().swaps
    for before, after in itertools.pairwise(swaps):
        assert before.started + before.seconds <= after.started + 1e-3


async def test_a_newer_plan_supersedes_what_has_not_started(lab, settled, until):
    import threading

    host = await lab.start(a={}, b={}, c={})
    lab.load_gate = threading.Event()
    lab.loads.clear()
    host.apply(plan(1, a="cheap", b="cheap", c="cheap"))
    await until(lambda: lab.loads == [("a", "cheap")])
    host.apply(plan(2, a="best", b="mid", c="best"))
    assert host.observe().observed_generation == 0
    lab.load_gate.set()
    await settled(host, 2)
    assert host.observe().variants == {"a": "best", "b": "mid", "c": "best"}
    assert lab.loads == [("a", "cheap"), ("b", "mid"), ("a", "best")]
    assert [s.generation for s in host.observe().swaps] == [1, 2, 2]


async def test_older_and_equal_generations_are_ignored(lab, settled):
    host = await lab.start()
    host.apply(plan(5, a="cheap"))
    host.apply(plan(5, a="mid"))
    host.apply(plan(4, a="mid"))
    await settled(host, 5)
    assert host.observe().variants == {"a": "cheap"}


async def test_a_plan_of_unknown_names_is_reported_and_the_rest_is_done(lab, settled):
    host = await lab.start(a={}, b={})
    host.apply(plan(1, a="tiny", b="cheap", z="best"))
    await settled(host, 1)
    state = host.observe()
    assert state.variants == {"a": "best", "b": "cheap"}
    assert "no variant 'tiny'; there are: best, mid, cheap" in state.failed["a"]
    assert "no model 'z'" in state.failed["z"]


async def test_models_that_a_plan_does_not_name_keep_what_they_run(lab, settled):
    host = await lab.start(assignment=plan(1, a="mid", b="cheap"), a={}, b={})
    host.apply(plan(2, a="best"))
    await settled(host, 2)
    assert host.observe().variants == {"a": "best", "b": "cheap"}


async def test_a_corrupt_variant_is_refused_before_it_is_loaded(lab, x, settled):
    host = await lab.start()
    lab.corrupt = {"cheap"}
    lab.loads.clear()
    host.apply(plan(1, a="cheap"))
    await settled(host, 1)
    assert lab.loads == []
    assert "a/variants/cheap/m.onnx: corrupt" in host.observe().failed["a"]
    assert (await host.infer("a", x())).variant == "best"


def serve(generation: int, batch: int | None, objective: float | None = None, **variants: str) -> Assignment:
    told = Serving(batch=batch, objective=objective, weight=3.0)
    return Assignment(generation, variants, serving=dict.fromkeys(variants, told))


async def test_a_changed_batch_limit_takes_effect_without_a_swap(lab, x, settled):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=1), a={"max_batch": 8}, b={})

    async def sizes(count: int) -> list[int]:
        """Of the calls for so many requests that wait behind one that runs."""
        before, gate = len(lab.calls("a")), lab.gate("b")
        blocker = asyncio.create_task(host.infer("b", x()))
        await lab.entered["b"].wait()
        tasks = [asyncio.create_task(host.infer("a", x())) for _ in range(count)]
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(blocker, *tasks)
        return lab.calls("a")[before:]

    assert await sizes(7) == [7]
    host.apply(serve(1, 3, a="best"))
    await settled(host, 1)
    assert await sizes(7) == [3, 3, 1]
    assert host.observe().serving == {"a": Serving(batch=3, weight=3.0)}
    host.apply(serve(2, None, a="best"))
    await settled(host, 2)
    assert await sizes(7) == [7]
    host.apply(serve(1, 2, a="best"))  # an older plan
    assert await sizes(7) == [7]
    assert lab.loads == [("a", "best"), ("b", "best")]
    assert host.observe().swaps == ()
    # What alone has more rows than the limit is one call; what clients may send does not change.
    host.apply(serve(3, 3, a="best"))
    await settled(host, 3)
    assert (await host.infer("a", x(8))).batch == 8


async def test_a_limit_for_another_variant_waits_for_its_swap(lab, x, settled, until):
    host = await lab.start(assignment=serve(1, 4, 0.2, a="best"))
    slot = host._slots["a"]
    assert (slot.weight, slot._foresight._max_batch, slot._foresight._objective) == (3.0, 4, 0.2)
    lab.load_gate = threading.Event()
    host.apply(serve(2, 2, 0.1, a="cheap"))
    await until(lambda: ("a", "cheap") in lab.loads)
    assert slot._foresight._max_batch == 4
    lab.load_gate.set()
    await settled(host, 2)
    assert (slot._foresight._max_batch, slot._foresight._objective) == (2, 0.1)
