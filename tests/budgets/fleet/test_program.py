"""Plans against every plan there is, and what a plan never breaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.fleet import program, sift
from budgets.fleet.highs import Program
from budgets.fleet.improve import Improver
from budgets.fleet.options import options_of
from budgets.fleet.program import solve
from budgets.fleet.table import Demand, Table, Terms
from budgets.fleet.world import Aim, Group, World
from tests.budgets.fleet.worlds import (
    MIB,
    broken_promises,
    cost_of,
    every_plan,
    random_case,
    rung,
    world,
)

KINDS = ("exclusive", "shared", "mixed")
EXACT = Terms(unserved=20.0, gap=0.0, slack=0.0, nodes=100_000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_no_plan_there_is_costs_less(kind: str, seed: int) -> None:
    made, demand, now, terms = random_case(seed, kind)
    least = min(cost_of(made, demand, now, terms, plan) for plan in every_plan(made, options_of(made, now)))
    placement = solve(made, demand, now, terms)
    # The solver's tolerance of what is whole (1e-6) times the dearest price, which is that of thawing a host.
    assert placement.cost == pytest.approx(least, rel=1e-6, abs=1e-5)
    assert cost_of(made, demand, now, terms, placement.hosts) == pytest.approx(least, rel=1e-6, abs=1e-5)
    assert broken_promises(made, demand, placement, terms.fill) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_sifted_bound_is_below_every_plan(kind: str, seed: int) -> None:
    made, demand, now, terms = random_case(seed, kind)
    options = options_of(made, now)
    sifted = sift.sift(Table.of(made, demand, now, options), terms)
    assert sifted is not None
    for plan in every_plan(made, options):
        assert sifted.bound <= cost_of(made, demand, now, terms, plan) + 1e-7


@pytest.mark.parametrize("seed", range(20))
def test_improving_never_worsens_and_reckons_as_the_program_does(seed: int) -> None:
    made, demand, now, terms = random_case(seed, "exclusive")
    options = options_of(made, now)
    table = Table.of(made, demand, now, options)
    improver = Improver(table, terms)
    better = improver.run(table.now)
    seats = [o.seat for o in options]
    plans = [{s: int(n) for s, n in zip(seats, counts, strict=True) if n} for counts in (table.now, better)]
    before, after = (cost_of(made, demand, now, terms, plan) for plan in plans)
    assert after <= before + 1e-9
    assert sum(improver._costs) / table.total == pytest.approx(after, rel=1e-6, abs=2e-6)
    # On its own solution the program's cost is the improver's too.
    placement = solve(made, demand, now, terms)
    improver.run(np.array([float(placement.hosts.get(s, 0)) for s in seats]))
    assert sum(improver._costs) / table.total == pytest.approx(placement.cost, rel=1e-6, abs=2e-6)


rates = st.floats(0, 300)
memories = st.integers(20, 400)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[World, Demand, dict[tuple[str, str, str], int]]:
    """Up to three groups and six models; memory and compute often too little."""
    groups = []
    for i in range(draw(st.integers(1, 3))):
        room = draw(memories) * MIB
        reserve = draw(st.sampled_from([0, 30])) * MIB
        streams, exclusive = draw(st.integers(1, 3)), draw(st.booleans())
        groups.append(Group(f"g{i}", f"d{i % 2}", draw(st.integers(0, 4)), room, reserve, streams, exclusive))
    rungs, aims = [], {}
    for name in "abcdef"[: draw(st.integers(1, 6))]:
        for device in ("d0", "d1"):
            for v in range(draw(st.integers(1, 4))):
                rungs.append(
                    rung(
                        name,
                        f"v{v}",
                        device=device,
                        quality=draw(st.floats(0.2, 1.0)),
                        mib=draw(memories),
                        seconds=draw(st.floats(0.001, 0.2)),
                        load=draw(st.floats(0.1, 5.0)),
                    )
                )
        aims[name] = Aim(
            name,
            draw(st.sampled_from([0.05, 0.3, float("inf")])),
            draw(st.sampled_from([0.1, 1.0, 5.0])),
            draw(st.sampled_from([-float("inf"), 0.5])),
            draw(st.sampled_from([None, None, None, "v0"])),
            draw(st.booleans()),
        )
    expected = {m: draw(rates) for m in aims}
    demand = Demand(expected, {m: r * draw(st.floats(1.0, 3.0)) for m, r in expected.items()})
    made = World(tuple(groups), tuple(rungs), aims)
    seats = [o.seat for o in options_of(made)]
    now = {s: draw(st.integers(1, 2)) for s in seats if draw(st.booleans())} if draw(st.booleans()) else {}
    return made, demand, now


@settings(max_examples=120, deadline=None)
@given(fleets(), st.booleans(), st.booleans())
def test_every_plan_keeps_every_promise(
    fleet: tuple[World, Demand, dict[tuple[str, str, str], int]], large: bool, dear: bool
) -> None:
    made, demand, now = fleet
    terms = Terms(swap_price=0.05 if dear else 0.0, frozen=now if dear else {})
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(program, "LARGE", 3)
            patch.setattr(program, "CORES", (0, 1, 3, 6))
        placement = solve(made, demand, now, terms)
    assert broken_promises(made, demand, placement, terms.fill) == []
    assert placement.gap >= 0


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_what_must_stay_resident_does_where_there_is_room(
    fleet: tuple[World, Demand, dict[tuple[str, str, str], int]],
) -> None:
    made, _, now = fleet
    aims = {m: replace(a, park=False) for m, a in made.aims.items()}
    hosts = sum(g.count for g in made.groups)
    made = replace(made, aims=aims)
    placement = solve(made, Demand(dict.fromkeys(aims, 0.0)), now, EXACT)
    able = {o.rung.model for o in options_of(made)}
    if hosts and len(able) == 1:
        assert {s[1] for s in placement.hosts} == able
    placed = {s[1] for s in placement.hosts}
    for group in made.groups:
        used = sum(n for s, n in placement.hosts.items() if s[0] == group.name)
        spare = sum(made.rung(s).memory_bytes * n for s, n in placement.hosts.items() if s[0] == group.name)
        for option in options_of(made):
            if option.group is group and option.rung.model not in placed:
                free = group.room_bytes * group.count - spare
                assert used >= group.count if group.exclusive else option.rung.memory_bytes > free


def two_models(room: float) -> World:
    return world(
        [Group("h", "d", 1, room * MIB)],
        [rung("x", "big", mib=100), rung("y", "big", mib=100)],
        x=Aim("x", 0.2, weight=1.0, park=False),
        y=Aim("y", 0.2, weight=2.0, park=False),
    )


def test_memory_never_gives_way_and_the_lighter_model_does() -> None:
    placement = solve(two_models(150), Demand({"x": 5.0, "y": 5.0}), {}, EXACT)
    assert placement.hosts == {("h", "y", "big"): 1}
    assert placement.unserved == {"x": pytest.approx(5.0)}
    # Also when it is there already and is what memory has been taken from.
    held = {("h", "x", "big"): 1, ("h", "y", "big"): 1}
    assert solve(two_models(150), Demand({"x": 5.0, "y": 5.0}), held, EXACT).hosts == {("h", "y", "big"): 1}


def test_without_a_solution_in_time_what_fits_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "solve", lambda *_, **__: None)
    held = {("h", "x", "big"): 1, ("h", "y", "big"): 1}
    assert solve(two_models(150), Demand({"x": 5.0, "y": 5.0}), held).hosts == {("h", "y", "big"): 1}
    assert solve(two_models(250), Demand({"x": 5.0, "y": 5.0}), held).hosts == held


def fast_and_good(count: int = 1) -> World:
    """One request after another: the good variant serves 50 in a second, the fast one 200."""
    return world(
        [Group("h", "d", count, exclusive=True)],
        [
            rung("x", "good", seconds=0.02, batches=(1,), load=10.0),
            rung("x", "fast", quality=0.9, seconds=0.005, batches=(1,), load=10.0),
        ],
    )


def test_a_fast_variant_stands_by_for_a_peak() -> None:
    calm = solve(fast_and_good(2), Demand({"x": 30.0}), {}, EXACT)
    assert calm.hosts == {("h", "x", "good"): 1}
    ready = solve(fast_and_good(2), Demand({"x": 30.0}, {"x": 220.0}), {}, EXACT)
    assert ready.hosts == {("h", "x", "good"): 1, ("h", "x", "fast"): 1}
    assert ready.rates[("h", "x", "good")] == pytest.approx(30.0)


def test_hosts_that_would_be_left_over_stand_where_a_surprise_finds_them() -> None:
    rungs = [
        rung(m, v, quality=q, seconds=s, batches=(1,))
        for m in "xy"
        for v, q, s in (("good", 1.0, 0.02), ("fast", 0.9, 0.005))
    ]
    made = world([Group("h", "d", 4, 600 * MIB, exclusive=True)], rungs, x=Aim("x", 0.2), y=Aim("y", 0.2))
    rates = {"x": 30.0, "y": 10.0}
    idle = solve(made, Demand(rates), {}, EXACT)
    assert idle.hosts == {("h", "x", "good"): 1, ("h", "y", "good"): 1}
    spread = solve(made, Demand(rates, beyond=({"x": 60.0, "y": 20.0},)), {}, EXACT)
    assert sum(n for s, n in spread.hosts.items() if s[1] == "x") == 2
    assert spread.rates == {("h", "x", "good"): pytest.approx(30.0), ("h", "y", "good"): pytest.approx(10.0)} | {
        s: pytest.approx(0.0) for s in spread.hosts if s[2] == "fast"
    }
    # Not at the price of what is expected: with two hosts both serve it at full quality.
    two = replace(made, groups=(replace(made.groups[0], count=2),))
    assert solve(two, Demand(rates, beyond=({"x": 60.0, "y": 20.0},)), {}, EXACT).hosts == idle.hosts


def test_a_swap_is_made_when_it_pays() -> None:
    now = {("h", "x", "good"): 1}
    demand = Demand({"x": 49.0})  # 1.5 requests a second are beyond FILL of the good one
    assert solve(fast_and_good(), demand, now, EXACT).hosts == {("h", "x", "fast"): 1}
    dear = replace(EXACT, swap_price=0.05)  # 2,000 requests missed while loading, at 0.05 each
    assert solve(fast_and_good(), demand, now, dear).hosts == now
    # What was changed a moment ago costs more to change again: here it turns the scale.
    cheap = replace(EXACT, swap_price=0.01)
    assert solve(fast_and_good(), demand, now, cheap).hosts == {("h", "x", "fast"): 1}
    assert solve(fast_and_good(), demand, now, replace(cheap, frozen=now)).hosts == now
    fast = frozenset([("h", "x", "fast")])
    assert solve(fast_and_good(), demand, now, replace(cheap, left=fast)).hosts == now
    # Requests that nobody would serve outweigh it.
    assert solve(fast_and_good(), Demand({"x": 190.0}), now, replace(cheap, left=fast)).hosts == dict.fromkeys(fast, 1)


def test_a_swap_of_an_idle_model_costs_little() -> None:
    now = {("h", "x", "fast"): 1}
    dear = replace(EXACT, swap_price=0.12)
    # The fast one serves up to 200. A quarter as busy, a host is missed an eighth as much and the good one gains a quarter.
    assert solve(fast_and_good(), Demand({"x": 10.0}), now, dear).hosts == {("h", "x", "good"): 1}
    assert solve(fast_and_good(), Demand({"x": 40.0}), now, dear).hosts == now


def test_a_host_that_no_other_can_stand_in_for_costs_more_to_change() -> None:
    held = {("h", "x", "fast"): 1}
    dear = replace(EXACT, lost_price=0.1)
    # The fast one serves 40 requests a second alone: 40 are lost for a second, at 0.1 each, to gain a tenth of 40.
    assert solve(fast_and_good(), Demand({"x": 39.0}), held, EXACT).hosts == {("h", "x", "good"): 1}
    assert solve(fast_and_good(), Demand({"x": 39.0}), held, replace(EXACT, lost_price=0.2)).hosts == held
    # Beside another fast one nothing is lost.
    two = {("h", "x", "fast"): 2}
    made = solve(fast_and_good(2), Demand({"x": 39.0}), two, replace(dear, lost_price=10.0))
    assert made.hosts.get(("h", "x", "good"), 0) >= 1


def test_of_two_equal_plans_the_nearer_one_wins() -> None:
    made = world([Group("h", "d", 1), Group("i", "d", 1)], [rung("x", "v")])
    for held in ("h", "i"):
        now = {(held, "x", "v"): 1}
        assert solve(made, Demand({"x": 1.0}), now, EXACT).hosts == now


def test_pins_and_floors_leave_no_other_choice() -> None:
    made = fast_and_good()
    demand = Demand({"x": 150.0})
    assert solve(made, demand, {}, EXACT).hosts == {("h", "x", "fast"): 1}
    pinned = replace(made, aims={"x": Aim("x", 0.2, pin="good")})
    assert solve(pinned, demand, {}, EXACT).hosts == {("h", "x", "good"): 1}
    floored = replace(made, aims={"x": Aim("x", 0.2, floor=0.95)})
    placement = solve(floored, demand, {}, EXACT)
    assert placement.hosts == {("h", "x", "good"): 1}
    assert placement.unserved["x"] == pytest.approx(150.0 - 0.95 * 50.0)


@pytest.mark.parametrize(
    ("aim", "group"),
    [
        (Aim("x", slo_seconds=0.001, park=False), Group("h", "d", 1)),
        (Aim("x", floor=1.1, park=False), Group("h", "d", 1)),
        (Aim("x", park=False), Group("h", "d", 1, 50 * MIB)),
        (Aim("x", park=False), Group("h", "d", 1, 50 * MIB, exclusive=True)),
        (Aim("x", park=False), Group("h", "d", 0)),
    ],
    ids=["too slow", "floor too high", "too large", "too large alone", "no hosts"],
)
def test_a_model_that_cannot_be_anywhere_is_unserved_and_nobody_else_suffers(aim: Aim, group: Group) -> None:
    one = [rung("x", "v", mib=100)]
    alone = world([group], one, x=aim)
    assert solve(alone, Demand({"x": 7.0}), {}).unserved == {"x": pytest.approx(7.0)}
    both = world([group, Group("i", "e", 1)], [*one, rung("y", "v", device="e")], x=aim)
    placement = solve(both, Demand({"x": 7.0, "y": 3.0}), {})
    assert placement.hosts == {("i", "y", "v"): 1}
    assert placement.unserved == {"x": pytest.approx(7.0)}


def test_large_programs_are_near_the_best_and_say_how_near(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    models = [f"m{i:02d}" for i in range(30)]
    rungs = [
        rung(m, f"v{v}", quality=1.0 - 0.05 * v * float(draw.random()), mib=size / (1 + v), seconds=0.01 / (1 + v))
        for m in models
        for size in [float(draw.uniform(50, 150))]
        for v in range(3)
    ]
    made = world([Group("h", "d", 3, 600 * MIB, streams=4)], rungs)
    demand = Demand({m: float(draw.uniform(1, 40)) for m in models})
    exact = solve(made, demand, {}, EXACT)
    monkeypatch.setattr(program, "LARGE", 10)
    sifted = solve(made, demand, {}, Terms(slack=0.0))
    assert sifted.cost <= exact.cost * 1.01 + 1e-9
    assert exact.cost <= sifted.cost + 1e-9
    assert sifted.cost * (1 - sifted.gap) <= exact.cost + 1e-9
