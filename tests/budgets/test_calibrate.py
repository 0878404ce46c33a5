"""The latency model corrected by what is observed."""

from __future__ import annotations

import pytest

from budgets.calibrate import GAIN, TAIL, observe
from budgets.options import view
from budgets.plan import Learned, Memory
from budgets.snapshot import ModelReadings, Reading, Snapshot
from tests.budgets.asking import NOW, Make


def look(d: Make, latency: float = 0.05, service: float = 0.02, rate: float = 20.0) -> Snapshot:
    seen = d.snapshot
    lines = tuple(
        line
        if line.model != "a"
        else ModelReadings(
            model="a",
            rate=Reading(value=rate, at=NOW),
            latency=Reading(value=latency, at=NOW),
            queue=line.queue,
            busy=line.busy,
            service=Reading(value=service, at=NOW),
        )
        for line in seen.readings.models
    )
    return seen.model_copy(update={"readings": seen.readings.model_copy(update={"models": lines})})


def learn(d: Make, memory: Memory, ticks: int, **seen: float) -> Memory:
    for _ in range(ticks):
        snapshot = look(d, **seen)
        memory, _ = observe(memory, snapshot, view(d.catalog, snapshot, d.config, memory.learned), d.config, NOW)
    return memory


def test_predictions_come_to_what_is_observed_slowly_and_within_bounds(desk: Make) -> None:
    d = desk()
    snapshot = look(d)
    seen = view(d.catalog, snapshot, d.config)
    predicted = seen.predict(seen.current, "a", 0.99)
    d_memory, (check,) = observe(Memory(), snapshot, seen, d.config, NOW)
    assert (check.model, check.variant, check.predicted, check.observed) == ("a", "fp32", predicted, 0.05)
    assert check.error == pytest.approx(predicted / 0.05 - 1)
    assert d_memory.learned["a/fp32"].tail == pytest.approx((0.05 / predicted) ** GAIN)
    memory = learn(d, Memory(), 200, latency=2 * predicted)
    again = view(d.catalog, snapshot, d.config, memory.learned)
    assert again.predict(again.current, "a", 0.99) == pytest.approx(2 * predicted, rel=0.01)
    assert learn(d, Memory(), 400, latency=100 * predicted).learned["a/fp32"].tail == pytest.approx(TAIL[1], rel=0.01)


def test_a_variants_speed_is_remembered_for_when_another_one_runs(desk: Make) -> None:
    d = desk()
    memory = learn(d, Memory(), 200, service=0.04)  # fp32 takes twice as long here as its profile says
    assert memory.learned["a/fp32"].service == pytest.approx(2.0, rel=0.01)
    d.assignment["a"] = "int8"
    memory = learn(d, memory, 200, service=0.005)  # int8 does not
    snapshot = look(d, service=0.005)
    seen = view(d.catalog, snapshot, d.config, memory.learned)
    assert seen.factor("a", "fp32") == pytest.approx(2.0, rel=0.01)
    assert seen.factor("a", "int8") == 1.0
    slower = look(d, service=0.01)  # and now everything is twice as slow
    assert view(d.catalog, slower, d.config, memory.learned).factor("a", "fp32") == pytest.approx(4.0, rel=0.01)


def test_a_variant_that_has_hardly_run_is_known_by_what_it_did(desk: Make) -> None:
    """int8's calls take three times their profile since others use the cores; fp32's, that is known, half as long again."""
    d = desk()
    memory = learn(d, Memory(), 200, service=0.03)
    d.assignment["a"] = "int8"
    memory = learn(d, memory, 1, service=0.01)
    memory = learn(d, memory, 1, service=0.0225)
    assert memory.learned["a/int8"].service == pytest.approx(8.0**0.5)
    snapshot = look(d, service=0.005 * 8.0**0.5)
    seen = view(d.catalog, snapshot, d.config, memory.learned)
    assert seen.factor("a", "fp32") == pytest.approx(1.5, rel=0.01)  # not four times
    memory = learn(d, memory, 98, service=0.005 * 8.0**0.5)
    once = learn(d, memory, 1, service=0.02)
    assert once.learned["a/int8"].service == pytest.approx(8.0**0.5 * 2.0 ** (GAIN / 2))


def test_a_variant_nobody_knows_is_held_up_as_long_as_the_one_in_force(desk: Make) -> None:
    """fp32 is profiled with 20 ms, int8 with 5: what they wait for cores is the same, the rest is a share."""
    d = desk()
    for observed, expected in ((0.02, 0.005), (0.021, 0.006), (0.022, 0.007), (0.042, 0.0135)):
        seen = view(d.catalog, look(d, service=observed), d.config)
        assert seen.factor("a", "fp32") * 0.02 == pytest.approx(observed)
        assert seen.factor("a", "int8") * 0.005 == pytest.approx(expected)
    d.assignment["a"] = "int8"
    seen = view(d.catalog, look(d, service=0.007), d.config)
    assert seen.factor("a", "fp32") * 0.02 == pytest.approx(0.022)  # not 28 ms
    seen = view(d.catalog, look(d, service=0.004), d.config)
    assert seen.factor("a", "fp32") == pytest.approx(0.8)  # what is faster is faster by its share


@pytest.mark.parametrize(
    ("memory", "seen"),
    [
        (Memory(swapped_at={"a": NOW - 2}), {}),  # the window still shows the variant before
        (Memory(), {"rate": 1.0}),  # too few requests
        (Memory(), {"rate": 49.0}),  # saturated
    ],
)
def test_what_teaches_nothing(desk: Make, memory: Memory, seen: dict[str, float]) -> None:
    d = desk()
    assert learn(d, memory, 1, **seen).learned == {}
    d.swapping = ("a",)
    assert learn(d, Memory(), 1).learned == {}


def test_a_variant_nobody_knows_takes_the_tail_of_the_one_in_force(desk: Make) -> None:
    d = desk()
    seen = view(d.catalog, look(d), d.config, {"a/fp32": Learned(tail=1.5)})
    assert (seen.tail("a", "int8"), seen.tail("b", "int8")) == (1.5, 1.0)
