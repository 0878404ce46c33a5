"""Swaps being watched, one look at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from budgets.config import BudgetsConfig, ControllerConfig
from budgets.plan import Memory, Quarantine, Verification
from budgets.planner import plan
from budgets.reality import checksum, forget, learn
from budgets.snapshot import Counted, HostState, Readings, Shadow, Snapshot, SwapRecord
from budgets.state import staged
from budgets.verify import review
from tests.budgets.asking import Make
from variants.catalog import Catalog

CONFIG = BudgetsConfig(controller=ControllerConfig(stage_seconds=3, verify_seconds=30, verify_tolerance=0.5))
GENERATION = 8


def counted(variant: str = "int8", requests: int = 0, seconds: float = 0.005, errors: int = 0) -> Counted:
    return Counted(
        variant=variant,
        answered=requests - errors,
        errors=errors,
        engine_seconds=requests * seconds,
        samples=requests,
    )


def host(name: str = "h0", counts: Counted | None = None, *swaps: SwapRecord, **fields: Any) -> HostState:
    counts = counts or counted()
    return HostState(
        host=name,
        pid=1,
        at=0.0,
        observed_generation=GENERATION,
        variants={"a": counts.variant},
        counts={"a": counts},
        swaps=swaps,
        **fields,
    )


def snapshot(*hosts: HostState, assigned: str = "int8") -> Snapshot:
    readings = Readings(at=0.0, budgets=(), models=())
    return Snapshot(at=0.0, readings=readings, hosts=hosts, generation=GENERATION, assignment={"a": assigned})


def watched(**fields: Any) -> Verification:
    known: dict[str, Any] = {
        "model": "a",
        "from_variant": "fp32",
        "to_variant": "int8",
        "direction": "degrade",
        "trigger": "ram",
        "generation": GENERATION,
        "planned_at": 0.0,
        "service_before": 0.02,
        "service_predicted": 0.005,
    }
    return Verification.model_validate({**known, **fields})


def look(catalog: Catalog, memory: Memory, seen: Snapshot, now: float) -> tuple[Memory, list[tuple[str, str]]]:
    after, verdicts = review(memory, seen, catalog, CONFIG, now)
    return after, [(v.result, v.reason) for v in verdicts]


def after(catalog: Catalog, begun: Verification, start: Snapshot, end: Snapshot, seconds: float = 5.0) -> Any:
    """One look when the swap has ended, and one later."""
    memory, _ = look(catalog, Memory(verifying=(begun,)), start, 10.0)
    return look(catalog, memory, end, 10.0 + seconds)


def test_it_waits_until_every_host_is_there(three: Catalog) -> None:
    memory = Memory(verifying=(watched(),))
    for late in (
        host("h1", counted("fp32")),
        host("h1", swapping=("a",)),
        host("h1").model_copy(update={"observed_generation": GENERATION - 1}),
    ):
        waiting, verdicts = look(three, memory, snapshot(host(), late), 10.0)
        assert (waiting.verifying[0].ended_at, verdicts) == (None, [])
    there, _ = look(three, memory, snapshot(host(), host("h1")), 10.0)
    assert there.verifying[0].ended_at == 10.0


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (counted(requests=100, errors=2), ""),  # too few to say
        (counted(requests=1000, errors=3), ""),  # too rare
        (counted(requests=100, errors=3), "errors: 3 of 100 requests"),
        (counted(requests=19, seconds=0.2), ""),  # too few samples
        (counted(requests=100, seconds=0.029), ""),  # within half as much again as before
        (counted(requests=100, seconds=0.04), "latency: an engine call takes 40.0 ms a sample, at most 30.0 ms"),
    ],
)
def test_errors_and_speed(three: Catalog, seen: Counted, fault: str) -> None:
    memory, verdicts = after(three, watched(), snapshot(host()), snapshot(host("h0", seen)))
    if not fault:
        assert verdicts == []
        return
    ((result, reason),) = verdicts
    assert result == "rolled_back"
    assert reason.startswith(fault)
    assert memory.verifying[0].verdict == "roll_back"
    assert [(q.variant, q.until, q.reason) for q in memory.quarantined] == [("int8", None, reason)]


def test_a_pinned_variant_may_be_slow_and_may_not_fail(three: Catalog) -> None:
    pinned = watched(direction="pin")
    slow = snapshot(host("h0", counted(requests=100, seconds=0.5)))
    assert after(three, pinned, snapshot(host()), slow)[1] == []
    failing = snapshot(host("h0", counted(requests=100, errors=50)))
    assert after(three, pinned, snapshot(host()), failing)[1][0][0] == "rolled_back"


def test_what_was_counted_before_the_swap_or_by_a_process_before_is_not_blamed_on_it(three: Catalog) -> None:
    old = snapshot(host("h0", counted(requests=100, errors=90)))
    same = snapshot(host("h0", counted(requests=200, errors=90)))
    assert after(three, watched(), old, same)[1] == []
    restarted = snapshot(host("h0", counted(requests=5, errors=3)))
    assert after(three, watched(), snapshot(host("h0", counted(requests=50))), restarted)[1][0][0] == "rolled_back"


def test_a_trial_is_compared_with_the_hosts_that_still_run_the_variant_before(three: Catalog) -> None:
    trial = watched(hosts=("h0",))
    start = snapshot(host(), host("h1", counted("fp32")), assigned="fp32")

    def end(peer_seconds: float) -> Snapshot:
        mine = counted(requests=100, seconds=0.04)
        return snapshot(host("h0", mine), host("h1", counted("fp32", 100, peer_seconds)), assigned="fp32")

    assert after(three, trial, start, end(0.02))[1][0][0] == "rolled_back"
    memory, verdicts = after(three, trial, start, end(0.06))  # the machine has become three times as slow
    assert verdicts[0][0] == "promoted"
    assert memory.verifying[0].verdict == "promote"


def test_trials_whose_host_is_gone_are_given_up(three: Catalog) -> None:
    trial = watched(hosts=("h0",))
    others = snapshot(host("h1", counted("fp32")), assigned="fp32")
    memory, verdicts = look(three, Memory(verifying=(trial,)), others, 10.0)
    assert (memory.verifying, verdicts) == ((), [("abandoned", "the host on trial is gone")])
    nobody, verdicts = look(three, Memory(verifying=(trial,)), snapshot(assigned="fp32"), 10.0)
    assert (nobody.verifying, verdicts) == ((trial,), [])


def record(**fields: Any) -> SwapRecord:
    known: dict[str, Any] = {
        "generation": GENERATION,
        "model": "a",
        "from_variant": "fp32",
        "to_variant": "int8",
        "mode": "make_before_break",
        "started": 1.0,
        "seconds": 0.5,
        "bytes_measured": 100,
        "outcome": "done",
    }
    return SwapRecord.model_validate({**known, **fields})


def shadow(suspect: str) -> Shadow:
    return Shadow(variant="int8", reference="fp32", requests=8, rows=8, distance=0.7, tolerance=0.1, suspect=suspect)


def test_what_a_host_took_back_itself_is_put_aside_for_good_only_where_it_was_wrong(three: Catalog) -> None:
    wrong = record(outcome="rolled_back", refuted=True, reason="verify: shadow: far apart", shadow=shadow("int8"))
    seen = snapshot(host("h0", counted("fp32"), wrong), assigned="int8")
    memory, verdicts = look(three, Memory(verifying=(watched(),)), seen, 10.0)
    assert (memory.verifying, verdicts) == ((), [("rolled_back", "verify: shadow: far apart")])
    (bad,) = learn(Memory(), {"a": "int8"}, [wrong], seen.hosts, GENERATION, 60.0, 10.0, three).quarantined
    assert (bad.variant, bad.until, bad.checksum) == ("int8", None, checksum(three, "a", "int8"))
    failed = record(outcome="rolled_back", reason="load: no memory")
    (later,) = learn(Memory(), {"a": "int8"}, [failed], seen.hosts, GENERATION, 60.0, 10.0, three).quarantined
    assert (later.until, later.checksum) == (70.0, "")


def test_live_answers_may_convict_the_variant_before(three: Catalog) -> None:
    done = record(from_variant="int8", to_variant="fp32", shadow=shadow("int8"))
    (bad,) = learn(Memory(), {"a": "fp32"}, [done], (), GENERATION, 60.0, 10.0, three).quarantined
    assert (bad.variant, bad.until) == ("int8", None)
    assert "0.700 apart on 8 live requests (8 rows), tolerated 0.100" in bad.reason


def test_a_quarantine_ends_when_the_artefact_changes(three: Catalog) -> None:
    def holding(files: Mapping[str, str]) -> Catalog:
        entry = three.entries["a"]
        variant = entry.variants["int8"].model_copy(update={"files": files})
        entry = entry.model_copy(update={"variants": {**entry.variants, "int8": variant}})
        return three.model_copy(update={"entries": {**three.entries, "a": entry}})

    before = holding({"m.onnx": "abc"})
    bad = Quarantine(model="a", variant="int8", reason="errors", checksum=checksum(before, "a", "int8"))
    memory = Memory(quarantined=(bad,))
    assert forget(memory, 1e12, before) == memory
    assert forget(memory, 1.0, holding({"m.onnx": "def"})).quarantined == ()


def test_a_rollback_goes_where_memory_has_room(desk: Make) -> None:
    d = desk()
    d.assignment["a"] = "int8"
    bad = watched(verdict="roll_back", reason="errors: 5 of 10", generation=7)
    quarantine = Quarantine(model="a", variant="int8", reason="errors: 5 of 10")
    d.memory = Memory(verifying=(bad,), quarantined=(quarantine,))
    d.usage = d.usage.model_copy(update={"value": 700 * 2**20})
    (swap,) = d.plan().swaps
    assert (swap.from_variant, swap.to_variant, swap.direction, swap.reason) == (
        "int8", "fp32", "rollback", "errors: 5 of 10",
    )  # fmt: skip
    d.usage = d.usage.model_copy(update={"value": 900 * 2**20})
    (swap,) = d.plan().swaps
    assert swap.to_variant == "tiny", "fp32 would take 130 MiB more than there are"
    d.memory = d.memory.model_copy(
        update={"quarantined": (quarantine, Quarantine(model="a", variant="tiny", reason="x"))}
    )
    assert d.plan().swaps == ()
    assert "not rolled back: nothing else may run and fits (errors: 5 of 10)" in d.holds()


def test_a_trial_that_failed_leaves_the_assignment_as_it_is(desk: Make) -> None:
    d = desk()
    d.running = [{**d.assignment, "a": "int8"}, d.assignment]
    d.memory = Memory(verifying=(watched(hosts=("h0",), verdict="roll_back", reason="errors", generation=7),))
    made = d.plan()
    assert [(s.from_variant, s.to_variant, s.direction, s.stage) for s in made.swaps] == [
        ("int8", "fp32", "rollback", "all")
    ]
    assert (made.assignment, made.staged) == (d.assignment, {})


def test_other_plans_leave_a_trial_where_it_is(desk: Make) -> None:
    d = desk()
    d.running = [{**d.assignment, "a": "int8"}, d.assignment]
    trial = watched(hosts=("h0",), generation=7)
    d.memory, d.pins = Memory(verifying=(trial,)), {"b": "tiny"}

    seen = d.snapshot.model_copy(update={"staged": staged(d.memory)})
    made = plan(d.catalog, seen, d.pressures, d.triggers, d.config, d.memory, 1000.0)
    assert [(s.model, s.stage) for s in made.swaps] == [("b", "first")]
    assert {m: (t.variant, t.hosts) for m, t in made.staged.items()} == {
        "a": ("int8", ("h0",)),
        "b": ("tiny", ("h0",)),
    }
    d.pins = {"a": "int8"}
    assert "pinned: int8 is on trial on h0" in d.holds()


def test_a_host_that_does_not_answer_for_a_moment_is_waited_for(three: Catalog, desk: Make) -> None:
    trial = watched(hosts=("h0",))
    gone = snapshot(host("h1", counted("fp32")), assigned="fp32").model_copy(update={"absent": ("h0",)})
    assert look(three, Memory(verifying=(trial,)), gone, 10.0) == (Memory(verifying=(trial,)), [])
    everywhere = snapshot(host()).model_copy(update={"absent": ("h1",)})
    waiting, _ = look(three, Memory(verifying=(watched(),)), everywhere, 10.0)
    assert waiting.verifying[0].ended_at is None
    d = desk()
    d.usage = d.usage.model_copy(update={"value": 950 * 2**20})
    d.states = {"ram": "scaling"}
    partial = d.snapshot.model_copy(update={"absent": ("h9",)})
    made = plan(d.catalog, partial, d.pressures, d.triggers, d.config, d.memory, 1000.0)
    assert [h.reason for h in made.holds] == ["waiting: h9 did not answer"]
    d.states = {"ram": "saturated"}
    assert plan(d.catalog, partial, d.pressures, d.triggers, d.config, d.memory, 1000.0).swaps


def test_trials_that_are_no_longer_wanted_are_withdrawn_and_blame_nobody(desk: Make) -> None:
    d = desk()
    d.running = [{**d.assignment, "a": "int8"}, d.assignment]
    d.memory = Memory(verifying=(watched(hosts=("h0",), direction="pin", generation=7),))
    assert [(s.direction, s.reason) for s in d.plan().swaps] == [
        ("rollback", "its pin was taken back during the trial")
    ]
    d.pins = {"a": "int8"}
    assert d.plan().swaps == ()
    d = desk()
    d.assignment["a"] = "int8"
    d.running = [{**d.assignment, "a": "fp32"}, d.assignment]
    trial = watched(hosts=("h0",), direction="restore", from_variant="int8", to_variant="fp32", generation=7)
    d.memory = Memory(verifying=(trial,))
    assert d.plan().swaps == ()
    d.states = {"ram": "scaling"}
    (back,) = d.plan().swaps
    assert (back.to_variant, back.reason) == ("int8", "ram became active during the trial")
