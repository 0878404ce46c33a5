"""Recording -> report: numbers, checks, and both in words. Pure.

`report.json` (times in seconds, sizes in bytes):

    requests   total, failed, answered; by_model, by_protocol, by_variant; errors: the most frequent ones
    models     names
    phases     for each pressure phase
        name, kind, trigger, enter; entered_at, relieved_at, eased_at, started_at, ended_at: seconds since the start
        foreseen_at       when models had degraded ahead of the trigger (null: they had not)
        pressure_peak     highest usage / limit, or p99 / objective, that the controller saw
        relief_seconds    from the trigger's entering (or from foreseen_at) until the pressure is below the threshold for good
                          (null: never)
        swaps             in order; bytes are positive in the swap's own direction (given back by a degrade)
        p99_…_seconds     as clients saw it, of the model under pressure or (memory) of all; before: the traffic before the
                          phase; during: from the pressure's beginning to its relief; relieved: the last seconds
                          before the cause goes, with models degraded; after: once everything is restored
        quality_…         of what runs, mean weighted by the models' weights; during: the lowest
    bytes      planned, measured, ratio: sums over all swaps
    checks     name, passed, detail
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from budgets.plan import Swap
from budgets.snapshot import SwapRecord
from examples.demo import measure
from examples.demo.record import Failure, Phase, Recording

LEAST_REQUESTS = 3000
LEAST_BYTES_RATIO = 0.7
MOST_RELIEF_SECONDS = 15.0
#: Traffic before a phase that counts as "before", and after the last restore as "after".
MARGIN_SECONDS = 8.0
ERRORS = 10
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PHASES = ("memory", "latency")


class Check(NamedTuple):
    """One thing that must be so."""

    name: str
    passed: bool
    detail: str


def make(recording: Recording) -> dict[str, Any]:
    """The report, JSON-able."""
    answers, failures = recording.answers, recording.failures
    phases = [phase_report(recording, phase) for phase in recording.phases]
    swaps = [swap for phase in phases for swap in phase["swaps"]]
    planned, measured = (sum(s[key] or 0 for s in swaps) for key in ("bytes_planned", "bytes_measured"))
    report = {
        "requests": {
            "total": recording.sent,
            "failed": recording.sent - len(answers),
            "answered": len(answers),
            "by_model": dict(collections.Counter(a.model for a in answers)),
            "by_protocol": dict(collections.Counter(a.protocol for a in answers)),
            "by_variant": dict(sorted(collections.Counter(f"{a.model}/{a.variant}" for a in answers).items())),
            "errors": errors(failures),
        },
        "models": sorted(recording.models),
        "phases": phases,
        "bytes": {"planned": planned, "measured": measured, "ratio": measured / planned if planned else None},
        "seconds": recording.ended - recording.started,
        "traffic_cpu_seconds": recording.traffic_cpu_seconds,
        "problems": list(recording.problems),
    }
    report["checks"] = [check._asdict() for check in checks(report)]
    return report


def errors(failures: Iterable[Failure]) -> list[str]:
    """The most frequent errors, each in one line with how often it came."""
    counts = collections.Counter(f"{f.model} ({f.protocol}): {one_line(f.error)}" for f in failures)
    return [f"{count} times {text}" for text, count in counts.most_common(ERRORS)]


def one_line(text: str) -> str:
    """Without terminal colours and line breaks."""
    return " ".join(COLOURS.sub("", text).split())


def phase_report(recording: Recording, phase: Phase) -> dict[str, Any]:
    """One phase's part of the report."""
    enter = recording.bounds[phase.trigger].enter
    entered = measure.entered(recording.moments, phase)
    foreseen = measure.foreseen(recording.moments, phase)
    relieved = measure.relieved(recording.moments, phase, enter)
    begun = entered if foreseen is None else foreseen
    swaps = phase_swaps(recording, phase)
    restored = max((s["ended_at"] for s in swaps if s["direction"] == "restore" and s["ended_at"]), default=None)
    eased = phase.eased if phase.eased is not None else phase.ended
    moments = measure.within(recording.moments, phase.started, phase.ended)
    qualities = [measure.quality(recording.models, m.variants) for m in moments]

    def p99(start: float | None, end: float | None) -> float | None:
        if start is None or end is None:
            return None
        return measure.p99(measure.between(recording.answers, start, end, phase.model))

    def since(at: float | None) -> float | None:
        return None if at is None else round(at - recording.started, 3)

    return {
        "name": phase.name,
        "kind": phase.kind,
        "trigger": phase.trigger,
        "enter": enter,
        "started_at": since(phase.started),
        "entered_at": since(entered),
        "foreseen_at": since(foreseen),
        "relieved_at": since(relieved),
        "eased_at": since(phase.eased),
        "restored_at": since(restored),
        "ended_at": since(phase.ended),
        "pressure_peak": measure.peak(recording.moments, phase),
        "swaps": [{**s, "started_at": since(s["started_at"]), "ended_at": since(s["ended_at"])} for s in swaps],
        "relief_seconds": None if begun is None or relieved is None else round(relieved - begun, 3),
        "slo_seconds": recording.models[phase.model].slo_seconds if phase.model else None,
        "p99_before_seconds": p99(phase.started - MARGIN_SECONDS, phase.pressed),
        "p99_during_seconds": p99(phase.pressed, relieved if relieved is not None else eased),
        "p99_relieved_seconds": None if relieved is None else p99(max(relieved, eased - measure.PROOF_SECONDS), eased),
        "p99_after_seconds": p99(restored, phase.ended),
        "quality_before": measure.quality(recording.models, phase.variants),
        "quality_during": min(qualities, default=None),
        "quality_after": qualities[-1] if qualities else None,
        "restored": bool(moments) and moments[-1].variants == phase.variants,
    }


def phase_swaps(recording: Recording, phase: Phase) -> list[dict[str, Any]]:
    """The swaps planned during a phase with what came of them, in the order of the plans."""
    records: dict[tuple[int, str], list[SwapRecord]] = collections.defaultdict(list)
    for decision in recording.decisions:
        for record in decision.outcomes:
            records[(record.generation, record.model)].append(record)
    return [
        _swap(swap, decision.at, records.get((decision.plan.generation, swap.model), []))
        for decision in recording.decisions
        if phase.started <= decision.at <= phase.ended
        for swap in decision.plan.swaps
    ]


def _swap(swap: Swap, planned_at: float, records: list[SwapRecord]) -> dict[str, Any]:
    """One planned swap: bytes and the longest time over all hosts; `unknown` where no host said how it ended."""
    outcomes = {r.outcome for r in records}
    worst = next((o for o in ("failed", "rolled_back", "done") if o in outcomes), "unknown")
    return {
        "model": swap.model,
        "direction": swap.direction,
        "from": swap.from_variant,
        "to": swap.to_variant,
        "mode": records[0].mode if records else swap.mode,
        "seconds": max((r.seconds for r in records), default=None),
        "bytes_planned": swap.bytes_planned * max(1, len(records)),
        "bytes_measured": sum(r.bytes_measured for r in records) if records else None,
        "outcome": worst,
        "trigger": swap.trigger,
        "reason": swap.reason,
        "planned_at": planned_at,
        "started_at": min((r.started for r in records), default=None),
        "ended_at": max((r.started + r.seconds for r in records), default=None),
    }


def checks(report: Mapping[str, Any]) -> list[Check]:
    """Everything that must hold for the demo to have shown what it is for."""
    requests, phases = report["requests"], {phase["name"]: phase for phase in report["phases"]}
    found = [
        Check("no request failed", requests["failed"] == 0, f"{requests['failed']} of {requests['total']}"),
        Check(f"at least {LEAST_REQUESTS} requests", requests["total"] >= LEAST_REQUESTS, f"{requests['total']} sent"),
        Check("every turn happened", not report["problems"], "; ".join(report["problems"]) or "in time"),
    ]
    for name in PHASES:
        if name not in phases:
            found.append(Check(f"{name}: the phase took place", False, "it did not"))
            continue
        found += _phase_checks(phases[name])
    swaps = [swap for phase in report["phases"] for swap in phase["swaps"]]
    undone = [f"{s['model']} {s['outcome']}" for s in swaps if s["outcome"] != "done"]
    found.append(Check("every swap was carried out", not undone, ", ".join(undone) or f"{len(swaps)} swaps"))
    ratio = report["bytes"]["ratio"]
    detail = "no swaps" if ratio is None else f"{ratio:.0%} of {report['bytes']['planned'] / 2**20:.0f} MiB planned"
    name = f"at least {LEAST_BYTES_RATIO:.0%} of the planned bytes were measured"
    found.append(Check(name, ratio is not None and ratio >= LEAST_BYTES_RATIO, detail))
    return found


def _phase_checks(phase: Mapping[str, Any]) -> list[Check]:
    name, top = phase["name"], phase["pressure_peak"]
    ahead = phase["foreseen_at"] is not None
    pressure = "never read" if top is None else f"pressure up to {top:.2f}, threshold {phase['enter']:.2f}"
    found = [
        Check(
            f"{name}: the trigger was entered, or foreseen",
            ahead or (phase["entered_at"] is not None and top is not None and top >= phase["enter"]),
            f"foreseen, {pressure}" if ahead else pressure,
        )
    ]
    done = [s for s in phase["swaps"] if s["outcome"] == "done"]
    down = [f"{s['model']} to {s['to']}" for s in done if s["direction"] == "degrade"]
    back = [f"{s['model']} to {s['to']}" for s in done if s["direction"] == "restore"]
    found.append(Check(f"{name}: degraded", bool(down), ", ".join(down) or "nothing was"))
    relief = phase["relief_seconds"]
    found.append(
        Check(
            f"{name}: relieved within {MOST_RELIEF_SECONDS:.0f} s",
            relief is not None and relief <= MOST_RELIEF_SECONDS,
            "never" if relief is None else f"{relief:.1f} s after {'it was foreseen' if ahead else 'the trigger'}",
        )
    )
    if phase["slo_seconds"] is not None:
        late, objective = phase["p99_relieved_seconds"], phase["slo_seconds"]
        found.append(
            Check(
                f"{name}: p99 back inside the objective under the same load",
                late is not None and late <= objective,
                "no traffic" if late is None else f"{late * 1e3:.0f} ms of {objective * 1e3:.0f} ms",
            )
        )
    back_on_top = phase["restored"] and bool(back)
    found.append(Check(f"{name}: restored", back_on_top, ", ".join(back) or "nothing was"))
    return found
