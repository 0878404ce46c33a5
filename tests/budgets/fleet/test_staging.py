"""From the placement in force to the one wanted, in steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.fleet.options import options_of
from budgets.fleet.staging import stage
from budgets.fleet.table import FILL, Demand
from budgets.fleet.world import Group, Seat, World
from tests.budgets.fleet.worlds import MIB, rung, world

XG, XF, YG, YF = (("h", m, v) for m in "xy" for v in ("good", "fast"))


def fleet(count: int, *, exclusive: bool = True, room: float = 1000) -> World:
    """good: 50 requests per second of a host; fast: 200."""
    rungs = [
        rung(m, v, quality=q, seconds=s, batches=(1,), mib=mib)
        for m in "xy"
        for v, q, s, mib in (("good", 1.0, 0.02, 100), ("fast", 0.9, 0.005, 50))
    ]
    return world([Group("h", "d", count, room * MIB, exclusive=exclusive)], rungs)


def staged(
    made: World,
    holding: dict[Seat, int],
    wanted: dict[Seat, int],
    ready: dict[Seat, int] | None = None,
    asked: dict[str, float] | None = None,
    **peak: float,
) -> dict[Seat, int]:
    """`asked`: what is expected; nothing where it is not given."""
    options = {o.seat: o for o in options_of(made, {**holding, **wanted})}
    demand = Demand(asked or {}, peak)
    return stage(made, options, holding, holding if ready is None else ready, wanted, demand)


def able(model: str, hosts: dict[Seat, int]) -> float:
    return sum(n * FILL * (50.0 if v == "good" else 200.0) for (_, m, v), n in hosts.items() if m == model)


def test_hosts_that_share_change_at_once() -> None:
    made = fleet(3, exclusive=False)
    assert staged(made, {XG: 3}, {XF: 3}, x=140.0) == {XF: 3}


def test_only_so_many_change_as_the_load_can_spare() -> None:
    made = fleet(4)
    assert staged(made, {XG: 4}, {XF: 4}, x=140.0) == {XG: 3, XF: 1}
    assert staged(made, {XG: 4}, {XF: 4}, x=90.0) == {XG: 2, XF: 2}
    assert staged(made, {XG: 4}, {XF: 4}, x=0.0) == {XF: 4}


def test_while_a_host_loads_no_other_is_taken_from_a_model_that_cannot_spare_it() -> None:
    made = fleet(4)
    assert staged(made, {XG: 3, XF: 1}, {XF: 4}, {XG: 3, XF: 0}, x=140.0) == {XG: 3, XF: 1}
    assert staged(made, {XG: 3, XF: 1}, {XF: 4}, {XG: 3, XF: 1}, x=140.0) == {XF: 4}


def test_a_free_host_is_used_before_any_is_taken() -> None:
    assert staged(fleet(3), {XG: 2}, {XG: 1, XF: 2}, x=90.0) == {XG: 2, XF: 1}


def test_what_nothing_can_spare_still_moves_by_one_host() -> None:
    assert staged(fleet(2), {XG: 2}, {XF: 2}, x=500.0) == {XG: 1, XF: 1}
    assert staged(fleet(1), {XG: 1}, {XF: 1}, x=40.0) == {XF: 1}


def test_a_model_that_is_late_changes_its_own_hosts_as_far_as_it_is_short() -> None:
    made = fleet(6)
    surge = {"x": 500.0}
    assert staged(made, {XG: 6}, {XF: 6}, asked=surge, x=500.0) == {XG: 4, XF: 2}
    assert staged(made, {XG: 5, XF: 1}, {XF: 6}, {XG: 5}, asked=surge, x=500.0) == {XG: 4, XF: 2}
    assert staged(made, {XG: 6}, {XF: 6}, asked={"x": 200.0}, x=500.0) == {XG: 5, XF: 1}  # not late: by one host
    # Nothing changes to a slower variant for that.
    assert staged(fleet(4), {XG: 2, XF: 2}, {XG: 4}, {XG: 2, XF: 1}, asked=surge, x=500.0) == {XG: 2, XF: 2}


def test_a_host_is_not_changed_for_less_than_it_serves_meanwhile() -> None:
    made = fleet(5)
    # One that loads will serve all that is asked for: another change would lose 47 a second for nothing.
    assert staged(made, {XG: 4, XF: 1}, {XF: 5}, {XG: 4}, asked={"x": 200.0}, x=500.0) == {XG: 4, XF: 1}
    assert staged(made, {XG: 4, XF: 1}, {XF: 5}, {XG: 4}, asked={"x": 450.0}, x=500.0) == {XG: 3, XF: 2}


def test_a_host_is_taken_from_another_model_for_more_than_that_one_loses() -> None:
    made, holding, wanted = fleet(6), {XG: 3, YG: 3}, {XG: 3, XF: 1, YG: 2}
    ready = {XG: 2, YG: 3}  # x serves 95 now and 142 soon; of 140 y would miss 45 while the host loads, and then
    assert staged(made, holding, wanted, ready, {"x": 200.0, "y": 140.0}, x=400.0, y=140.0) == holding
    assert staged(made, holding, wanted, ready, {"x": 300.0, "y": 140.0}, x=400.0, y=140.0) == wanted


def test_a_model_that_stays_better_off_helps_one_that_is_short() -> None:
    made = fleet(3)
    # x would miss a tenth of its need, y misses all of its own.
    assert staged(made, {XG: 3}, {XG: 2, YG: 1}, x=105.0, y=40.0) == {XG: 2, YG: 1}


def test_what_memory_no_longer_holds_gives_way_at_once() -> None:
    made = fleet(2, room=80)
    assert staged(made, {XG: 2}, {XF: 2}, x=90.0) == {XF: 2}


counts = st.dictionaries(st.sampled_from([XG, XF, YG, YF]), st.integers(1, 3), max_size=4)


@settings(max_examples=200, deadline=None)
@given(counts, counts, st.floats(0, 400), st.floats(0, 400))
def test_a_plan_is_reached_and_no_model_is_left_short_on_the_way(
    before: dict[Seat, int], wanted: dict[Seat, int], x: float, y: float
) -> None:
    count = max(sum(before.values()), sum(wanted.values()))
    made = fleet(count)
    need = {"x": x, "y": y}
    holding = dict(before)
    for _ in range(3 * count + 1):
        after = staged(made, holding, wanted, **need)
        assert sum(after.values()) <= count
        kept = {s: min(n, holding.get(s, 0)) for s, n in after.items()}
        for model, other in (("x", "y"), ("y", "x")):
            # Short only if it was short before, if it helped one that was shorter, or for the one step that must be.
            if able(model, kept) < min(need[model], able(model, holding)) - 1e-6:
                lost = sum(holding.values()) - sum(kept.values())
                assert lost == 1 or able(other, holding) < need[other]
        if all(after.get(s, 0) >= n for s, n in wanted.items()):
            return
        assert after != holding
        holding = after
    pytest.fail(f"{before} did not become {wanted}: {holding}")
