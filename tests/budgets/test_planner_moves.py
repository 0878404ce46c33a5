"""How swaps are made, pins, and plans looked at again before they are carried out."""

from __future__ import annotations

from typing import Any

import pytest

from budgets.config import ModelPolicy
from budgets.plan import Memory, Quarantine
from budgets.planner import revalidate
from budgets.snapshot import Missing
from tests.budgets.asking import NOW, Make, degraded, moves, step, used

# How a swap is made


def test_make_before_break_only_into_measured_headroom(desk: Make) -> None:
    d = desk()
    d.states = {"ram": "scaling"}
    d.usage = used(930)  # exactly 70 MiB of headroom, and int8 takes 70
    assert d.plan().swaps[0].mode == "make_before_break"
    d.usage = used(931)
    assert d.plan().swaps[0].mode == "break_before_make"


def test_what_the_first_swap_gives_back_is_there_for_the_second(desk: Make) -> None:
    d = desk()
    d.states, d.usage = {"ram": "scaling"}, used(985)
    assert [s.mode for s in d.plan().swaps] == ["break_before_make", "make_before_break"]


def test_headroom_counts_every_host(desk: Make) -> None:
    d = desk()
    d.states, d.usage = {"ram": "scaling"}, used(910)
    d.running = [d.assignment, d.assignment]
    assert d.plan().swaps[0].mode == "break_before_make", "two hosts load 70 MiB each into 90"


def test_pins_into_unmeasured_headroom_break_first(desk: Make) -> None:
    d = desk()
    d.assignment["a"], d.pins, d.usage = "int8", {"a": "fp32"}, Missing(reason="endpoint down")
    assert d.plan().swaps[0].mode == "break_before_make"


def test_a_pin_upwards_takes_room_from_the_next(desk: Make) -> None:
    d = desk()
    d.assignment |= {"a": "int8", "b": "int8"}
    d.usage, d.pins = used(750), {"a": "fp32", "b": "fp32"}
    assert [s.mode for s in d.plan().swaps] == ["make_before_break", "break_before_make"]


# Pins


def test_pins_are_followed_and_quarantined_ones_held(desk: Make) -> None:
    d = desk(b=ModelPolicy(pin="tiny"))
    d.pins = {"a": "int8", "c": None}
    made = d.plan()
    assert moves(made) == {"a": "int8", "b": "tiny", "c": None}
    assert {s.direction for s in made.swaps} == {"pin"}
    d.memory = Memory(quarantined=(Quarantine(model="a", variant="int8", reason="canary", until=NOW + 1),))
    made = d.plan()
    assert "a" not in moves(made)
    assert "pinned, but quarantined: canary" in d.holds(made)


def test_a_pin_by_hand_outranks_the_configuration(desk: Make) -> None:
    d = desk(a=ModelPolicy(pin="tiny"))
    d.pins = {"a": "int8"}
    assert moves(d.plan()) == {"a": "int8"}


# Revalidation


def test_a_plan_that_still_holds_is_kept(pressed: Any) -> None:
    made = pressed.plan()
    assert revalidate(made, pressed.snapshot, pressed.snapshot, pressed.config) == made


@pytest.mark.parametrize("usage", [used(500), Missing(reason="endpoint down"), used(990, at=NOW - 100)])
def test_relief_is_dropped_with_its_pressure(pressed: Any, usage: Any) -> None:
    made, before = pressed.plan(), pressed.snapshot
    pressed.usage = usage
    kept = revalidate(made, before, pressed.snapshot, pressed.config)
    assert (kept.swaps, kept.generation, kept.assignment) == ((), 7, before.assignment)
    assert all("the pressure on ram is gone" in h.reason for h in kept.holds if "dropped" in h.reason)


def test_one_swap_is_dropped_and_the_others_kept(pressed: Any) -> None:
    made, before = pressed.plan(), pressed.snapshot
    first, second = made.swaps
    pressed.swapping = (first.model,)
    kept = revalidate(made, before, pressed.snapshot, pressed.config)
    assert kept.swaps == (second,)
    assert kept.generation == 8
    assert kept.assignment == {**before.assignment, second.model: second.to_variant}
    assert kept.alternatives == made.alternatives != ()
    made = made.model_copy(update={"infeasible": ("ram",), "gap": 0.1})
    kept = revalidate(made, before, pressed.snapshot, pressed.config)
    assert (kept.infeasible, kept.gap) == (("ram",), 0.1)
    pressed.swapping, pressed.running = (), [{**before.assignment, second.model: "tiny"}]
    assert revalidate(made, before, pressed.snapshot, pressed.config).swaps == (first,)


def test_a_restore_is_dropped_under_new_pressure(desk: Make) -> None:
    d = degraded(desk(), step("a"))
    made, before = d.plan(), d.snapshot
    assert moves(made) == {"a": "fp32"}
    for usage in (used(950), Missing(reason="endpoint down")):
        d.usage = usage
        assert revalidate(made, before, d.snapshot, d.config).swaps == ()
