"""What a plan changes on the hosts, and how."""

from __future__ import annotations

import math

import pytest

from budgets.fleet.world import Aim, Group, Seat, World
from budgets.replay.engine import Event
from budgets.replay.holdings import PAYBACK
from tests.budgets.fleet.worlds import MIB, rung, world
from tests.budgets.replay.stage import Played

GOOD, FAST, Y = ("h", "x", "good"), ("h", "x", "fast"), ("h", "y", "good")


def fleet(
    room: float = 1000, *, count: int = 1, exclusive: bool = False, slo: float = math.inf, load: float = 0.5
) -> World:
    rungs = [
        rung(m, v, quality=q, mib=mib, load=load, seconds=0.02)
        for m in "xyz"
        for v, q, mib in (("good", 1.0, 100), ("fast", 0.5, 60))
    ]
    return world([Group("h", "d", count, room * MIB, exclusive=exclusive)], rungs, **{m: Aim(m, slo) for m in "xyz"})


def every(step: float, model: str = "x", until: float = 9.0) -> list[tuple[float, str]]:
    return [(n * step, model) for n in range(1, round(until / step))]


def test_an_exclusive_host_computes_what_waits_before_it_changes() -> None:
    """Ten requests wait when the plan changes at 1.0. They are answered by the old variant; the next one waits for the new
    one, which is loaded only then."""
    made = fleet(exclusive=True, slo=2.0)
    arrivals = [(0.99, "x")] * 10 + [(1.3, "x")]
    played = Played(made, {0.0: {GOOD: 1}, 1.0: {FAST: 1}}, arrivals, batches={GOOD: 1, FAST: 1})
    assert (played.total.completed, played.total.dropped) == (11, 0)
    assert played.total.quality == pytest.approx(10 * 1.0 + 1 * 0.5)
    # The last of the old ones ends at 0.99 + 10 x 0.02 = 1.19; it is ready half a second later.
    assert played.script.seen[1].ready == {GOOD: 1}
    assert played.script.seen[2].ready == {FAST: 1}
    assert played.script.used[2.0] == {"h-0": 60 * MIB}
    early = Played(made, {0.0: {GOOD: 1}, 1.0: {FAST: 1}}, [*arrivals, (1.69, "x")], batches={GOOD: 1, FAST: 1})
    assert early.total.completed == 12


def test_without_an_objective_what_waits_goes_elsewhere_instead() -> None:
    made = fleet(exclusive=True, count=2)
    played = Played(made, {0.0: {GOOD: 2}, 1.0: {GOOD: 1, Y: 1}}, [(0.999, "x")] * 100, batches={GOOD: 1})
    assert played.total.completed == 100
    assert played.script.seen[2].ready == {GOOD: 1, Y: 1}
    alone = Played(fleet(exclusive=True), {0.0: {GOOD: 1}, 1.0: {FAST: 1}}, [(0.999, "x")] * 100, batches={GOOD: 1})
    assert alone.total.quality == pytest.approx(1 * 1.0 + 99 * 0.5)


def test_exclusive_hosts_know_their_memory() -> None:
    made = fleet(room=80, exclusive=True)
    seen = Played(made, {0.0: {FAST: 1}}, []).script.seen
    assert seen[1].world.groups[0].memory_bytes == 80 * MIB
    shrunk = Played(made, {0.0: {FAST: 1}, 3.0: {}}, [], events=[Event(1.5, "memory_bytes", "h", 50 * MIB)])
    assert shrunk.counts.over_seconds == pytest.approx(1.5)
    assert shrunk.script.seen[3].holding == {FAST: 1}
    assert shrunk.script.seen[4].holding == {}


def test_shared_hosts_serve_the_old_variant_while_the_new_one_is_loaded_beside_it() -> None:
    played = Played(fleet(slo=0.1), {0.0: {GOOD: 1}, 2.0: {FAST: 1}}, every(0.1), tick=0.25, end=9.0)
    assert (played.total.dropped, played.total.late) == (0, 0)
    assert played.script.used[2.0]["h-0"] == 100 * MIB
    assert played.script.used[2.25]["h-0"] == 160 * MIB  # both
    assert played.script.used[2.5]["h-0"] == 60 * MIB
    before = sum(1 for at, _ in every(0.1) if at < 2.5 - 0.02 + 1e-9)
    assert played.total.quality == pytest.approx(before + 0.5 * (played.total.completed - before), abs=0.51)


def test_where_memory_does_not_hold_both_the_old_one_goes_first_and_requests_wait() -> None:
    played = Played(fleet(room=150, slo=0.1), {0.0: {GOOD: 1}, 2.0: {FAST: 1}}, every(0.1), tick=0.25, end=9.0)
    assert max(used["h-0"] for used in played.script.used.values()) == 100 * MIB
    assert played.script.used[2.25]["h-0"] == 60 * MIB
    late = played.total.dropped + played.total.late
    assert 4 <= late <= 6  # half a second of ten a second
    patient = Played(fleet(room=150), {0.0: {GOOD: 1}, 2.0: {FAST: 1}}, every(0.1), end=9.0)
    assert patient.total.completed == len(every(0.1))


@pytest.mark.parametrize("room", range(200, 420, 10))
def test_a_plan_that_fits_is_never_over_on_the_way(room: int) -> None:
    """x shrinks, y grows, z comes: together they fit with 260 MiB, and so does every moment between."""
    small, big = ("h", "y", "fast"), ("h", "z", "good")
    plans: dict[float, dict[Seat, int]] = {0.0: {GOOD: 1, small: 1}, 2.0: {FAST: 1, Y: 1, big: 1}}
    played = Played(fleet(room=room), plans, every(0.05, "y"), tick=0.1, end=9.0)
    assert played.counts.over_seconds == 0.0
    assert max(used["h-0"] for used in played.script.used.values()) <= room * MIB
    end = played.script.seen[-1].ready
    if room >= 260:
        assert end == {FAST: 1, Y: 1, big: 1}
        assert played.replay.cluster.homeless == 0
    else:  # y or z took a smaller variant or found no room, which is told
        assert set(end) != {FAST, Y, big}


def test_changes_that_memory_cannot_hold_beside_each_other_take_turns() -> None:
    """Two at once would have neither model served; in turns one of them always is."""
    made = fleet(room=210, slo=0.1)
    plans = {0.0: {GOOD: 1, Y: 1}, 2.0: {FAST: 1, ("h", "y", "fast"): 1}}
    played = Played(made, plans, [], tick=0.25, end=9.0)
    assert played.script.seen[9].ready in ({GOOD: 1}, {Y: 1})  # at 2.25
    assert len(played.script.seen[12].ready) == 2
    assert played.script.seen[-1].ready == {FAST: 1, ("h", "y", "fast"): 1}


def test_when_others_take_memory_changes_that_free_it_do_not_wait() -> None:
    made = fleet(room=210)
    events = [Event(2.0, "neighbour_bytes", "h", 90 * MIB)]
    plans = {0.0: {GOOD: 1, Y: 1}, 2.0: {FAST: 1, ("h", "y", "fast"): 1}}
    played = Played(made, plans, [], tick=0.25, end=9.0, events=events)
    assert played.counts.over_seconds == 0.0
    assert played.script.used[2.25]["h-0"] == 120 * MIB


def test_a_model_that_moves_stays_until_it_is_there() -> None:
    made = world([Group("h", "d", 1), Group("i", "d", 1)], [rung("x", "v", load=0.5)], x=Aim("x", 0.1))
    here, there = ("h", "x", "v"), ("i", "x", "v")
    played = Played(made, {0.0: {here: 1}, 2.0: {there: 1}}, every(0.05), tick=0.25, end=9.0)
    assert (played.total.dropped, played.total.late) == (0, 0)
    assert played.script.used[2.25] == {"h-0": 100 * MIB, "i-0": 100 * MIB}
    assert played.script.seen[9].holding == {there: 1}
    assert played.script.used[2.75] == {"h-0": 0.0, "i-0": 100 * MIB}


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_flap_is_a_swap_undone_on_its_host_within_its_payback(exclusive: bool) -> None:
    made = fleet(exclusive=exclusive, load=0.1)
    payback = PAYBACK * 0.1

    def counted(*plans: tuple[float, dict[Seat, int]]) -> tuple[int, int]:
        counts = Played(made, {0.0: {GOOD: 1}, **dict(plans)}, [], end=20.0).counts
        return counts.swaps, counts.flaps

    assert counted() == (0, 0)
    assert counted((2.0, {FAST: 1})) == (1, 0)
    assert counted((2.0, {FAST: 1}), (2.0 + payback - 1.0, {GOOD: 1})) == (2, 1)
    assert counted((2.0, {FAST: 1}), (2.0 + payback, {GOOD: 1})) == (2, 0)
    assert counted((2.0, {FAST: 1}), (3.0, {GOOD: 1}), (4.0, {FAST: 1})) == (3, 2)
    if exclusive:
        assert counted((2.0, {Y: 1}), (3.0, {FAST: 1})) == (2, 0)
        assert counted((2.0, {Y: 1}), (3.0, {GOOD: 1})) == (2, 1)
    else:
        assert counted((2.0, {}), (3.0, {GOOD: 1})) == (2, 1)  # parked and back
        assert counted((2.0, {GOOD: 1, Y: 1}), (3.0, {GOOD: 1})) == (2, 1)
        assert counted((2.0, {GOOD: 1, Y: 1}), (6.0, {GOOD: 1})) == (2, 0)


def test_batches_that_the_plan_did_not_name_are_within_the_objective() -> None:
    """Two of 160 take one of 100 and one of 60: the third finds room for its smaller variant only."""
    made = fleet(room=160, count=2, slo=0.06)
    seats: dict[Seat, int] = {GOOD: 1, Y: 1, ("h", "z", "good"): 1}
    played = Played(made, {0.0: seats}, [], batches=dict.fromkeys(seats, 4))
    limits = {q.rung.variant: q.limit for h in played.replay.cluster.hosts["h"] for q in h.queues.values()}
    assert limits == {"good": 4, "fast": 2}  # 30 ms, twice of which is the objective
