"""What a tick decides: swaps and holds under a generation number, and the record of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from budgets.snapshot import Mode, Snapshot, SwapRecord
from variants.catalog import Frozen

TriggerState = Literal["calm", "scaling", "saturated"]
Direction = Literal["degrade", "restore", "pin", "repair"]


class Pressure(Frozen):
    """usage / limit of a budget, or latency / objective of a model's SLO (`slo:<model>`), with its trend.

    `ratio` None: the reading is missing or stale, and `missing` says why. `seconds_to_exhaustion` None: not rising.
    """

    name: str
    ratio: float | None
    usage: float | None = None
    limit: float | None = None
    slope: float = 0.0
    seconds_to_exhaustion: float | None = None
    missing: str = ""


class Trigger(Frozen):
    """A trigger's state: since when in it, and since when its pressure has been past the threshold that would leave it."""

    name: str
    state: TriggerState = "calm"
    since: float = 0.0
    pending_since: float | None = None


class Swap(Frozen):
    """A planned change of one model's variant. `bytes_planned` is positive in the swap's own direction and per host.

    `repair`: hosts run different variants of the model since one of them could not follow the plan; all go where it is.
    """

    model: str
    from_variant: str | None
    to_variant: str | None
    direction: Direction
    mode: Mode
    bytes_planned: int
    quality_from: float
    quality_to: float
    trigger: str
    reason: str


class Hold(Frozen):
    """A step not taken, and why. `unrelieved`: the triggers that no allowed step relieves."""

    model: str
    variant: str | None
    reason: str
    unrelieved: tuple[str, ...] = ()


class Plan(Frozen):
    """The assignment of a variant (None: parked) to every model, and how it differs from the one before.

    A plan whose `swaps` are empty keeps the generation of the plan in force.
    """

    generation: int
    assignment: Mapping[str, str | None]
    modes: Mapping[str, Mode] = {}
    swaps: tuple[Swap, ...] = ()
    holds: tuple[Hold, ...] = ()


class Step(Frozen):
    """A degradation that has not been restored yet: `model` left `from_variant` because of `trigger`."""

    model: str
    from_variant: str | None
    to_variant: str | None
    trigger: str
    at: float


class Quarantine(Frozen):
    """A variant that failed to load or to pass its canary check is not planned again before `until`."""

    model: str
    variant: str | None
    reason: str
    until: float


class Broke(Frozen):
    """A model left its SLO on this variant at this rate (requests per second)."""

    model: str
    variant: str
    rate: float


class Memory(Frozen):
    """What the planner remembers between ticks.

    `steps` is a stack: the last degradation is restored first. `moved`: the bytes that a swap took or gave back when it
    was last done, on one host, by `model: from -> to`. `ended_at`: when a swap was last seen to have ended; a budget's
    reading from before that does not show what it gave back.
    """

    steps: tuple[Step, ...] = ()
    quarantined: tuple[Quarantine, ...] = ()
    broke: tuple[Broke, ...] = ()
    swapped_at: Mapping[str, float] = {}
    planned_at: float = 0.0
    ended_at: float = 0.0
    moved: Mapping[str, int] = {}


class Decision(Frozen):
    """One line of the journal: what was seen, what was concluded, what was done, and what came of it.

    `outcomes` are the swaps that ended since the line before; `memory`, `pins` and `triggers` are the controller's state
    after the tick, from which it recovers.
    """

    at: float
    snapshot: Snapshot | None
    pressures: tuple[Pressure, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    plan: Plan
    outcomes: tuple[SwapRecord, ...] = ()
    pins: Mapping[str, str | None] = {}
    memory: Memory = Memory()
    error: str = ""
