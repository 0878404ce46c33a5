"""How many requests a call may join, and when hosts are told so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.batches import largest, limit, rung_of, serving
from budgets.config import BatchLimits, BudgetsConfig, ModelPolicy, Slo
from budgets.explain import served as words
from budgets.explain import status
from budgets.initial import initial
from budgets.plan import Decision, Learned, Memory
from budgets.planner import revalidate
from budgets.remember import remember
from budgets.snapshot import HostState, Reading, Serving
from tests.budgets.asking import NOW, Make, used
from variants.catalog import BatchProfile, Catalog, Profile

#: Seconds of a call with 1, 2, 4 and 8 rows: each row after the first takes half as long.
SECONDS = {1: 0.010, 2: 0.015, 4: 0.025, 8: 0.045}


def profile(seconds: dict[int, float]) -> Profile:
    batches = tuple(
        BatchProfile(batch=b, p50_seconds=s, p99_seconds=1.2 * s, throughput=b / s) for b, s in seconds.items()
    )
    return Profile(
        device="d", threads=1, resident_bytes=1, load_seconds=0.1, warmup_seconds=0.0, batches=batches, quality=1.0
    )


@pytest.mark.parametrize(
    ("objective", "rate", "rows"),
    [
        (None, 50.0, 8),  # no objective: what the model allows
        (1.0, 50.0, 8),  # all fit within half of it
        (0.050, 50.0, 4),  # 25 ms of 50
        (0.040, 50.0, 3),  # 20 ms, between two that were profiled
        (0.015, 5.0, 1),  # a single call takes more than half: nothing may wait for another
        (0.050, 170.0, 8),  # four at a time are 160 a second: beyond that only throughput helps
        (0.005, 5.0, 8),  # nothing keeps it
    ],
)
def test_the_limit_keeps_the_objective_at_the_rate(objective: float | None, rate: float, rows: int) -> None:
    assert limit(rung_of(profile(SECONDS), 8, 1.0), 8, objective, rate) == rows


def test_sizes_that_were_not_profiled() -> None:
    one = rung_of(profile({1: 0.010}), 8, 1.0)
    assert limit(one, 8, 0.1, 10.0) == 5, "by proportion at most"
    assert limit(one, 8, 1.0, 10.0) == 8
    assert limit(rung_of(profile(SECONDS), 16, 1.0), 16, 0.2, 10.0) == 16
    assert limit(rung_of(profile(SECONDS), 2, 1.0), 2, 1.0, 10.0) == 2
    assert limit(rung_of(profile(SECONDS), 8, 2.0), 8, 0.1, 10.0) == 4, "calls twice as slow"


@given(
    st.dictionaries(st.integers(2, 16), st.floats(1.0, 3.0), max_size=4),
    st.floats(0.001, 0.1),
    st.floats(0.001, 1.0),
    st.floats(0, 500),
    st.integers(1, 16),
)
def test_limits_keep_their_promise(
    more: dict[int, float], first: float, objective: float, rate: float, most: int
) -> None:
    seconds, last = {1: first}, first
    for batch, factor in sorted(more.items()):
        last = seconds[batch] = last * factor
    rung = rung_of(profile(seconds), most, 1.0)
    rows = limit(rung, most, objective, rate)
    assert 1 <= rows <= most
    assert limit(rung, most, objective, rate, now=rows) == rows, "what was chosen stays"
    within = [b for b in range(1, most + 1) if rung.seconds(b) <= objective / 2]
    if within and rate <= max(b / rung.seconds(b) for b in within if b <= rung.most):
        assert rung.seconds(rows) <= objective / 2 * (1 + 1e-9)


def test_small_differences_do_not_change_a_limit() -> None:
    rung = rung_of(profile(SECONDS), 8, 1.08)  # 4 rows take 27 ms of 25
    assert limit(rung, 8, 0.050, 50.0, now=4) == 4
    assert limit(rung, 8, 0.050, 50.0) == 3
    assert limit(rung_of(profile(SECONDS), 8, 1.2), 8, 0.050, 50.0, now=4) == 3
    # An objective that was lost to a rate is not won back by a little less of it.
    rung = rung_of(profile(SECONDS), 8, 1.0)
    assert limit(rung, 8, 0.050, 150.0, now=8) == 8
    assert limit(rung, 8, 0.050, 150.0, now=4) == 4
    assert limit(rung, 8, 0.050, 100.0, now=8) == 4


POLICIES = {"a": ModelPolicy(weight=2.0, slo=Slo(latency_seconds=0.02)), "b": ModelPolicy(weight=3.0)}


def test_hosts_that_allow_less_are_planned_with(three: Catalog) -> None:
    models = {"a": ModelPolicy(slo=Slo(latency_seconds=60.0)), "b": ModelPolicy()}
    config = BudgetsConfig(models=models, batches=BatchLimits(every=4, models={"b": 2, "c": 10**6}))
    own = three.entries["a"].model.max_batch
    assert own > 4
    assert [largest(three.entries[m].model, config) for m in "abc"] == [4, 2, own]
    assert largest(three.entries["a"].model.model_copy(update={"batchable": False}), config) == 1
    made = serving(three, config, initial(three, config))
    assert all(made[m].batch is None for m in "ab"), "as much as hosts allow"
    seen = status(three, config, None, {})["models"]
    assert [seen[m]["batch"] for m in "abc"] == [4, 2, own]


def test_what_hosts_are_told_at_the_start(three: Catalog) -> None:
    config = BudgetsConfig(models=POLICIES)
    told = serving(three, config, initial(three, config))
    # fp32 takes 20 ms: a single call is more than half of the objective.
    assert told == {"a": Serving(batch=1, objective=0.02, weight=2.0), "b": Serving(weight=3.0)}
    assert serving(three, config, {"a": None})["a"] == Serving(objective=0.02, weight=2.0)
    # What hosts were told of a model that is no longer in the file is taken back.
    assert serving(three, BudgetsConfig(), {"a": "fp32"}, before=told) == {"a": Serving()}
    slow = {"a/int8": Learned(service=3.0)}
    assert serving(three, config, {"a": "int8"}, learned=slow)["a"].batch == 1


def told(d: Any, three: Catalog, **changed: Serving) -> Any:
    """The desk's hosts serve as planned, but for what is changed."""
    before = {**serving(three, d.config, d.assignment), **changed}
    snapshot = d.snapshot.model_copy(update={"serving": before})
    type(d).snapshot = property(lambda self: snapshot)
    return d


@pytest.fixture
def served(desk: Make, three: Catalog, monkeypatch: pytest.MonkeyPatch) -> Any:
    d = desk(**POLICIES)
    monkeypatch.setattr(type(d), "snapshot", type(d).snapshot)  # put back after the test
    return d


def test_a_plan_that_changes_nothing_keeps_its_generation(served: Any, three: Catalog) -> None:
    made = told(served, three).plan()
    assert (made.generation, made.serving) == (7, served.snapshot.serving)


def test_another_limit_is_a_plan_without_a_swap_after_a_cooldown(served: Any, three: Catalog) -> None:
    d = told(served, three, a=Serving(batch=5, objective=0.02, weight=2.0))
    made = d.plan()
    assert (made.generation, made.swaps, made.assignment) == (8, (), d.assignment)
    assert made.serving["a"] == Serving(batch=1, objective=0.02, weight=2.0)
    before = Memory(swapped_at={}, planned_at=NOW - 50)
    after = remember(before, made, d.snapshot, d.config, NOW)
    assert (after.told_at, after.planned_at) == (NOW, NOW - 50)
    d.memory = Memory(told_at=NOW - 1)
    assert d.plan().generation == 7
    d.memory = Memory(told_at=NOW - d.config.controller.cooldown_seconds)
    assert d.plan().generation == 8
    line = Decision(at=NOW, snapshot=d.snapshot, plan=made)
    assert dict(words(line)) == {"a": "serve a: up to 1 rows a call, objective 20 ms, weight 2"}
    assert Decision.model_validate_json(line.model_dump_json()) == line


def test_another_objective_or_weight_does_not_wait(served: Any, three: Catalog) -> None:
    d = told(served, three, b=Serving(weight=1.0))
    d.memory = Memory(told_at=NOW - 1, planned_at=NOW - 1)
    made = d.plan()
    assert (made.generation, made.serving["b"].weight) == (8, 3.0)


def test_while_a_host_departs_from_the_plan_nothing_new_is_asked(served: Any, three: Catalog) -> None:
    d = told(served, three, b=Serving(weight=1.0))
    hosts = tuple(
        HostState(host=f"h{i}", pid=1, at=NOW, observed_generation=7, variants={**d.assignment, "a": variant})
        for i, variant in enumerate(("fp32", "int8"))
    )
    snapshot = d.snapshot.model_copy(update={"hosts": hosts})
    type(d).snapshot = property(lambda self: snapshot)
    d.memory = Memory(swapped_at={"a": NOW})
    assert d.plan().generation == 7


def test_a_swap_brings_its_limit_and_takes_it_along_when_it_is_dropped(served: Any, three: Catalog) -> None:
    served.usage, served.states = used(2000), {"ram": "saturated"}
    d = told(served, three)
    made = d.plan()
    assert made.assignment["a"] == "tiny"
    assert made.serving["a"].batch == 5, "2 ms a row by proportion, 10 ms"
    swapping = (d.snapshot.hosts[0].model_copy(update={"swapping": ("a",)}),)
    kept = revalidate(made, d.snapshot, d.snapshot.model_copy(update={"hosts": swapping}), d.config)
    assert "a" not in {s.model for s in kept.swaps}
    assert kept.serving == d.snapshot.serving
    calm = d.snapshot.model_copy(update={"readings": d.snapshot.readings.model_copy(update={"budgets": ()})})
    assert revalidate(made, d.snapshot, calm, d.config).serving == d.snapshot.serving


def test_rates_lift_a_limit_that_no_longer_keeps_the_objective(served: Any, three: Catalog) -> None:
    served.rates = {"a": Reading(value=49.0, at=NOW)}
    made = told(served, three).plan()
    assert made.serving["a"].batch is None, "one by one 15 a second are within the objective"
