"""Start, stop, parking, load and unload by hand."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.api import Assignment
from deployments.config import Batching, HostConfig
from variants.errors import QueueFull, Unavailable

MAKE = "make_before_break"


def parked(generation=1, **others):
    return Assignment(generation, {"a": None, **others})


async def test_start_loads_the_best_rungs_or_the_plan(lab, x):
    host = await lab.start(assignment=Assignment(3, {"b": "cheap"}), a={}, b={})
    state = host.observe()
    assert state.variants == {"a": "best", "b": "cheap"}
    assert (state.observed_generation, state.host, state.swaps) == (3, "h", ())
    assert host.status("a").state == "READY"


async def test_a_model_that_does_not_load_at_the_start_falls_to_its_next_rung(lab, x):
    lab.load_fails = {"best": "corrupt"}
    host = await lab.start(a={}, b={})
    assert host.observe().variants == {"a": "mid", "b": "mid"}
    assert "variant 'best': load: corrupt" in host.observe().failed["a"]
    assert (await host.infer("a", x())).variant == "mid"


async def test_a_model_without_a_rung_that_loads_is_unavailable_and_the_others_serve(lab, x):
    lab.load_fails = dict.fromkeys(["best", "mid", "cheap"], "corrupt")
    lab.build(a={}, b={})
    await lab.host.start(None)
    assert lab.host.status("a").state == "UNAVAILABLE"
    assert "corrupt" in lab.host.status("a").reason
    with pytest.raises(Unavailable, match="corrupt"):
        await lab.host.infer("a", x())
    lab.load_fails = {}
    await lab.host.load("a")
    assert (await lab.host.infer("a", x())).variant == "best"


async def test_before_the_start_models_are_loading_and_requests_wait(lab, x):
    host = lab.build()
    assert host.status("a").state == "LOADING"
    early = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0)
    await host.start(None)
    assert (await early).variant == "best"


async def test_stop_lets_accepted_requests_end_and_closes_everything(lab, x):
    host = await lab.start()
    gate = lab.gate("a")
    running = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    queued = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(host.stop())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="shutting down"):
        await host.infer("a", x())
    gate.set()
    assert (await running).variant == (await queued).variant == "best"
    await stopping
    assert lab.open() == []
    assert host.status("a").state == "UNAVAILABLE"


async def test_stop_does_not_close_a_busy_engine_under_its_call(lab, x):
    host = await lab.start(HostConfig(threads=1, concurrent_batches=1, drain_seconds=0.05))
    gate = lab.gate("a")
    running = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    waiting = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0)
    await host.stop()
    assert lab.open() == [("a", "best")]
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    gate.set()
    assert (await running).variant == "best"


@pytest.mark.parametrize("stored", [True, False])
async def test_what_was_compiled_is_loaded_and_else_the_artefact(lab, x, stored, tmp_path):
    lab.compiled = tmp_path / "stored.compiled"
    if stored:
        lab.compiled.write_bytes(b"")
    host = await lab.start()
    assert (await host.infer("a", x())).variant == "best"
    assert lab.checked == ([] if stored else ["best"])


async def test_an_engine_may_make_as_many_calls_at_once_as_its_model_can_get(lab, x, monkeypatch):
    monkeypatch.setattr("variants.device.cpu_share", lambda: 4.0)
    await lab.start(HostConfig(threads=1))
    assert lab.engines[0].at_once == 4
    await lab.host.stop()
    await lab.start(HostConfig(threads=1, concurrent_batches=3))  # one of them is for other models
    assert lab.engines[1].at_once == 2


async def test_stop_in_the_middle_of_a_load_closes_what_arrives(lab, until):
    host = await lab.start(HostConfig(threads=1, drain_seconds=0.05))
    lab.load_gate = threading.Event()
    host.apply(Assignment(1, {"a": "cheap"}))
    await until(lambda: ("a", "cheap") in lab.loads)
    await host.stop()
    lab.load_gate.set()
    await until(lambda: [e.variant for e in lab.engines] == ["best", "cheap"] and lab.open() == [])


async def test_a_parked_model_comes_back_on_its_next_request_and_stays(lab, x, settled):
    host = await lab.start(a={}, b={})
    host.apply(parked(b="best"))
    await settled(host, 1)
    assert host.status("a").state == "PARKED"
    assert host.observe().variants == {"a": None, "b": "best"}
    (swap,) = host.observe().swaps
    assert (swap.to_variant, swap.bytes_measured) == (None, 300_000_000)
    assert lab.open() == [("b", "best")]
    answers = await asyncio.gather(*(host.infer("a", x()) for _ in range(5)))
    assert {a.variant for a in answers} == {"cheap"}
    assert lab.loads.count(("a", "cheap")) == 1
    assert host.status("a").state == "READY"
    host.apply(parked(2, b="best"))  # the next plan parks it again
    await settled(host, 2)
    assert lab.open() == [("b", "best")]


async def test_a_plan_restores_a_parked_model(lab, settled):
    host = await lab.start(assignment=parked())
    assert lab.loads == []
    host.apply(Assignment(2, {"a": "best"}))
    await settled(host, 2)
    assert host.status("a").variant == "best"
    assert host.observe().swaps[-1].bytes_measured == 300_000_000


async def test_requests_for_a_parked_model_wait_in_a_bounded_queue_for_a_bounded_time(lab, x):
    host = await lab.start(HostConfig(threads=1, hold_seconds=0.05, batching=Batching(queue=1)), assignment=parked())
    lab.load_gate = threading.Event()
    waiting = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await host.infer("a", x())
    with pytest.raises(Unavailable, match=r"was not back within 0\.05 s") as refused:
        await waiting
    assert refused.value.retry_after_seconds
    lab.load_gate.set()


async def test_a_parked_model_that_does_not_load_says_so_and_is_not_tried_at_once(lab, x):
    host = await lab.start(assignment=parked())
    lab.load_fails = {"cheap": "corrupt"}
    for _ in range(3):
        with pytest.raises(Unavailable, match="corrupt") as refused:
            await host.infer("a", x())
        assert 0 < refused.value.retry_after_seconds <= 5
    assert lab.loads == [("a", "cheap")]
    assert host.status("a").state == "PARKED"
    lab.load_fails = {}
    host.apply(Assignment(2, {"a": "best"}))
    assert (await host.infer("a", x())).variant in ("best", "cheap")


async def test_parking_lets_what_waits_come_back(lab, x, settled):
    host = await lab.start()
    gate = lab.gate("a")
    running = asyncio.create_task(host.infer("a", x()))
    await lab.entered["a"].wait()
    host.apply(parked())
    waiting = asyncio.create_task(host.infer("a", x()))
    await asyncio.sleep(0.01)
    gate.set()
    assert (await running).variant == "best"
    assert (await waiting).variant in ("best", "cheap")


async def test_unload_frees_and_refuses_until_load(lab, x, settled):
    host = await lab.start(a={}, b={})
    await host.unload("a")
    assert lab.open() == [("b", "best")]
    assert host.status("a").state == "UNAVAILABLE"
    assert "unloaded on request" in host.status("a").reason
    with pytest.raises(Unavailable, match="unloaded on request"):
        await host.infer("a", x())
    host.apply(Assignment(1, {"a": "mid", "b": "mid"}))  # a plan does not load what was unloaded by hand
    await settled(host, 1)
    assert lab.open() == [("b", "mid")]
    await host.unload("a")
    await host.load("a")
    await host.load("a")
    assert (await host.infer("a", x())).variant == "mid"
    assert lab.loads.count(("a", "mid")) == 1


async def test_what_the_assignment_unloads_is_down_until_it_says_otherwise(lab, x, settled, until):
    host = await lab.start(a={}, b={})
    host.apply(Assignment(1, {"a": "mid", "b": "best"}, unloaded=frozenset({"a", "gone"}), orders=2))
    await until(lambda: lab.open() == [("b", "best")])
    status = host.status("a")
    assert (status.state, status.unloaded) == ("UNAVAILABLE", True)
    host.apply(Assignment(2, {"a": "cheap", "b": "best"}, unloaded=frozenset({"a", "gone"}), orders=2))
    await settled(host, 2)
    assert lab.open() == [("b", "best")]
    host.apply(Assignment(2, {"a": "cheap", "b": "best"}, orders=3))  # the same plan: only the order has changed
    await until(lambda: host.status("a").state == "READY")
    assert (await host.infer("a", x())).variant == "cheap"
    assert not host.status("a").unloaded


async def test_an_order_that_came_directly_is_not_undone_by_an_older_assignment(lab, x, settled):
    host = await lab.start(a={}, b={})
    await host.unload("a", 1)
    await host.load("a", 2)
    host.apply(Assignment(1, {"a": "best", "b": "best"}, unloaded=frozenset({"a"}), orders=1))  # of the first order
    await settled(host, 1)
    assert (await host.infer("a", x())).variant == "best"
    await host.unload("a", 3)
    host.apply(Assignment(2, {"a": "mid", "b": "best"}, unloaded=frozenset({"a"}), orders=3))
    await settled(host, 2)
    assert lab.open() == [("b", "best")]


async def test_a_host_says_what_it_follows_and_what_it_was_told_last(lab, settled):
    host = await lab.start(assignment=Assignment(3, {"a": "best", "b": "best"}), a={}, b={})
    assert host.observe().told == (3, 0)
    assert not host.observe().lacks(3)
    assert host.observe().lacks(4)
    await host.unload("a", 1)
    state = host.observe()
    assert (state.unloaded, state.orders, state.told) == (("a",), 1, (3, 0))
    assert state.lacks(3)
    host.apply(Assignment(1, {}))  # passed over
    state = host.observe()
    assert (state.unloaded, state.orders, state.told, state.observed_generation) == (("a",), 1, (1, 0), 3)
    host.apply(Assignment(3, {}, unloaded=frozenset({"a"}), orders=1))
    assert not host.observe().lacks(3)


async def test_a_host_that_starts_leaves_what_was_unloaded_alone(lab, x):
    host = await lab.start(assignment=Assignment(3, {"a": "best", "b": "best"}, unloaded=frozenset({"a"})), a={}, b={})
    assert lab.open() == [("b", "best")]
    with pytest.raises(Unavailable, match="unloaded on request"):
        await host.infer("a", x())
    await host.load("a")
    assert (await host.infer("a", x())).variant == "best"


async def test_load_by_hand_says_why_it_failed(lab, x):
    host = await lab.start()
    await host.unload("a")
    lab.load_fails = dict.fromkeys(["best", "mid", "cheap"], "corrupt")
    with pytest.raises(Unavailable, match=r"load failed: variant 'best': load: corrupt"):
        await host.load("a")
    assert host.status("a").state == "UNAVAILABLE"


async def test_a_swap_that_our_own_fault_breaks_leaves_the_model_serving(lab, x, until):
    host = await lab.start()

    def broken():
        raise RuntimeError("bug")

    lab.memory.trim = broken
    host.apply(Assignment(1, {"a": "cheap"}))
    await until(lambda: "bug" in host.observe().failed.get("a", ""))
    assert (await host.infer("a", x())).variant == "best"


async def test_memory_that_cannot_be_read_does_not_stop_a_swap(lab, x, settled):
    host = await lab.start()

    def unreadable():
        raise OSError("no smaps")

    lab.memory.used = lab.memory.headroom = unreadable
    host.apply(Assignment(1, {"a": "cheap"}))
    await settled(host, 1)
    (swap,) = host.observe().swaps
    assert (swap.outcome, swap.bytes_measured) == ("done", 0)
