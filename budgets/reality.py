"""What the hosts really run against what the plan says, and what is learned from swaps that ended. Pure.

The plan in force is what was asked for. Hosts depart from it: a swap rolls back, a variant does not load after a restart,
a request wakes a parked model. The planner works from what runs, so that is taken over; a variant that failed is put
aside for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from budgets.plan import Memory, Quarantine
from budgets.snapshot import HostState, SwapRecord

Variants = Mapping[str, str | None]


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
) -> Memory:
    """The memory after these outcomes: failed variants quarantined for `quarantine_seconds`, degradations that did not
    happen forgotten, and what each swap moved remembered.

    A host that runs another variant than a plan it has reached, and says that something failed, is taken by its word
    even where no swap was recorded (a variant that did not load at its start).
    """
    failed = {(r.model, r.to_variant): r.reason for r in outcomes if r.outcome != "done" and r.generation == generation}
    for host in hosts:
        if host.observed_generation != generation:
            continue
        for model, reason in host.failed.items():
            wanted = assignment.get(model)
            if wanted is not None and model not in host.swapping and host.variants.get(model) not in (wanted, None):
                failed.setdefault((model, wanted), reason)
    known = {(q.model, q.variant) for q in memory.quarantined}
    fresh = tuple(
        Quarantine(model=model, variant=variant, reason=reason, until=now + quarantine_seconds)
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


def forget(memory: Memory, now: float) -> Memory:
    """The memory without quarantines that have run out."""
    kept = tuple(q for q in memory.quarantined if q.until > now)
    return memory if len(kept) == len(memory.quarantined) else memory.model_copy(update={"quarantined": kept})


def adopt(assignment: Variants, hosts: Sequence[HostState], generation: int) -> dict[str, str | None]:
    """The assignment with what all hosts agree to run instead, once they have reached the plan.

    A model that is nowhere resident though it should be is not taken as parked: it was unloaded by hand, or no variant
    of it loads. Nothing changes while a host is on its way or swaps the model.
    """
    taken = dict(assignment)
    if not hosts or any(h.observed_generation < generation for h in hosts):
        return taken
    for model in assignment:
        running = {h.variants.get(model) for h in hosts}
        if len(running) == 1 and None not in running and not any(model in h.swapping for h in hosts):
            taken[model] = running.pop()
    return taken


def moved_key(model: str, from_variant: str | None, to_variant: str | None) -> str:
    """The key of `Memory.moved`."""
    return f"{model}: {from_variant or 'parked'} -> {to_variant or 'parked'}"
