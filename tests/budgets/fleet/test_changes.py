"""What hosts changed to of late."""

from __future__ import annotations

from budgets.fleet.changes import Changes
from budgets.fleet.world import Group, Seat, World
from tests.budgets.fleet.worlds import MIB, rung, world

BIG, SMALL, TINY = (("h", "x", v) for v in ("big", "small", "tiny"))
PAYBACK = 20.0


def made(*, exclusive: bool) -> World:
    rungs = [rung("x", v, load=load) for v, load in (("big", 2.0), ("small", 1.0), ("tiny", 0.5))]
    return world([Group("h", "d", 3, 500 * MIB, exclusive=exclusive)], rungs)


def noted(fleet: World, *changes: tuple[float, dict[Seat, int], dict[Seat, int]]) -> Changes:
    """Changes at these times, from what is held and ready to what is held then."""
    found = Changes(PAYBACK)
    for at, before, after in changes:
        found.note(at, fleet, {"x"}, before, before, after)
    return found


def test_a_host_that_holds_one_variant_stays_what_it_changed_to() -> None:
    fleet = made(exclusive=True)
    changes = noted(fleet, (10.0, {BIG: 3}, {BIG: 1, SMALL: 2}))
    assert changes.frozen(29.0, fleet) == {SMALL: 2}
    assert changes.left(29.0, fleet) == frozenset()
    assert changes.frozen(30.0, fleet) == {}  # 20 times a second


def test_hosts_that_share_may_go_on_but_not_back() -> None:
    fleet = made(exclusive=False)
    changes = noted(fleet, (10.0, {BIG: 1}, {SMALL: 1}), (15.0, {SMALL: 1}, {TINY: 1}))
    assert changes.frozen(16.0, fleet) == {}
    assert changes.left(16.0, fleet) == {BIG, SMALL}
    assert changes.left(26.0, fleet) == {BIG}  # tiny has paid after half as long
    assert changes.left(31.0, fleet) == frozenset()


def test_a_model_on_one_host_more_stays_there() -> None:
    """It took no other variant's place, so to give it up again would undo it."""
    fleet = made(exclusive=False)
    changes = noted(fleet, (10.0, {BIG: 1}, {BIG: 1, SMALL: 1}))
    assert changes.frozen(11.0, fleet) == {SMALL: 1}
    assert changes.left(11.0, fleet) == frozenset()


def test_a_model_that_left_a_host_does_not_come_back_at_once() -> None:
    shared = noted(made(exclusive=False), (10.0, {BIG: 2}, {BIG: 1}))
    assert shared.left(29.0, made(exclusive=False)) == {BIG}
    assert shared.left(51.0, made(exclusive=False)) == frozenset()  # twenty times the two seconds that it takes to load
    alone = noted(made(exclusive=True), (10.0, {BIG: 2}, {BIG: 1}))
    assert alone.left(29.0, made(exclusive=True)) == frozenset()


def test_what_is_still_on_its_way_has_not_begun_to_pay() -> None:
    for exclusive in (True, False):
        fleet = made(exclusive=exclusive)
        changes = noted(fleet, (10.0, {BIG: 1}, {SMALL: 1}))
        changes.note(25.0, fleet, {"x"}, {SMALL: 1}, {}, {SMALL: 1})
        assert changes.frozen(44.0, fleet) == ({SMALL: 1} if exclusive else {})
        assert changes.left(44.0, fleet) == (frozenset() if exclusive else {BIG})


def test_a_model_that_nobody_asks_for_may_change_again() -> None:
    for exclusive in (True, False):
        fleet = made(exclusive=exclusive)
        changes = Changes(PAYBACK)
        changes.note(10.0, fleet, set(), {BIG: 1}, {BIG: 1}, {SMALL: 1})
        assert not changes.frozen(11.0, fleet)
        assert not changes.left(11.0, fleet)


def test_a_group_that_is_gone_is_not_asked_for() -> None:
    fleet = made(exclusive=True)
    changes = noted(fleet, (10.0, {BIG: 1}, {SMALL: 1}))
    assert changes.frozen(11.0, World((), fleet.rungs, fleet.aims)) == {}
