"""From counts to hosts."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.fleet.pack import pack
from budgets.fleet.world import Aim, Group, Placement, World
from tests.budgets.fleet.worlds import MIB, rung, world


def fleet(count: int, room: float = 300, *, exclusive: bool = False, **aims: Any) -> World:
    """x/big 100 MiB, x/mid 60, x/small 30; y and z the same."""
    rungs = [
        rung(m, v, quality=q, mib=mib)
        for m in "xyz"
        for v, q, mib in (("big", 1.0, 100), ("mid", 0.9, 60), ("small", 0.8, 30))
    ]
    return world([Group("h", "d", count, room * MIB, exclusive=exclusive)], rungs, **aims)


def packed(made: World, wanted: dict[tuple[str, str], int], *held: dict[str, str], **more: Any) -> Any:
    hosts = {"h": [(f"h{i}", contents) for i, contents in enumerate(held)]}
    placement = Placement({("h", *seat): n for seat, n in wanted.items()})
    found, homeless = pack(made, placement, hosts, **more)
    return [found[f"h{i}"] for i in range(len(held))], homeless


def test_exclusive_hosts_keep_what_is_wanted_of_them() -> None:
    made = fleet(3, exclusive=True)
    held = ({"x": "big"}, {"y": "big"}, {"x": "small"})
    found, homeless = packed(made, {("x", "big"): 1, ("x", "small"): 1, ("z", "big"): 1}, *held)
    assert found == [{"x": "big"}, {"z": "big"}, {"x": "small"}]
    assert homeless == []


def test_an_exclusive_host_of_the_same_model_changes_first_and_an_empty_one_before_it() -> None:
    made = fleet(3, exclusive=True)
    wanted = {("x", "small"): 1, ("y", "small"): 1}
    assert packed(made, wanted, {"y": "big"}, {"z": "big"}, {"x": "big"})[0] == [
        {"y": "small"},
        {"z": "big"},
        {"x": "small"},
    ]
    assert packed(made, {("x", "small"): 1}, {"x": "big"}, {})[0] == [{"x": "big"}, {"x": "small"}]


def test_what_was_changed_last_is_kept_first() -> None:
    made = fleet(2, exclusive=True)
    changed = {("h1", ""): 50.0, ("h0", ""): 10.0}
    found, _ = packed(made, {("x", "big"): 1, ("y", "big"): 1}, {"x": "big"}, {"x": "big"}, changed=changed)
    assert found == [{"y": "big"}, {"x": "big"}]
    shared = fleet(2, room=100)
    changed = {("h1", "x"): 50.0, ("h0", "x"): 10.0}
    found, _ = packed(shared, {("x", "big"): 1, ("y", "big"): 1}, {"x": "big"}, {"x": "big"}, changed=changed)
    assert found == [{"y": "big"}, {"x": "big"}]


def test_what_no_exclusive_host_is_left_for_is_said() -> None:
    made = fleet(3, exclusive=True)
    found, homeless = packed(made, {("x", "big"): 1, ("y", "big"): 2}, {"x": "big"}, {"y": "big"})
    assert found == [{"x": "big"}, {"y": "big"}]
    assert homeless == [("h", "y", "big")]


def test_an_exclusive_host_gives_up_what_it_has_no_room_for_any_more() -> None:
    made = fleet(2, room=50, exclusive=True)
    found, homeless = packed(made, {("y", "small"): 1}, {"x": "big"}, {"y": "small"})
    assert found == [{}, {"y": "small"}]
    assert homeless == []


def test_shared_hosts_take_what_is_new_where_most_room_is_left() -> None:
    made = fleet(2, room=220)
    found, homeless = packed(made, {("x", "big"): 1, ("y", "mid"): 1, ("z", "small"): 2}, {"x": "big"}, {})
    assert found == [{"x": "big", "z": "small"}, {"y": "mid", "z": "small"}]
    assert homeless == []


def test_shared_hosts_take_what_is_new_where_least_is_computed() -> None:
    made = fleet(2, room=1000)
    seats = {("h", m, "small"): 1 for m in "xyz"}
    for busy, idle in (("x", "yz"), ("y", "xz"), ("z", "xy")):
        rates = {("h", m, "small"): 50.0 if m == busy else 1.0 for m in "xyz"}
        found, _ = pack(made, Placement(seats, rates), {"h": [("h0", {}), ("h1", {})]})
        assert found == {"h0": {busy: "small"}, "h1": dict.fromkeys(idle, "small")}


def test_another_variant_takes_the_place_of_the_one_before() -> None:
    made = fleet(2, room=500)
    found, _ = packed(made, {("x", "small"): 1, ("y", "big"): 1}, {"x": "big", "y": "big"}, {})
    assert found == [{"x": "small", "y": "big"}, {}]


def test_where_the_pieces_do_not_fit_a_smaller_variant_does() -> None:
    """Three of 100 fit two hosts of 160 by their sum and not by the piece."""
    made = fleet(2, room=160)
    found, homeless = packed(made, {("x", "big"): 1, ("y", "big"): 1, ("z", "big"): 1}, {}, {})
    assert sorted(v for contents in found for v in contents.values()) == ["big", "big", "mid"]
    assert homeless == []
    # And stays: what is there already is found again.
    again, _ = packed(made, {("x", "big"): 1, ("y", "big"): 1, ("z", "big"): 1}, *found)
    assert again == found


def test_where_a_larger_piece_does_not_fit_what_is_there_stays() -> None:
    every = {(m, "big"): 1 for m in "xyz"}
    found, _ = packed(fleet(1, room=270), every, {"x": "big", "y": "big", "z": "small"})
    assert found == [{"x": "big", "y": "big", "z": "small"}]  # not mid, which nobody asked for
    found, _ = packed(fleet(1, room=220), every, {"x": "big", "y": "big", "z": "mid"})
    assert found == [{"x": "big", "y": "big"}]  # but what has no room any more goes


def test_what_not_even_a_smaller_variant_helps_is_said() -> None:
    found, homeless = packed(fleet(1, room=120), {("x", "big"): 1, ("y", "big"): 1}, {})
    assert found == [{"x": "big"}]
    assert homeless == [("h", "y", "big")]
    floored = fleet(2, room=160, z=Aim("z", 0.2, floor=0.95))
    _, homeless = packed(floored, {("x", "big"): 1, ("y", "big"): 1, ("z", "big"): 1}, {}, {})
    assert homeless == [("h", "z", "big")]


contents = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["big", "mid", "small"]), max_size=3)
seats = st.tuples(st.sampled_from("xyz"), st.sampled_from(["big", "mid", "small"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(contents, max_size=4), st.dictionaries(seats, st.integers(0, 3)), st.integers(20, 400), st.booleans())
def test_no_host_holds_more_than_it_can_and_what_lacks_is_said(
    held: list[dict[str, str]], wanted: dict[tuple[str, str], int], room: int, exclusive: bool
) -> None:
    if exclusive:
        held = [dict(list(c.items())[:1]) for c in held]
    made = fleet(len(held), room, exclusive=exclusive)
    # A plan asks for no more of a model than there are hosts, and for nothing larger than one.
    total: dict[str, int] = {}
    for seat in list(wanted):
        if total.get(seat[0], 0) + wanted[seat] > len(held) or made.rung(("h", *seat)).memory_bytes > room * MIB:
            del wanted[seat]
        else:
            total[seat[0]] = total.get(seat[0], 0) + wanted[seat]
    found, homeless = packed(made, wanted, *held)
    for contents in found:
        size = sum(made.rung(("h", m, v)).memory_bytes for m, v in contents.items())
        assert size <= room * MIB
        assert not exclusive or len(contents) <= 1
    if not exclusive:
        for model, count in total.items():
            assert sum(model in c for c in found) + sum(s[1] == model for s in homeless) == count
    for seat, count in wanted.items():
        here = sum(c.get(seat[0]) == seat[1] for c in found)
        kept = sum(c.get(seat[0]) == seat[1] for c in held)
        assert here >= min(kept, count) or not exclusive


def test_long_calls_are_kept_away_from_those_who_cannot_wait() -> None:
    rungs = [rung("x", "v", seconds=0.01), rung("y", "v", seconds=0.01), rung("z", "v", seconds=0.4)]
    made = world([Group("h", "d", 2, 900 * MIB)], rungs, z=Aim("z", slo_seconds=2.0))
    placement = Placement(
        {("h", m, "v"): 1 for m in "xyz"}, {("h", "x", "v"): 9.0, ("h", "y", "v"): 9.0, ("h", "z", "v"): 1.0}
    )
    found, _ = pack(made, placement, {"h": [("h0", {}), ("h1", {})]})
    assert sorted(found.values(), key=len) == [{"z": "v"}, {"x": "v", "y": "v"}]
    # What a host holds it keeps all the same: to move it is a swap.
    kept, _ = pack(made, placement, {"h": [("h0", {"x": "v", "z": "v"}), ("h1", {"y": "v"})]})
    assert kept == {"h0": {"x": "v", "z": "v"}, "h1": {"y": "v"}}
