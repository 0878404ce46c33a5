"""What the hosts really run against what the plan says, and what is learned from swaps that ended. Pure.

The plan in force is what was asked for. Hosts depart from it: a swap rolls back, a variant does not load after a restart,
a request wakes a parked model. The planner works from what runs, so that is taken over; a variant that failed is put
aside for a while.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence

from budgets.plan import Memory, Quarantine
from budgets.snapshot import HostState, Shadow, SwapRecord
from variants.catalog import Catalog
from variants.pareto import on_device

#: A quick step is reconsidered for that long.
QUICK_SECONDS = 30.0
Variants = Mapping[str, str | None]


def measured_on(catalog: Catalog, hosts: Sequence[HostState]) -> Catalog:
    """The catalog by the profiles of the machine that runs the models, which need not be the one that plans; the same one
    where it has those."""
    devices = sorted({h.device for h in hosts if h.device})
    return on_device(catalog, devices[0]) if devices and catalog.device not in devices else catalog


def departures(assignment: Variants, hosts: Sequence[HostState], model: str) -> tuple[str | None, ...]:
    """The variants other than the assigned one that hosts run a model on (None: not resident there)."""
    running = {h.variants[model] for h in hosts if model in h.variants}
    return tuple(sorted(running - {assignment.get(model)}, key=str))


def learn(
    memory: Memory,
    assignment: Variants,
    outcomes: Sequence[SwapRecord],
    hosts: Sequence[HostState],
    generation: int,
    quarantine_seconds: float,
    now: float,
    catalog: Catalog | None = None,
) -> Memory:
    """The memory after these outcomes: failed variants quarantined for `quarantine_seconds` (those whose outputs were
    wrong: until their artefact in `catalog` changes), degradations that did not happen forgotten, and what each swap
    moved remembered.

    A host that runs another variant than a plan it has reached, and says that something failed, is taken by its word
    even where no swap was recorded (a variant that did not load at its start).
    """
    bad = [r for r in outcomes if r.outcome != "done" and r.generation == generation]
    failed = {(r.model, r.to_variant): r.reason for r in bad}
    refuted = {(r.model, r.to_variant) for r in bad if r.refuted}
    for record in outcomes:  # live answers of the variant before the swap were the ones that were wrong
        shadow = record.shadow
        if shadow is not None and shadow.suspect and shadow.suspect == record.from_variant:
            failed[(record.model, shadow.suspect)] = f"shadow: {words(shadow)}"
            refuted.add((record.model, shadow.suspect))
    for host in hosts:
        if host.observed_generation != generation:
            continue
        for model, reason in host.failed.items():
            wanted = assignment.get(model)
            if wanted is not None and model not in host.swapping and host.variants.get(model) not in (wanted, None):
                failed.setdefault((model, wanted), reason)
    known = {(q.model, q.variant) for q in memory.quarantined}
    fresh = tuple(
        Quarantine(
            model=model,
            variant=variant,
            reason=reason,
            until=None if (model, variant) in refuted else now + quarantine_seconds,
            checksum=checksum(catalog, model, variant) if (model, variant) in refuted else "",
            since=now,
        )
        for (model, variant), reason in failed.items()
        if (model, variant) not in known
    )
    moved = dict(memory.moved)
    for record in outcomes:
        if record.outcome == "done":
            moved[moved_key(record.model, record.from_variant, record.to_variant)] = record.bytes_measured
    steps = tuple(s for s in memory.steps if (s.model, s.to_variant) not in failed)
    return memory.model_copy(
        update={
            "quarantined": (*memory.quarantined, *fresh),
            "steps": steps,
            "moved": moved,
            "ended_at": now if outcomes else memory.ended_at,
        }
    )


def words(shadow: Shadow) -> str:
    """A comparison of live answers in words."""
    return (
        f"{shadow.variant} and {shadow.reference} are {shadow.distance:.3f} apart on {shadow.requests} live requests "
        f"({shadow.rows} rows), tolerated {shadow.tolerance:.3f}"
    )


def checksum(catalog: Catalog | None, model: str, variant: str | None) -> str:
    """What changes when a variant's files do; empty where it is not known."""
    entry = catalog.entries.get(model) if catalog else None
    if entry is None or variant is None or variant not in entry.variants:
        return ""
    files = json.dumps(sorted(entry.variants[variant].files.items()))
    return hashlib.sha256(files.encode()).hexdigest()[:16]


def forget(memory: Memory, now: float, catalog: Catalog | None = None) -> Memory:
    """The memory without quick steps that are old, and without quarantines that have run out or whose variant has other
    files in `catalog` than it had."""
    kept = tuple(
        q
        for q in memory.quarantined
        if q.holds(now) and (not q.checksum or catalog is None or q.checksum == checksum(catalog, q.model, q.variant))
    )
    quick = memory.quick if memory.quick is None or now - memory.quick.at <= QUICK_SECONDS else None
    if len(kept) == len(memory.quarantined) and quick == memory.quick:
        return memory
    return memory.model_copy(update={"quarantined": kept, "quick": quick})


def adopt(
    assignment: Variants, hosts: Sequence[HostState], generation: int, trials: Collection[str] = ()
) -> dict[str, str | None]:
    """The assignment with what all hosts agree to run instead, once they have reached the plan; models on trial aside.

    A model that is nowhere resident though it should be is not taken as parked: it was unloaded by hand, or no variant
    of it loads. Nothing changes while a host is on its way or swaps the model.
    """
    taken = dict(assignment)
    if not hosts or any(h.observed_generation < generation for h in hosts):
        return taken
    for model in assignment:
        running = {h.variants.get(model) for h in hosts}
        if (
            model not in trials
            and len(running) == 1
            and None not in running
            and not any(model in h.swapping for h in hosts)
        ):
            taken[model] = running.pop()
    return taken


def moved_key(model: str, from_variant: str | None, to_variant: str | None) -> str:
    """The key of `Memory.moved`."""
    return f"{model}: {from_variant or 'parked'} -> {to_variant or 'parked'}"
