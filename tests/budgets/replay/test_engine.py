"""The event loop: requests, batches, deadlines, events, and what is counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.fleet.world import Aim, Group, Seat, World
from budgets.replay.engine import Event
from budgets.replay.result import summary
from tests.budgets.fleet.worlds import MIB, rung, world
from tests.budgets.replay.stage import Played

X = ("h", "x", "v")


def one(slo: float = math.inf, *, count: int = 1, seconds: float = 0.02, **group: float) -> World:
    return world([Group("h", "d", count, **group)], [rung("x", "v", seconds=seconds)], x=Aim("x", slo))  # type: ignore[arg-type]


def test_requests_that_come_while_a_batch_runs_are_the_next_batch() -> None:
    """20 ms alone; then three together: 40 ms. In time within 60 ms, all of them; not if calls take longer."""
    arrivals = [(1.0, "x"), (1.001, "x"), (1.001, "x"), (1.001, "x")]
    quick = Played(one(0.06), {0.0: {X: 1}}, arrivals, batches={X: 4})
    assert (quick.total.completed, quick.total.late) == (4, 0)
    slow = Played(one(0.06), {0.0: {X: 1}}, arrivals, batches={X: 4}, events=[Event(0.5, "slowdown", "h", 1.05)])
    assert (slow.total.completed, slow.total.late) == (4, 3)
    one_of_four = summary(slow.counts, 10.0, "script")
    assert (one_of_four["effective_quality"], one_of_four["timely_quality"]) == (1.0, 0.25)


def test_streams_compute_at_once() -> None:
    arrivals = [(1.0, "x"), (1.0, "x")]
    for streams, dropped in ((1, 1), (2, 0)):
        assert Played(one(0.03, streams=streams), {0.0: {X: 1}}, arrivals).total.dropped == dropped


def test_a_request_that_cannot_be_in_time_is_dropped() -> None:
    played = Played(one(0.05, seconds=0.03), {0.0: {X: 1}}, [(1.0, "x"), (1.0, "x"), (1.02, "x")])
    assert (played.total.completed, played.total.dropped, played.total.late) == (2, 1, 0)
    assert summary(played.counts, 10.0, "script")["timely_quality"] == pytest.approx(2 / 3)


def test_what_a_policy_sees() -> None:
    played = Played(one(0.05, seconds=0.03), {0.0: {X: 1}}, [(1.0, "x"), (1.0, "x"), (1.02, "x")], end=3.0)
    first, second, third, fourth = played.script.seen
    assert (first.at, first.rates) == (0.0, {"x": 1.0})  # of the trace's first seconds
    assert (second.at, second.rates) == (1.0, {"x": 0.0})
    assert third.rates == {"x": 3.0}
    assert (third.completed, third.violations) == ({"x": 2}, {"x": 1})
    assert third.busy == {"h": pytest.approx(0.06)}
    assert third.slowness == {X: pytest.approx(1.0)}
    assert (fourth.rates, fourth.slowness) == ({"x": 0.0}, {})
    assert second.holding == second.ready == {X: 1}


def test_calls_that_take_longer_are_seen_to() -> None:
    played = Played(one(), {0.0: {X: 1}}, [(1.5, "x")], events=[Event(1.0, "slowdown", "h", 2.5)])
    assert played.script.seen[2].slowness == {X: pytest.approx(2.5)}


def test_shares_are_dealt_out_and_spill_when_a_queue_is_full() -> None:
    made = world(
        [Group("h", "d", 1), Group("i", "d", 1)], [rung("x", "v", seconds=0.1, batches=(1,))], x=Aim("x", 0.35)
    )
    plans = {0.0: {X: 3, ("i", "x", "v"): 1}}  # three shares to one; there is one host each
    spread = Played(made, plans, [(1.0 + 0.5 * n, "x") for n in range(8)])
    assert [round(h.busy_seconds, 6) for h in _hosts(spread)] == [0.0, 0.0]  # a tick empties them
    burst = Played(made, plans, [(1.0, "x")] * 6)
    assert (burst.total.completed, burst.total.dropped) == (6, 0)  # 3 of 0.1 s on each are in time; 4 would not be


def _hosts(played: Played) -> list:  # type: ignore[type-arg]
    return [h for hosts in played.replay.cluster.hosts.values() for h in hosts]


def test_a_host_that_dies_gives_its_requests_to_the_others() -> None:
    events = [Event(1.01, "hosts", "h", 1)]
    arrivals = [(1.0, "x")] * 6
    played = Played(one(count=2), {0.0: {X: 2}}, arrivals, events=events)
    assert (played.total.arrived, played.total.completed, played.total.dropped) == (6, 6, 0)
    assert [h.alive for h in _hosts(played)] == [True, False]
    assert played.script.seen[2].holding == {X: 1}
    assert played.script.seen[2].world.groups[0].count == 1
    # With all of them gone there is nobody to give them to.
    gone = Played(one(count=2), {0.0: {X: 2}}, arrivals, events=[Event(1.01, "hosts", "h", 0)])
    assert (gone.total.completed, gone.total.dropped) == (0, 6)


def test_a_host_that_comes_back_is_empty_until_something_is_loaded() -> None:
    events = [Event(1.5, "hosts", "h", 0), Event(2.5, "hosts", "h", 1)]
    played = Played(one(0.05), {0.0: {X: 1}, 4.0: {X: 1}}, [(n + 0.9, "x") for n in range(8)], events=events)
    assert [played.at(n).completed for n in range(8)] == [1, 0, 0, 0, 0, 1, 1, 1]
    assert (played.counts.swaps, played.counts.flaps) == (1, 0)


def test_events_before_the_start_are_in_force_and_those_after_the_end_never_happen() -> None:
    events = [Event(0.0, "hosts", "h", 1), Event(1e9, "neighbour_bytes", "h", 1e12)]
    played = Played(
        one(count=2, memory_bytes=200 * MIB), {100.0: {X: 1}}, [(100.5, "x")], start=100.0, end=105.0, events=events
    )
    assert [s.at for s in played.script.seen] == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert played.script.seen[0].world.groups[0].count == 1
    assert played.total.completed == 1
    assert played.counts.over_seconds == 0.0


def test_what_is_under_way_at_the_end_ends() -> None:
    late = [Event(5.001, "hosts", "h", 0)]
    played = Played(one(), {0.0: {X: 1}}, [(5.0, "x")] * 5, end=5.0, events=late)
    assert (played.total.completed, played.total.dropped) == (5, 0)


def test_requests_that_are_sent_again_take_their_place_by_arrival() -> None:
    cluster = Played(one(), {0.0: {X: 1}}, []).replay.cluster
    (host,) = cluster.hosts["h"]
    host.busy = 1
    host.queues["x"].waiting.extend([2.0, 4.0, 5.0])
    cluster.send(6.0, "x", [4.5, 1.0, 3.0, 6.0])
    assert list(host.queues["x"].waiting) == [1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0]


def test_seconds_over_a_memory_budget_are_counted_to_the_moment_and_by_host() -> None:
    made = one(count=2, memory_bytes=200 * MIB, reserve_bytes=50 * MIB)
    events = [Event(2.25, "neighbour_bytes", "h", 60 * MIB), Event(4.0, "neighbour_bytes", "h", 50 * MIB)]
    assert Played(made, {0.0: {X: 2}}, [], events=events).counts.over_seconds == pytest.approx(2 * 1.75)
    assert Played(made, {0.0: {X: 1}}, [], events=events).counts.over_seconds == pytest.approx(1.75)
    endless = [Event(7.5, "memory_bytes", "h", 149 * MIB)]  # less the reserve that is 99
    assert Played(made, {0.0: {X: 1}}, [], events=endless).counts.over_seconds == pytest.approx(2.5)
    assert (
        Played(made, {0.0: {X: 1}}, [], events=[Event(1.0, "memory_bytes", "h", 150 * MIB)]).counts.over_seconds == 0.0
    )


def test_a_model_that_nobody_holds_waits_as_long_as_it_could_be_in_time() -> None:
    plans: dict[float, dict[Seat, int]] = {0.0: {}, 3.0: {X: 1}}  # loaded at 4.0
    arrivals = [(1.5, "x"), (2.5, "x"), (3.5, "x")]
    patient = Played(one(), plans, arrivals)
    assert (patient.total.completed, patient.total.dropped) == (3, 0)
    assert patient.at(4).completed == 3
    hasty = Played(one(1.0), plans, arrivals)
    assert (hasty.total.completed, hasty.total.dropped) == (1, 2)
    never = Played(one(), {}, arrivals)
    assert (never.total.completed, never.total.dropped) == (0, 3)


seats = [(g, m, v) for g in ("alone", "shared") for m in "xyz" for v in ("big", "small")]
plans = st.dictionaries(st.sampled_from(seats), st.integers(1, 2), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.integers(0, 8).map(float), plans, min_size=1),
    st.lists(st.tuples(st.floats(0, 9.5), st.sampled_from("xyz")), max_size=60),
    st.lists(
        st.one_of(
            st.builds(
                Event, st.floats(0, 12), st.just("hosts"), st.sampled_from(["alone", "shared"]), st.integers(0, 2)
            ),
            st.builds(Event, st.floats(0, 12), st.just("slowdown"), st.just("alone"), st.floats(0.5, 4)),
            st.builds(Event, st.floats(0, 12), st.just("neighbour_bytes"), st.just("shared"), st.floats(0, 2e8)),
            st.builds(Event, st.floats(0, 12), st.just("memory_bytes"), st.just("alone"), st.floats(4e7, 2e8)),
        ),
        max_size=5,
    ),
    st.sampled_from([0.05, 1.5, math.inf]),
)
def test_every_request_is_completed_or_dropped_whatever_happens(
    script: dict[float, dict[Seat, int]], arrivals: list[tuple[float, str]], events: list[Event], slo: float
) -> None:
    groups = [Group("alone", "d", 2, 200 * MIB, exclusive=True), Group("shared", "d", 2, 260 * MIB, streams=2)]
    rungs = [
        rung(m, v, quality=q, mib=mib, load=load)
        for m in "xyz"
        for v, q, mib, load in (("big", 1.0, 100, 1.2), ("small", 0.9, 40, 0.4))
    ]
    made = world(groups, rungs, **{m: Aim(m, slo) for m in "xyz"})
    played = Played(made, script, arrivals, events=events)
    total = played.total
    assert total.arrived == len(arrivals)
    assert total.completed + total.dropped == total.arrived
    assert total.late <= total.completed
    assert 0.9 * total.completed - 1e-6 <= total.quality <= total.completed + 1e-6
    assert played.counts.over_seconds >= 0.0
    assert played.counts.flaps <= played.counts.swaps
    for host in _hosts(played):
        held = sum(host.occupied(m) for m in {*host.queues, *host.loading})
        assert host.used == pytest.approx(held, abs=1.0)
        assert host.busy == 0
        assert not host.pending
    if not events:
        assert played.counts.over_seconds == 0.0
