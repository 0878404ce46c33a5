"""Everything observed at one tick, frozen. Times are unix seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
    """One model over the source's window, summed over all hosts (latency: the merged histogram's quantile).

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


class SwapRecord(Frozen):
    """One finished swap on one host. `from_variant`/`to_variant` None: parked. Bytes are positive in the swap's own
    direction: given back by a degrade, taken by a restore. `reason` says why it failed or rolled back."""

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


class HostState(Frozen):
    """One model host as it reports itself. `variants`: what each model runs now (None: parked). `swapping`: models in
    the middle of a swap. `swaps`: the last finished ones, oldest first. `device`: the fingerprint of its machine."""

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


class Snapshot(Frozen):
    """One tick's observation: readings, hosts, and the plan in force when it was taken."""

    at: float
    readings: Readings
    hosts: tuple[HostState, ...]
    generation: int
    assignment: Mapping[str, str | None]
    pins: Mapping[str, str | None] = {}
