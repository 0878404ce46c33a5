"""Everything observed at one tick, frozen. Times are unix seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from budgets.config import DEFAULT_GROUP
from variants.catalog import Frozen


class Reading(Frozen):
    """A value and when it was true."""

    value: float
    at: float


class Missing(Frozen):
    """The declared absence of a value, and why."""

    reason: str


Observed = Reading | Missing


class Usage(Frozen):
    """One budget's usage and limit, in the budget's own unit (bytes, or a fraction of 1 for utilisation)."""

    budget: str
    usage: Observed
    limit: Observed


class ModelReadings(Frozen):
    """One model over the source's window, summed over the hosts that are planned together (latency: the merged histogram's quantile).

    rate: answered requests per second. latency: seconds at the SLO's quantile. queue: requests waiting.
    busy: engine seconds per second. service: mean engine seconds per sample. resident: measured bytes, per host.
    """

    model: str
    rate: Observed
    latency: Observed
    queue: Observed
    busy: Observed
    service: Observed


class Readings(Frozen):
    """What a Source returns."""

    at: float
    budgets: tuple[Usage, ...]
    models: tuple[ModelReadings, ...]


Mode = Literal["make_before_break", "break_before_make"]
Outcome = Literal["done", "rolled_back", "failed"]


class Shadow(Frozen):
    """What a sample of live requests said of a swap: their inputs, run again on `variant`, against the answers that
    `reference` (in force then) had given. `distance` in [0, 1] by the model's metric, over all sampled rows; `suspect` is the
    variant held to be wrong where it is above `tolerance`, else empty."""

    variant: str
    reference: str
    requests: int
    rows: int
    distance: float
    tolerance: float
    suspect: str = ""


class Counted(Frozen):
    """What a host has counted of the variant in force of one model since the host started: requests answered, engine
    errors, seconds inside engine calls, and samples through them."""

    variant: str
    answered: int = 0
    errors: int = 0
    engine_seconds: float = 0.0
    samples: int = 0


class SwapRecord(Frozen):
    """One finished swap on one host. `from_variant`/`to_variant` None: parked. Bytes are positive in the swap's own
    direction: given back by a degrade, taken by a restore. `reason` says why it failed or rolled back; `refuted`: since it
    computed something else than it should. `shadow` None: no live request was at hand to compare. `counted`: of
    `to_variant`, before it was switched to."""

    generation: int
    model: str
    from_variant: str | None
    to_variant: str | None
    mode: Mode
    started: float
    seconds: float
    bytes_measured: int
    outcome: Outcome
    reason: str = ""
    refuted: bool = False
    shadow: Shadow | None = None
    counted: Counted | None = None


class Serving(Frozen):
    """How hosts serve one model: `batch`: rows that an engine call may join (None: as many as the model allows); its latency
    `objective` in seconds (None: it has none); its `weight`."""

    batch: int | None = None
    objective: float | None = None
    weight: float = 1.0


class HostState(Frozen):
    """One model host as it reports itself. `variants`: what each model runs now (None: parked). `swapping`: models in
    the middle of a swap. `swaps`: the last finished ones, oldest first. `device`: the fingerprint of its machine.
    `counts`: by model. `shapes`: how many different ones each model's engine calls have had of late. `group`: the hosts that
    are planned together with it; `node`: the cluster's id of its machine.
    `serving`: what plans have told it of models; of the others its own configuration holds. `unloaded`: models that are out
    of service on request, after so many `orders` to load or unload one. `told`: the generation and the number of orders that
    it was told last, followed or not, since one that is older than what it follows is not; None: it does not say. `streams`: engine
    calls that its cores carry at once."""

    host: str
    pid: int
    at: float
    observed_generation: int
    variants: Mapping[str, str | None]
    swapping: tuple[str, ...] = ()
    failed: Mapping[str, str] = {}
    swaps: tuple[SwapRecord, ...] = ()
    metrics_url: str = ""
    device: str = ""
    counts: Mapping[str, Counted] = {}
    shapes: Mapping[str, int] = {}
    serving: Mapping[str, Serving] = {}
    group: str = DEFAULT_GROUP
    node: str = ""
    unloaded: tuple[str, ...] = ()
    orders: int = 0
    told: tuple[int, int] | None = None
    streams: int = 1

    def lacks(self, plan: int) -> bool:
        """It was last told something older than that plan, or than the orders that it has followed."""
        return self.told is not None and (self.told[0] < plan or self.told[1] < self.orders)


class Staged(Frozen):
    """A variant of one model that only these hosts run, before the others follow."""

    variant: str | None
    hosts: tuple[str, ...]


class Snapshot(Frozen):
    """One tick's observation: readings, hosts, and the plan in force when it was taken (`staged`: what some hosts run
    instead of the assignment, on trial; `serving`: how they serve it). `absent`: hosts that answered a short while ago and did not now."""

    at: float
    readings: Readings
    hosts: tuple[HostState, ...]
    generation: int
    assignment: Mapping[str, str | None]
    pins: Mapping[str, str | None] = {}
    staged: Mapping[str, Staged] = {}
    serving: Mapping[str, Serving] = {}
    absent: tuple[str, ...] = ()

    @property
    def streams(self) -> int:
        """Engine calls that the cores of every host carry at once."""
        return min((h.streams for h in self.hosts), default=1)

    def shapes(self, model: str) -> int | None:
        """How many different ones a model's engine calls have had of late, on the host where they are most; None where none
        says so."""
        return max((h.shapes[model] for h in self.hosts if model in h.shapes), default=None)
