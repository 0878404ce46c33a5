"""The sample of live requests that a new variant is tried on."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading

import numpy as np
import pytest

from budgets.snapshot import Staged
from deployments.api import Assignment
from deployments.config import HostConfig, ShadowConfig
from deployments.shadow import CHANCE, LEAST_REQUESTS, MOST, Sampler, compare, tolerance
from deployments.yielding import PAUSE_SECONDS, Yielding
from variants.catalog import Lineage, Profile, Variant


def tensors(rows=1, value=1.0):
    return {"x": np.full((rows, 4), value, np.float32)}


def test_requests_are_taken_at_a_bounded_rate_and_into_bounded_memory():
    sampler = Sampler(ShadowConfig(samples=3, per_second=4.0, bytes=4 * 32 * LEAST_REQUESTS))
    assert sampler.due == -np.inf
    sampler.take(tensors(), tensors(), "a", 10.0)
    assert sampler.due == 10.25
    for value in (2.0, 3.0, 4.0):
        sampler.take(tensors(value=value), tensors(), "a", 11.0)
    assert [s.inputs["x"][0, 0] for s in sampler.of("a")] == [4.0, 3.0, 2.0]
    sampler.take(tensors(rows=5), tensors(rows=5), "a", 12.0)
    assert len(sampler.of("a")) == 3, "one that would take most of the memory is not kept"
    sampler.take(tensors(), tensors(), "b", 13.0)
    assert (len(sampler.of("a")), len(sampler.of("b"))) == (2, 1)
    assert Sampler(ShadowConfig(samples=0)).due == np.inf


def test_what_is_kept_does_not_change_with_the_buffers_it_came_in():
    sampler, live = Sampler(ShadowConfig()), tensors()
    sampler.take(live, live, "a", 0.0)
    live["x"][:] = 9.0
    assert sampler.of("a")[0].inputs["x"][0, 0] == 1.0


def variant(quality, name="v", parent="fp32"):
    profile = Profile(
        device="d", threads=1, resident_bytes=1, load_seconds=0, warmup_seconds=0, batches=(), quality=quality
    )
    lineage = Lineage(technique="t", parent=parent)
    return Variant(name=name, engine="openvino", precision="fp32", artefact="m", lineage=lineage, profiles=(profile,))


def test_tolerance_follows_from_the_profiles_and_how_much_was_seen():
    exact, close, far = variant(1.0), variant(0.99), variant(0.8)
    assert tolerance("cosine", exact, close, "d", 16) == pytest.approx(3 * 0.01 * 1.25 + 0.05)
    assert tolerance("cosine", close, close, "d", 16) == pytest.approx(3 * 0.04 * 1.25 + 0.05)
    assert tolerance("relative_error", exact, far, "d", 16) == pytest.approx(3 * 0.1 * 1.25 + 0.05), "the canary's 0.1"
    assert tolerance("relative_error", exact, close, "d", 1) > tolerance("relative_error", exact, close, "d", 9)
    loose = far.model_copy(update={"tolerance": 0.5})
    assert tolerance("relative_error", loose, loose, "d", 16) == MOST
    assert tolerance("cosine", exact, exact, "other", 16) == MOST, "without a profile the canary's tolerance counts"


def test_few_rows_convict_nobody_by_chance():
    exact, close = variant(1.0), variant(0.99)
    assert [tolerance("top1", exact, close, "d", rows) for rows in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert tolerance("top1", exact, close, "d", 4) == 0.75, "four of four cannot be chance"
    assert tolerance("top1", exact, close, "d", 32) == 8 / 32
    by_hand = sum(math.comb(32, k) * 0.05**k * 0.95 ** (32 - k) for k in range(9, 33))
    assert by_hand < CHANCE < by_hand + math.comb(32, 8) * 0.05**8 * 0.95**24


async def test_checks_run_a_row_at_a_time_and_pause_while_others_are_answered(lab, monkeypatch):
    model = lab.catalog({"a": {}}).entries["a"].model
    rows, pauses = [], []
    monkeypatch.setattr("deployments.yielding.time.sleep", pauses.append)

    class Engine:
        def infer(self, inputs):
            rows.append(len(inputs["x"]))
            return {"y": inputs["x"]}

    x = tensors(rows=model.max_batch + 3)
    for live, expected in ((False, [model.max_batch, 3]), (True, [1] * (model.max_batch + 3))):
        rows.clear()
        outputs = Yielding(Engine(), model, lambda live=live: live).in_parts(x)
        assert (rows, outputs["y"].tolist()) == (expected, x["x"].tolist())
    assert len(pauses) == model.max_batch + 3
    assert all(0 <= p <= PAUSE_SECONDS for p in pauses)


async def test_the_first_call_is_made_on_every_stream(lab):
    model = lab.catalog({"a": {}}).entries["a"].model
    together = threading.Barrier(3)

    class Engine:
        def infer(self, inputs):
            together.wait(20)  # passes only if as many are under way
            return {"y": inputs["x"]}

    Yielding(Engine(), model, lambda: False, abreast=3).on_each_stream(tensors())
    together.abort()
    with pytest.raises(threading.BrokenBarrierError):
        Yielding(Engine(), model, lambda: False, abreast=3).on_each_stream(tensors())


async def test_a_sample_is_compared_for_a_bounded_time(lab):
    entry = lab.catalog({"a": {}}).entries["a"]
    sampler = Sampler(ShadowConfig())
    for _ in range(20):
        sampler.take(tensors(), {"y": tensors()["x"]}, "best", 0.0)

    class Engine:
        def infer(self, inputs):
            return {"y": inputs["x"]}

    def run(seconds):
        return compare(
            Yielding(Engine(), entry.model, lambda: False),
            entry,
            "mid",
            sampler.of("best"),
            fingerprint="test",
            distance=lambda metric, a, b: 0.0,
            canary_passed=False,
            seconds=seconds,
        )

    assert run(0.0).requests == 1
    assert run(60.0).requests == 20


def plan(generation, mode="make_before_break", **variants):
    return Assignment(generation, variants, dict.fromkeys(variants, mode))


@pytest.mark.parametrize("mode", ["make_before_break", "break_before_make"])
async def test_a_disagreeing_variant_is_rolled_back_before_it_answers(lab, x, settled, mode):
    host = await lab.start()
    lab.bias["mid"] = 5.0
    for _ in range(3):
        await host.infer("a", x())
    host.apply(plan(1, mode, a="mid"))
    await settled(host, 1)
    (swap,) = host.observe().swaps
    assert (swap.outcome, swap.refuted) == ("rolled_back", True)
    assert (swap.shadow.variant, swap.shadow.reference, swap.shadow.requests) == ("mid", "best", 1), (
        "one a quarter second"
    )
    assert (await host.infer("a", x())).variant == "best"
    assert lab.open() == [("a", "best")]


async def test_an_agreeing_variant_goes_on_with_what_was_measured(lab, x, settled):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=2, shadow=ShadowConfig(per_second=1e6)))
    lab.bias["mid"] = 0.01
    for _ in range(5):
        await host.infer("a", x())
    host.apply(plan(1, a="mid"))
    await settled(host, 1)
    (swap,) = host.observe().swaps
    assert (swap.outcome, swap.shadow.requests, swap.shadow.suspect) == ("done", 5, "")
    assert swap.shadow.distance == pytest.approx(0.01)
    host.apply(plan(2, a="cheap"))
    await settled(host, 2)
    assert host.observe().swaps[-1].shadow is None, "nothing that mid answered was sampled"


async def test_a_reference_that_passes_its_canary_convicts_what_ran_before(lab, x, settled):
    host = await lab.start(HostConfig(threads=1, shadow=ShadowConfig(per_second=1e6)), assignment=plan(0, a="mid"))
    lab.bias["mid"] = 5.0
    await host.infer("a", x())
    lab.canary = (x(), {"y": x()["x"]})
    host.apply(plan(1, a="best"))
    await settled(host, 1)
    swap = host.observe().swaps[-1]
    assert (swap.outcome, swap.shadow.suspect) == ("done", "mid")
    assert host.status("a").variant == "best"


async def test_no_answer_waits_for_the_sample(lab, x, settled, until):
    """The new engine hangs on its sample; requests are answered meanwhile."""
    host = await lab.start(HostConfig(threads=1, shadow=ShadowConfig(per_second=1e6)))
    await host.infer("a", x(value=7.0))
    hang, hanging = threading.Event(), threading.Event()

    def load(request):
        engine = lab.load(request)
        infer = engine.infer

        def sampled(inputs):
            if request.variant.name == "mid" and inputs["x"][0, 0] == 7.0:
                hanging.set()
                assert hang.wait(20)
            return infer(inputs)

        engine.infer = sampled
        return engine

    host._swapper.artefacts = dataclasses.replace(host._swapper.artefacts, load=load)
    host.apply(plan(1, a="mid"))
    await until(hanging.is_set)
    answers = await asyncio.gather(*(host.infer("a", x()) for _ in range(20)))
    assert {a.variant for a in answers} == {"best"}
    hang.set()
    await settled(host, 1)
    assert host.observe().swaps[-1].shadow.requests == 1


async def test_a_host_runs_what_is_on_trial_on_it_alone(lab, x, settled):
    host = await lab.start()
    trial = Assignment(1, {"a": "best"}, staged={"a": Staged(variant="mid", hosts=("another",))})
    host.apply(trial)
    await settled(host, 1)
    assert host.observe().variants == {"a": "best"}
    host.apply(Assignment(2, {"a": "best"}, staged={"a": Staged(variant="mid", hosts=("another", "h"))}))
    await settled(host, 2)
    assert host.observe().variants == {"a": "mid"}
    for _ in range(3):
        await host.infer("a", x())
    counted = host.observe().counts["a"]
    assert (counted.variant, counted.answered, counted.errors, counted.samples) == ("mid", 3, 0, 3)
    host.apply(Assignment(3, {"a": "best"}))
    await settled(host, 3)
    assert host.observe().variants == {"a": "best"}
