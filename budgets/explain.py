"""The controller's state and decisions in words and numbers, for people and programs. JSON-able values only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from budgets.batches import largest
from budgets.config import BudgetsConfig
from budgets.plan import Decision, Swap, Verdict
from budgets.snapshot import Observed, Reading, SwapRecord
from variants.catalog import Catalog

LINES = 60


def status(
    catalog: Catalog, config: BudgetsConfig, last: Decision | None, pins: Mapping[str, str | None]
) -> dict[str, Any]:
    """Budgets with pressure and trigger, models with what they run and their ladder, hosts, the last decision. A model's
    `cause`: the trigger that it was last degraded for, and has not been restored since."""
    snapshot = last.snapshot if last else None
    triggers = {t.name: t for t in last.triggers} if last else {}
    thresholds = config.thresholds()
    budgets = [
        {
            "name": p.name,
            "state": triggers[p.name].state if p.name in triggers else "calm",
            "since": triggers[p.name].since if p.name in triggers else None,
            "ratio": p.ratio,
            "usage": p.usage,
            "limit": p.limit,
            "enter": thresholds[p.name].enter,
            "exit": thresholds[p.name].exit,
            "slope": p.slope,
            "seconds_to_exhaustion": p.seconds_to_exhaustion,
            "missing": p.missing,
        }
        for p in (last.pressures if last else ())
    ]
    lines = {line.model: line for line in snapshot.readings.models} if snapshot else {}
    assignment = last.plan.assignment if last else {}
    told = last.plan.serving if last else {}
    unloaded = {name for host in snapshot.hosts for name in host.unloaded} if snapshot else set()
    causes = {step.model: step.trigger for step in last.memory.steps} if last else {}
    models = {}
    for name, entry in catalog.entries.items():
        variant = assignment.get(name)
        shapes = snapshot.shapes(name) if snapshot else None
        ladder = [_rung(catalog, name, rung, shapes) for rung in entry.ladder.rungs]
        running = entry.variants.get(variant or "")
        profile = running.profile(catalog.device) if running else None
        line = lines.get(name)
        policy = config.policy(name)
        most = largest(entry.model, config)
        models[name] = {
            "variant": variant,
            "rung": entry.ladder.rungs.index(variant) if variant in entry.ladder.rungs else None,
            "ladder": ladder,
            "quality": profile.quality if profile else None,
            "cause": causes.get(name),
            "resident_bytes": profile.host_bytes(shapes) if profile else None,
            "rate": _value(line.rate) if line else None,
            "latency": _value(line.latency) if line else None,
            "batch": min(told[name].batch or most, most) if name in told else most,
            "slo": policy.slo.latency_seconds if policy.slo else None,
            "quantile": policy.slo.quantile if policy.slo else 0.99,
            "pinned": name in pins or policy.pin is not None,
            "unloaded": name in unloaded,
        }
    hosts = [h.model_dump(mode="json", exclude={"swaps"}) for h in snapshot.hosts] if snapshot else []
    return {
        "at": last.at if last else None,
        "generation": last.plan.generation if last else None,
        "budgets": budgets,
        "models": models,
        "hosts": hosts,
        "pins": dict(pins),
        "holds": [h.model_dump(mode="json") for h in last.plan.holds] if last else [],
        "infeasible": list(last.plan.infeasible) if last else [],
        "quarantined": [q.model_dump(mode="json") for q in last.memory.quarantined] if last else [],
        "error": last.error if last else "no tick yet",
    }


def _rung(catalog: Catalog, model: str, variant: str, shapes: int | None) -> dict[str, Any]:
    profile = catalog.entries[model].variants[variant].profile(catalog.device)
    if profile is None:
        return {"variant": variant, "quality": None, "resident_bytes": None, "p50_seconds": None}
    return {
        "variant": variant,
        "quality": profile.quality,
        "resident_bytes": profile.host_bytes(shapes) + profile.device_bytes,
        "p50_seconds": profile.batches[0].p50_seconds if profile.batches else None,
    }


def _value(observed: Observed) -> float | None:
    return observed.value if isinstance(observed, Reading) else None


def explain(recent: Iterable[Decision], last: Decision | None, model: str | None) -> dict[str, Any]:
    """Sentences, oldest first, and the decisions they come from: swaps with their outcomes, trigger changes, holds."""
    lines: list[str] = []
    states: dict[str, str] = {}
    for decision in recent:
        when = datetime.fromtimestamp(decision.at, UTC).strftime("%H:%M:%S")
        for trigger in decision.triggers:
            if states.get(trigger.name, "calm") != trigger.state and _about(trigger.name, model):
                ratio = next((p.ratio for p in decision.pressures if p.name == trigger.name), None)
                at = "" if ratio is None else f" at {ratio:.2f}"
                lines.append(f"{when} {trigger.name}: {states.get(trigger.name, 'calm')} -> {trigger.state}{at}")
            states[trigger.name] = trigger.state
        lines += [f"{when} {sentence(s)}" for s in decision.plan.swaps if model in (None, s.model)]
        lines += [f"{when} {text}" for name, text in served(decision) if model in (None, name)]
        lines += [f"{when} {outcome(r)}" for r in decision.outcomes if model in (None, r.model)]
        lines += [f"{when} {verdict(v)}" for v in decision.verdicts if model in (None, v.model)]
        if decision.plan.infeasible:
            lines.append(f"{when} cannot be kept: {', '.join(decision.plan.infeasible)}")
        if decision.error and model is None:
            lines.append(f"{when} error: {decision.error}")
    holds = [h for h in (last.plan.holds if last else ()) if model in (None, h.model) or h.model == "*"]
    lines = lines[-LINES:]
    lines += [f"now: {'all models' if h.model == '*' else h.model}: {h.reason}" for h in holds]
    if last is not None and model is not None:
        lines.append(f"now: {model} runs {last.plan.assignment.get(model) or 'nothing (parked)'}")
    return {"lines": lines or ["nothing has happened yet"], "holds": [h.model_dump(mode="json") for h in holds]}


def _about(trigger: str, model: str | None) -> bool:
    return model is None or not trigger.startswith("slo:") or trigger == f"slo:{model}"


def sentence(swap: Swap) -> str:
    """A planned swap in words."""
    change = f"{swap.from_variant or 'parked'} -> {swap.to_variant or 'parked'}"
    if swap.stage != "all":
        change += f" on {', '.join(swap.hosts)} first" if swap.stage == "first" else " on the others"
    size = f"{swap.bytes_planned / 2**20:.0f} MiB"
    quality = f"quality {swap.quality_from:.4f} -> {swap.quality_to:.4f}"
    return f"{swap.direction} {swap.model}: {change} ({swap.mode.replace('_', ' ')}, {size}, {quality}): {swap.reason}"


def served(decision: Decision) -> Iterator[tuple[str, str]]:
    """Models that a plan has served otherwise than before, each with how, in words."""
    before = decision.snapshot.serving if decision.snapshot else decision.plan.serving
    for model, now in decision.plan.serving.items():
        if now != before.get(model):
            rows = "as many rows as the model allows" if now.batch is None else f"up to {now.batch} rows"
            aim = "no objective" if now.objective is None else f"objective {now.objective * 1e3:g} ms"
            yield model, f"serve {model}: {rows} a call, {aim}, weight {now.weight:g}"


def outcome(record: SwapRecord) -> str:
    """A finished swap in words."""
    change = f"{record.from_variant or 'parked'} -> {record.to_variant or 'parked'}"
    size = f"{record.bytes_measured / 2**20:.0f} MiB measured"
    why = f": {record.reason}" if record.reason else ""
    return f"{record.outcome.replace('_', ' ')} {record.model}: {change} in {record.seconds:.2f} s, {size}{why}"


def verdict(found: Verdict) -> str:
    """How a watched swap came out, in words."""
    change = f"{found.from_variant or 'parked'} -> {found.to_variant or 'parked'}"
    parts = [f"{found.bytes_predicted / 2**20:.0f} MiB predicted"]
    if found.bytes_measured is not None:
        parts.append(f"{found.bytes_measured / 2**20:.0f} MiB measured")
    for name, predicted, observed in (
        ("call", found.service_predicted, found.service_observed),
        ("latency", found.latency_predicted, found.latency_observed),
    ):
        if predicted is not None and observed is not None:
            parts.append(f"{name} {predicted * 1e3:.1f} ms predicted, {observed * 1e3:.1f} ms observed")
    why = f": {found.reason}" if found.reason else ""
    return f"{found.result.replace('_', ' ')} {found.model}: {change} ({', '.join(parts)}){why}"
