"""The pure machine: each program as a table, and any order of failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.swap import ENDS, Failed, Ok, Step, SwapState, advance, begin, choose_mode

S = Step


def steps(state: SwapState, fail: set[Step]) -> tuple[list[Step], SwapState]:
    """Every instruction in order when those in `fail` fail."""
    seen = []
    while state.outcome is None:
        seen.append(state.step)
        state = advance(state, Failed(f"no {state.step}") if state.step in fail else Ok())
    return seen, state


MAKE, BREAK = "make_before_break", "break_before_make"
FIRST = [S.LOAD, S.WARM, S.VERIFY]


@pytest.mark.parametrize(
    ("from_variant", "to_variant", "mode", "fail", "expected", "outcome"),
    [
        ("a", "b", MAKE, set(), [*FIRST, S.SWITCH, S.DRAIN, S.FREE], "done"),
        ("a", "b", MAKE, {S.LOAD}, [S.LOAD], "rolled_back"),
        ("a", "b", MAKE, {S.WARM}, [S.LOAD, S.WARM, S.DISCARD], "rolled_back"),
        ("a", "b", MAKE, {S.VERIFY}, [*FIRST, S.DISCARD], "rolled_back"),
        ("a", "b", MAKE, {S.VERIFY, S.DISCARD}, [*FIRST, S.DISCARD], "rolled_back"),
        ("a", "b", MAKE, {S.DRAIN}, [*FIRST, S.SWITCH, S.DRAIN, S.ABANDON], "done"),
        ("a", "b", MAKE, {S.FREE}, [*FIRST, S.SWITCH, S.DRAIN, S.FREE], "done"),
        ("a", "b", BREAK, set(), [S.DRAIN, S.FREE, *FIRST, S.SWITCH], "done"),
        ("a", "b", BREAK, {S.DRAIN}, [S.DRAIN, S.RESUME], "rolled_back"),
        ("a", "b", BREAK, {S.LOAD}, [S.DRAIN, S.FREE, S.LOAD, S.RELOAD, S.RESUME], "rolled_back"),
        ("a", "b", BREAK, {S.VERIFY}, [S.DRAIN, S.FREE, *FIRST, S.DISCARD, S.RELOAD, S.RESUME], "rolled_back"),
        ("a", "b", BREAK, {S.LOAD, S.RELOAD}, [S.DRAIN, S.FREE, S.LOAD, S.RELOAD, S.GIVE_UP], "failed"),
        ("a", "b", BREAK, {S.FREE}, [S.DRAIN, S.FREE, *FIRST, S.SWITCH], "done"),
        (None, "b", MAKE, set(), [*FIRST, S.SWITCH], "done"),
        (None, "b", BREAK, set(), [*FIRST, S.SWITCH], "done"),
        (None, "b", MAKE, {S.LOAD}, [S.LOAD], "rolled_back"),
        ("a", None, MAKE, set(), [S.DRAIN, S.FREE], "done"),
        ("a", None, MAKE, {S.DRAIN}, [S.DRAIN, S.RESUME], "rolled_back"),
        ("a", None, BREAK, {S.FREE}, [S.DRAIN, S.FREE], "done"),
    ],
)
def test_programs(from_variant, to_variant, mode, fail, expected, outcome):
    seen, end = steps(begin(from_variant, to_variant, mode), fail)
    assert seen == expected
    assert end.outcome == outcome
    assert bool(end.reason) == bool(fail)
    for step in fail & set(seen):
        assert f"{step}: no {step}" in end.reason


class World:
    """What carrying the instructions out would do: what is open, what is in force, whether it is refused."""

    def __init__(self, from_variant: str | None) -> None:
        self.open = [] if from_variant is None else ["old"]
        self.in_force = from_variant and "old"
        self.refused = False

    def do(self, step: Step, ok: bool) -> None:
        match step:
            case S.LOAD if ok:
                assert "new" not in self.open
                self.open.append("new")
            case S.RELOAD if ok:
                assert self.open == [], "the old variant is reloaded only when nothing else takes its memory"
                self.open.append("old")
            case S.WARM | S.VERIFY:
                assert "new" in self.open
            case S.SWITCH if ok:
                assert "new" in self.open
                self.in_force = "new"
            case S.RESUME if ok:
                assert "old" in self.open
                self.in_force = "old"
            case S.DRAIN:
                assert "old" in self.open
            case S.FREE:  # closed even when closing raises
                self.open.remove("old")
                if self.in_force == "old":
                    self.in_force = None
            case S.DISCARD:
                assert self.in_force != "new"
                self.open.remove("new")
            case S.ABANDON:
                self.open.remove("old")
            case S.GIVE_UP:
                self.refused = True


@given(
    start=st.sampled_from([("a", "b"), (None, "b"), ("a", None)]),
    mode=st.sampled_from([MAKE, BREAK]),
    results=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_any_failures_end_with_a_serving_engine_or_an_explicit_refusal(start, mode, results):
    from_variant, to_variant = start
    world = World(from_variant)
    state = begin(from_variant, to_variant, mode)
    for ok in results:
        if state.outcome is not None:
            break
        world.do(state.step, ok)
        state = advance(state, Ok() if ok else Failed("no"))
    assert state.outcome is not None, "a swap always ends"
    match state.outcome:
        case "done":
            assert world.in_force == (to_variant and "new")
        case "rolled_back":
            assert world.in_force == (from_variant and "old")
        case "failed":
            assert world.refused
    if not world.refused:
        assert world.open == [x for x in [world.in_force] if x], "only what serves stays resident"
    assert bool(state.reason) or state.outcome == "done"


def test_what_is_over_cannot_go_on():
    for end in ENDS:
        with pytest.raises(ValueError, match="over"):
            advance(SwapState("a", "b", MAKE, end), Ok())
    with pytest.raises(ValueError, match="two different variants"):
        begin("a", "a", MAKE)


@pytest.mark.parametrize(
    ("planned", "needed", "headroom", "expected"),
    [
        (MAKE, 100, 110, MAKE),
        (MAKE, 101, 110, BREAK),
        (MAKE, None, 0, MAKE),
        (BREAK, 1, 10**9, BREAK),
    ],
)
def test_the_mode_follows_the_measured_headroom(planned, needed, headroom, expected):
    assert choose_mode(planned, needed, headroom, 10) == expected
