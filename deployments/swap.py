"""A swap as a state machine: events in, the next instruction out. Pure: who carries the instructions out reports back
whether it went well, and asks `advance` what to do next.

Three programs, by what runs before and after:
  make_before_break  load, warm, verify, switch, drain, free. A failure before the switch discards the new engine; the
                     old one never stopped serving.
  break_before_make  drain (requests wait), free, load, warm, verify, switch. A failure after the free reloads the old
                     variant; only if that fails too is the model unavailable.
  park               drain, free; nothing runs afterwards.
A model that runs nothing (parked, or not started) takes the first program without its last two steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from budgets.snapshot import Mode, Outcome


class Step(StrEnum):
    """What to do now. The last three are ends."""

    LOAD = "load"  # the new variant, beside or after the old one
    WARM = "warm"
    VERIFY = "verify"
    SWITCH = "switch"  # new requests go to the new engine (and those that waited)
    DRAIN = "drain"  # wait for the old engine's calls; where nothing new is in force, hold what arrives
    FREE = "free"  # close the old engine, give memory back
    DISCARD = "discard"  # close the new engine, give memory back
    RELOAD = "reload"  # load the old variant again
    RESUME = "resume"  # serve with the old engine again
    ABANDON = "abandon"  # the old engine is busy still: it is freed when its last call ends
    GIVE_UP = "give_up"  # nothing can serve: answer with the reason
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


ENDS: dict[Step, Outcome] = {Step.DONE: "done", Step.ROLLED_BACK: "rolled_back", Step.FAILED: "failed"}

_Table = dict[Step, tuple[Step, Step]]  # step -> what follows when it went well, and when it failed

_START: _Table = {
    Step.LOAD: (Step.WARM, Step.ROLLED_BACK),
    Step.WARM: (Step.VERIFY, Step.DISCARD),
    Step.VERIFY: (Step.SWITCH, Step.DISCARD),
    Step.SWITCH: (Step.DONE, Step.DISCARD),
    Step.DISCARD: (Step.ROLLED_BACK, Step.ROLLED_BACK),
}
_MAKE_FIRST: _Table = _START | {
    Step.SWITCH: (Step.DRAIN, Step.DISCARD),
    Step.DRAIN: (Step.FREE, Step.ABANDON),
    Step.FREE: (Step.DONE, Step.DONE),
    Step.ABANDON: (Step.DONE, Step.DONE),
}
_BREAK_FIRST: _Table = _START | {
    Step.DRAIN: (Step.FREE, Step.RESUME),
    # An engine that raised while closing is not to be trusted with requests any more.
    Step.FREE: (Step.LOAD, Step.LOAD),
    Step.LOAD: (Step.WARM, Step.RELOAD),
    Step.DISCARD: (Step.RELOAD, Step.RELOAD),
    Step.RELOAD: (Step.RESUME, Step.GIVE_UP),
    Step.RESUME: (Step.ROLLED_BACK, Step.GIVE_UP),
    Step.GIVE_UP: (Step.FAILED, Step.FAILED),
}
_PARK: _Table = {
    Step.DRAIN: (Step.FREE, Step.RESUME),
    Step.FREE: (Step.DONE, Step.DONE),
    Step.RESUME: (Step.ROLLED_BACK, Step.GIVE_UP),
    Step.GIVE_UP: (Step.FAILED, Step.FAILED),
}


@dataclass(frozen=True)
class SwapState:
    """One swap under way: `step` is the instruction to carry out now. `reason` gathers what failed, oldest first."""

    from_variant: str | None
    to_variant: str | None
    mode: Mode
    step: Step
    reason: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """None while there is something left to do."""
        return ENDS.get(self.step)

    @property
    def table(self) -> _Table:
        """The program this swap follows."""
        if self.to_variant is None:
            return _PARK
        if self.from_variant is None:
            return _START
        return _MAKE_FIRST if self.mode == "make_before_break" else _BREAK_FIRST


@dataclass(frozen=True)
class Ok:
    """The instruction was carried out."""


@dataclass(frozen=True)
class Failed:
    """It was not, and why."""

    reason: str


Event = Ok | Failed


def begin(from_variant: str | None, to_variant: str | None, mode: Mode) -> SwapState:
    """The first state of a swap. Raises ValueError when there is nothing to change."""
    if from_variant == to_variant:
        raise ValueError(f"a swap needs two different variants, not {from_variant!r} twice")
    drains_first = to_variant is None or (from_variant is not None and mode == "break_before_make")
    return SwapState(from_variant, to_variant, mode, Step.DRAIN if drains_first else Step.LOAD)


def advance(state: SwapState, event: Event) -> SwapState:
    """What to do after `state.step` ended as `event` says. Raises ValueError when the swap is over already."""
    if state.outcome is not None:
        raise ValueError(f"the swap is over ({state.step})")
    after_ok, after_failure = state.table[state.step]
    if isinstance(event, Ok):
        return replace(state, step=after_ok)
    reason = f"{state.step}: {event.reason}"
    return replace(state, step=after_failure, reason=f"{state.reason}; {reason}" if state.reason else reason)


def choose_mode(planned: Mode, needed: int | None, headroom: int, margin: int) -> Mode:
    """The mode that the memory measured now allows: `needed` bytes (None: unknown) and `margin` must fit into
    `headroom`, else the old engine goes first."""
    if planned == "make_before_break" and needed is not None and needed + margin > headroom:
        return "break_before_make"
    return planned
