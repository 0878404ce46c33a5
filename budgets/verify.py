"""Watching swaps: what was expected of one against what came of it. Pure.

A swap that was handed over is watched for `verify_seconds`. Engine errors, calls slower than before and than predicted,
or live answers that differ too much roll it back and put the variant aside until an operator clears it or its artefact
changes. What it gave back or took is compared with what was predicted and written down; a wrong estimate of bytes alone
takes nothing back. With several hosts the first to run it is on trial for `stage_seconds` before the others follow.

A host's own counts of the variant are used, so other variants' requests are not blamed on it; and a slowdown that other
models see as well (a neighbour on the CPU) is not its fault.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from budgets.config import BudgetsConfig
from budgets.latency import call_seconds
from budgets.options import View
from budgets.plan import Memory, Plan, Quarantine, Swap, Verdict, Verification
from budgets.reality import checksum, words
from budgets.snapshot import Counted, HostState, Reading, Snapshot, SwapRecord
from variants.catalog import Catalog

#: Engine errors that a variant must have made, and the share of its requests, before it is blamed.
LEAST_ERRORS = 3
ERROR_SHARE = 0.01
#: Samples that must have gone through it before its speed is judged, and a difference that is none, seconds.
LEAST_SAMPLES = 20
LEAST_SECONDS = 0.001


def begin(
    memory: Memory, done: Plan, snapshot: Snapshot, view: View, catalog: Catalog, config: BudgetsConfig, now: float
) -> Memory:
    """The memory once a plan was handed over: its swaps are watched from now on, those they replace no longer."""
    moved = {s.model for s in done.swaps}
    kept = [v for v in memory.verifying if v.model not in moved]
    fresh = [
        _expect(swap, done, snapshot, view, catalog, config, now)
        for swap in done.swaps
        if swap.direction in ("degrade", "restore", "pin") and swap.to_variant is not None
    ]
    return memory.model_copy(update={"verifying": (*kept, *fresh)})


def _expect(
    swap: Swap, done: Plan, snapshot: Snapshot, view: View, catalog: Catalog, config: BudgetsConfig, now: float
) -> Verification:
    lines = {line.model: line for line in snapshot.readings.models}
    serving = {m: line.service.value for m, line in lines.items() if isinstance(line.service, Reading)}
    latency = lines[swap.model].latency if swap.model in lines else None
    entry = catalog.entries.get(swap.model)
    found = entry.variants.get(swap.to_variant or "") if entry else None
    profile = found.profile(catalog.device) if found else None
    option = view.option(swap.model, swap.to_variant)
    slo = config.policy(swap.model).slo
    predicted = None
    if option is not None:
        seconds = view.predict({**view.current, swap.model: option}, swap.model, slo.quantile if slo else 0.99)
        predicted = seconds if seconds < float("inf") else None  # NaN too: not known
    memory_budgets = {b.name for b in config.budgets if b.resource in ("ram", "gpu_memory")}
    staged = done.staged.get(swap.model)
    return Verification(
        model=swap.model,
        from_variant=swap.from_variant,
        to_variant=swap.to_variant,
        direction=swap.direction,
        trigger=swap.trigger,
        generation=done.generation,
        planned_at=now,
        hosts=staged.hosts if staged else (),
        bytes_predicted=swap.bytes_planned,
        usage_before=_usage(snapshot, memory_budgets),
        service_before=serving.get(swap.model),
        service_predicted=call_seconds(profile) * view.factor(swap.model, swap.to_variant) if profile else None,
        latency_before=latency.value if isinstance(latency, Reading) else None,
        latency_predicted=predicted,
        errors_before=_error_share([h.counts[swap.model] for h in snapshot.hosts if swap.model in h.counts]),
        elsewhere={m: s for m, s in serving.items() if m != swap.model},
    )


def _usage(snapshot: Snapshot, names: set[str]) -> dict[str, float]:
    return {
        u.budget: u.usage.value for u in snapshot.readings.budgets if u.budget in names and isinstance(u.usage, Reading)
    }


def _error_share(counts: Sequence[Counted]) -> float:
    errors = sum(c.errors for c in counts)
    return errors / max(1, errors + sum(c.answered for c in counts))


def review(
    memory: Memory,
    snapshot: Snapshot,
    catalog: Catalog,
    config: BudgetsConfig,
    now: float,
) -> tuple[Memory, tuple[Verdict, ...]]:
    """Look at every watched swap again: the memory with what is to be done about it (`Verification.verdict`, which the
    planner carries out) and its quarantines, and the verdicts that were reached now."""
    kept: list[Verification] = []
    verdicts: list[Verdict] = []
    quarantined = list(memory.quarantined)
    for watched in memory.verifying:
        if watched.verdict:  # the planner has not got round to it
            kept.append(watched)
            continue
        after, verdict = _review(watched, snapshot, catalog, config, now)
        if verdict is not None:
            verdicts.append(verdict)
        if after is None:
            continue
        kept.append(after)
        if after.verdict == "roll_back":
            bad = Quarantine(
                model=after.model,
                variant=after.to_variant,
                reason=after.reason,
                checksum=checksum(catalog, after.model, after.to_variant),
                since=now,
            )
            quarantined = [q for q in quarantined if (q.model, q.variant) != (bad.model, bad.variant)] + [bad]
    steps = memory.steps
    bad_steps = {(v.model, v.to_variant) for v in kept if v.verdict == "roll_back"}
    if bad_steps:
        steps = tuple(s for s in steps if (s.model, s.to_variant) not in bad_steps)
    changed = {"verifying": tuple(kept), "quarantined": tuple(quarantined), "steps": steps}
    return memory.model_copy(update=changed), tuple(verdicts)


def _review(
    watched: Verification, snapshot: Snapshot, catalog: Catalog, config: BudgetsConfig, now: float
) -> tuple[Verification | None, Verdict | None]:
    """What to go on watching (None: nothing), and the verdict where there is one."""
    settings = config.controller
    hosts = [h for h in snapshot.hosts if not watched.hosts or h.host in watched.hosts]
    records = [r for h in hosts for r in h.swaps if (r.generation, r.model) == (watched.generation, watched.model)]

    def verdict(result: str, reason: str) -> Verdict:
        return _verdict(watched, snapshot, hosts, records, result, reason)

    if not hosts and (snapshot.absent or not snapshot.hosts):
        return watched, None
    if not hosts:
        return None, verdict("abandoned", "the host on trial is gone")
    failed = next((r for r in records if r.outcome != "done"), None)
    if failed is not None:  # the host went back by itself; `reality.learn` puts the variant aside
        return None, verdict("rolled_back", failed.reason)
    if not watched.hosts and snapshot.assignment.get(watched.model) != watched.to_variant:
        return None, verdict("superseded", "")
    if watched.ended_at is None:
        arrived = not snapshot.absent and all(
            h.observed_generation >= watched.generation
            and h.variants.get(watched.model) == watched.to_variant
            and watched.model not in h.swapping
            for h in hosts
        )
        if not arrived:
            return watched, None
        start = {h.host: h.counts[watched.model] for h in snapshot.hosts if watched.model in h.counts}
        # Where the host says so: since the switch, not since it was seen.
        start |= {h.host: r.counted for h in hosts for r in h.swaps if r in records and r.counted is not None}
        watched = watched.model_copy(update={"ended_at": now, "start": start})
    since = now - (watched.ended_at or now)
    reason = _disagrees(watched, records) or _fails(watched, hosts)
    if not reason and since >= settings.stage_seconds:
        reason = _slow(watched, snapshot, hosts, config)
    if reason:
        return watched.model_copy(update={"verdict": "roll_back", "reason": reason}), verdict("rolled_back", reason)
    if watched.hosts and since >= settings.stage_seconds:
        return watched.model_copy(update={"verdict": "promote"}), verdict("promoted", f"held for {since:.0f} s")
    if not watched.hosts and since >= settings.verify_seconds:
        return None, verdict("kept", f"held for {since:.0f} s")
    return watched, None


def _disagrees(watched: Verification, records: Sequence[SwapRecord]) -> str:
    for record in records:
        if record.shadow is not None and record.shadow.suspect == watched.to_variant:
            return f"shadow: {words(record.shadow)}"
    return ""


def grown(watched: Verification, hosts: Sequence[HostState]) -> Counted:
    """What the hosts have counted of the variant since the swap ended. A host that restarted counts from nothing."""
    return _grown(watched, hosts, watched.to_variant)


def _grown(watched: Verification, hosts: Sequence[HostState], variant: str | None) -> Counted:
    total = Counted(variant=variant or "")
    for host in hosts:
        now, start = host.counts.get(watched.model), watched.start.get(host.host)
        if now is None or now.variant != variant:
            continue
        if start is None or start.variant != now.variant or start.answered > now.answered:
            start = Counted(variant=now.variant)
        total = Counted(
            variant=now.variant,
            answered=total.answered + now.answered - start.answered,
            errors=total.errors + now.errors - start.errors,
            engine_seconds=total.engine_seconds + now.engine_seconds - start.engine_seconds,
            samples=total.samples + now.samples - start.samples,
        )
    return total


def _fails(watched: Verification, hosts: Sequence[HostState]) -> str:
    counted = grown(watched, hosts)
    share = _error_share([counted])
    if counted.errors < LEAST_ERRORS or share <= max(ERROR_SHARE, 2 * watched.errors_before):
        return ""
    return (
        f"errors: {counted.errors} of {counted.errors + counted.answered} requests since the swap "
        f"({share:.1%}, {watched.errors_before:.1%} before)"
    )


def _slow(watched: Verification, snapshot: Snapshot, hosts: Sequence[HostState], config: BudgetsConfig) -> str:
    """Slower than before and than predicted, by more than others have become slower too. What an operator pinned may be
    slow."""
    observed, samples = _service(watched, hosts)
    known = [s for s in (watched.service_before, watched.service_predicted) if s is not None]
    if observed is None or samples < LEAST_SAMPLES or not known or watched.direction == "pin":
        return ""
    allowed = max(known) * (1.0 + config.controller.verify_tolerance) * _slowdown(watched, snapshot)
    if observed <= max(allowed, max(known) + LEAST_SECONDS):
        return ""
    return (
        f"latency: an engine call takes {observed * 1e3:.1f} ms a sample, at most {allowed * 1e3:.1f} ms "
        f"({_ms(watched.service_before)} before, {_ms(watched.service_predicted)} predicted)"
    )


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _service(watched: Verification, hosts: Sequence[HostState]) -> tuple[float | None, int]:
    counted = grown(watched, hosts)
    return (counted.engine_seconds / counted.samples if counted.samples else None), counted.samples


def _slowdown(watched: Verification, snapshot: Snapshot) -> float:
    """How much slower everything else has become since, at the median: the other models, and the variant before on the
    hosts that still run it. 1 where nothing has or nothing can tell."""
    before = watched.elsewhere
    ratios = [
        line.service.value / before[line.model]
        for line in snapshot.readings.models
        if isinstance(line.service, Reading) and before.get(line.model, 0.0) > 0
    ]
    others = _grown(watched, [h for h in snapshot.hosts if h.host not in watched.hosts], watched.from_variant)
    if watched.hosts and others.samples >= LEAST_SAMPLES and watched.service_before:
        ratios.append(others.engine_seconds / others.samples / watched.service_before)
    return max(1.0, statistics.median(ratios)) if ratios else 1.0


def _verdict(
    watched: Verification,
    snapshot: Snapshot,
    hosts: Sequence[HostState],
    records: Sequence[SwapRecord],
    result: str,
    reason: str,
) -> Verdict:
    measured = [r.bytes_measured for r in records if r.outcome == "done"]
    line = next((m for m in snapshot.readings.models if m.model == watched.model), None)
    counted = grown(watched, hosts)
    return Verdict.model_validate(
        {
            "model": watched.model,
            "from_variant": watched.from_variant,
            "to_variant": watched.to_variant,
            "generation": watched.generation,
            "result": result,
            "reason": reason,
            "bytes_predicted": watched.bytes_predicted,
            "bytes_measured": round(statistics.mean(measured)) if measured else None,
            "usage_before": watched.usage_before,
            "usage_after": _usage(snapshot, set(watched.usage_before)),
            "service_before": watched.service_before,
            "service_predicted": watched.service_predicted,
            "service_observed": _service(watched, hosts)[0],
            "latency_before": watched.latency_before,
            "latency_predicted": watched.latency_predicted,
            "latency_observed": line.latency.value if line and isinstance(line.latency, Reading) else None,
            "errors": _error_share([counted]) if counted.answered + counted.errors else None,
            "shadow": next((r.shadow for r in records if r.shadow is not None), None),
        }
    )
