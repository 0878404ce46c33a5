"""What a tick decides: swaps and holds under a generation number, and the record of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from budgets.config import BudgetsConfig
from budgets.outlook import Outlook
from budgets.overrides import Override
from budgets.snapshot import Counted, Mode, Serving, Shadow, Snapshot, Staged, SwapRecord
from variants.catalog import Frozen

TriggerState = Literal["calm", "scaling", "saturated"]
Direction = Literal["degrade", "restore", "pin", "repair", "rollback"]
#: Which hosts a swap is for: all at once, one before the others, or the others after it.
Stage = Literal["all", "first", "rest"]


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
    `rollback`: the variant did not keep what was expected of it. `hosts`: those that a swap of stage `first` is for.
    `ahead`: it stands without the pressure: that would come faster than the swap, or a quick step has relieved it.
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
    stage: Stage = "all"
    hosts: tuple[str, ...] = ()
    ahead: bool = False


class Hold(Frozen):
    """A step not taken, and why."""

    model: str
    variant: str | None
    reason: str


class Alternative(Frozen):
    """One way that was considered: the models that would change and to what, the weighted quality loss of the whole
    assignment (what is minimised), and the limits it would miss. `chosen`: it is the plan."""

    changes: Mapping[str, str | None]
    cost: float
    misses: tuple[str, ...] = ()
    chosen: bool = False
    note: str = ""


class Plan(Frozen):
    """The assignment of a variant (None: parked) to every model, how hosts serve it, and how it differs from the one before.

    A plan whose `swaps` are empty keeps the generation of the plan in force, unless `serving` changes. `staged`: models
    that some hosts run another variant of, on trial. `infeasible`: what could not be kept, most severe first:
    `rollback:<model>` (nothing that may run fits), budgets by name, then latency objectives as `slo:<model>` (see
    `budgets.degrade`). `alternatives`: what else was considered, cheapest first. `gap`: how far the joint choice may be
    from the best, as a share of its cost; 1 where the solver had found none in time, and nothing was changed.
    """

    generation: int
    assignment: Mapping[str, str | None]
    modes: Mapping[str, Mode] = {}
    swaps: tuple[Swap, ...] = ()
    holds: tuple[Hold, ...] = ()
    staged: Mapping[str, Staged] = {}
    serving: Mapping[str, Serving] = {}
    infeasible: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    gap: float = 0.0


class Step(Frozen):
    """A degradation that has not been restored yet: `model` left `from_variant` because of `trigger`."""

    model: str
    from_variant: str | None
    to_variant: str | None
    trigger: str
    at: float


class Quarantine(Frozen):
    """A variant that is not planned: one that failed to load, before `until`; one that computed something else, failed
    requests or was slower than before (`until` None), until an operator clears it or its artefact changes (`checksum`)."""

    model: str
    variant: str | None
    reason: str
    until: float | None = None
    checksum: str = ""
    since: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether it is in force."""
        return self.until is None or self.until > now


class Verification(Frozen):
    """A swap that was handed over and is being watched: what was expected of it, and what it is compared with.

    `hosts`: those on trial (empty: all). `ended_at` None: not seen done on all of them yet; `start`: their counts then.
    `service`: seconds of an engine call for one sample, `latency`: seconds at the objective's quantile; None: not known.
    `elsewhere`: the other models' observed service when the swap was planned. `verdict`: what is to be done next.
    """

    model: str
    from_variant: str | None
    to_variant: str | None
    direction: Direction
    trigger: str
    generation: int
    planned_at: float
    hosts: tuple[str, ...] = ()
    ended_at: float | None = None
    start: Mapping[str, Counted] = {}
    bytes_predicted: int = 0
    usage_before: Mapping[str, float] = {}
    service_before: float | None = None
    service_predicted: float | None = None
    latency_before: float | None = None
    latency_predicted: float | None = None
    errors_before: float = 0.0
    elsewhere: Mapping[str, float] = {}
    verdict: Literal["", "promote", "roll_back"] = ""
    reason: str = ""


class Verdict(Frozen):
    """How a watched swap came out: prediction and measurement side by side. Bytes are per host, in the swap's own
    direction; `usage_*` by memory budget; `errors` is engine errors per request since the swap."""

    model: str
    from_variant: str | None
    to_variant: str | None
    generation: int
    result: Literal["kept", "promoted", "rolled_back", "superseded", "abandoned"]
    reason: str = ""
    bytes_predicted: int = 0
    bytes_measured: int | None = None
    usage_before: Mapping[str, float] = {}
    usage_after: Mapping[str, float] = {}
    service_before: float | None = None
    service_predicted: float | None = None
    service_observed: float | None = None
    latency_before: float | None = None
    latency_predicted: float | None = None
    latency_observed: float | None = None
    errors: float | None = None
    shadow: Shadow | None = None


class Broke(Frozen):
    """A model left its SLO on this variant at this rate (requests per second), the last time of `times` at `at`."""

    model: str
    variant: str
    rate: float
    at: float = 0.0
    times: int = 1


class Learned(Frozen):
    """How a variant does against its profile here: factors on an engine call's seconds and on the predicted tail."""

    service: float = 1.0
    tail: float = 1.0
    ticks: int = 0


class LatencyCheck(Frozen):
    """Predicted against observed latency (seconds, at the objective's quantile) of the variant in force; `error` is
    predicted / observed - 1. The factors are `Learned`'s, after this tick."""

    model: str
    variant: str
    predicted: float
    observed: float
    error: float
    service_factor: float
    tail_factor: float


class Memory(Frozen):
    """What the planner remembers between ticks.

    `steps` is a stack: the last degradation is restored first. `moved`: the bytes that a swap took or gave back when it
    was last done, on one host, by `model: from -> to`. `ended_at`: when a swap was last seen to have ended; a budget's
    reading from before that does not show what it gave back. `learned`: by `model/variant`. `restored_at`, `regrets`: by
    `model/variant`, when it was last restored, and how often in a row it then had to be left again soon. `planned`: when
    swaps were planned, within the last hour. `told_at`: when hosts were last told to serve otherwise. `quick`: a step taken
    alone since a budget was used up, to be reconsidered.
    """

    steps: tuple[Step, ...] = ()
    quarantined: tuple[Quarantine, ...] = ()
    broke: tuple[Broke, ...] = ()
    swapped_at: Mapping[str, float] = {}
    planned_at: float = 0.0
    ended_at: float = 0.0
    moved: Mapping[str, int] = {}
    verifying: tuple[Verification, ...] = ()
    learned: Mapping[str, Learned] = {}
    restored_at: Mapping[str, float] = {}
    regrets: Mapping[str, int] = {}
    planned: tuple[float, ...] = ()
    told_at: float = 0.0
    quick: Step | None = None


class Decision(Frozen):
    """One line of the journal: what was seen, what was concluded, what was done, and what came of it.

    `outcomes` are the swaps that ended since the line before, `verdicts` the watched swaps that were judged,
    `latency` how the latency model did; `memory`, `pins`, `overrides` (of budgets, by name) and `triggers` are the
    controller's state after the tick, from which it recovers. `before` (the memory that was planned with), `outlook`,
    `config` (None: the line before's) and `inputs` (fingerprint of configuration and catalog) are what else `plan` got:
    `budgets.rerun` makes it again. `proposed`: the plan before a fresh look dropped swaps from it; None: nothing was
    dropped.
    """

    at: float
    snapshot: Snapshot | None
    pressures: tuple[Pressure, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    plan: Plan
    outcomes: tuple[SwapRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    latency: tuple[LatencyCheck, ...] = ()
    outlook: Outlook = Outlook()
    before: Memory | None = None
    proposed: Plan | None = None
    config: BudgetsConfig | None = None
    inputs: str = ""
    pins: Mapping[str, str | None] = {}
    overrides: Mapping[str, Override] = {}
    memory: Memory = Memory()
    error: str = ""
